"""Weights, pictures and networks of the DELF/DELG reference cases, rebuilt from their names."""

import math
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

from delg_training.models.delf import Delf
from delg_training.models.delg import ModelOptions, build_model
from delg_training.models.weights import SUFFIX, named_variables
from tests.golden_recipe import array, load_manifest, load_outputs

SYSTEM = "delg"
NUM_CLASSES = 7


def delg_weight(name: str, shape: tuple[int, ...], prefix: str = "") -> np.ndarray:
    """The reference value of a variable, by the last part of its layer name."""
    kind = name.rsplit("/", 1)[-1]
    if kind == "scale_factor":
        return np.array(45.25, np.float32)
    n = array(prefix + name, tuple(shape)).astype(np.float64)
    if kind in ("kernel", "cosine_weights"):
        n = n * math.sqrt(2.0 / math.prod(shape[:-1]))
    elif kind == "gamma":
        n = (0.5 if "branch2c" in name else 1.0) * (1.0 + 0.1 * n)
    elif kind == "moving_variance":
        n = 0.5 + np.abs(n)
    elif kind in ("bias", "beta", "moving_mean"):
        n = 0.05 * n
    else:
        raise ValueError(f"no rule for {name}")
    return n.astype(np.float32)


def image(name: str, height: int, width: int) -> np.ndarray:
    """uint8 RGB picture of 8x8 blocks of one colour each."""
    rows, columns = -(-height // 8), -(-width // 8)
    base = array(name, (rows, columns, 3)).astype(np.float64)
    full = np.repeat(np.repeat(128.0 + 48.0 * base, 8, axis=0), 8, axis=1)
    return np.clip(np.rint(full), 0, 255).astype(np.uint8)[:height, :width]


def normalised(picture: np.ndarray) -> tf.Tensor:
    """uint8 picture -> float32 in [-1, 1), as networks take it."""
    return tf.constant((picture.astype(np.float32) - 128.0) / 128.0)


@cache
def layout() -> dict[str, dict[str, Any]]:
    """Layer name -> shape, dtype, checkpoint_key of all 336 variables."""
    return load_manifest(SYSTEM, "layout.json")


@cache
def layer_names() -> dict[str, str]:
    """Attribute path -> layer name (`backbone/l2a/conv2a/kernel` -> `backbone/res2a_branch2a/...`).

    `desc_classification` of the plain DELF model, called `desc_fc` there, is not in the layout.
    """
    names = {v["checkpoint_key"].removesuffix(SUFFIX): k for k, v in layout().items()}
    names |= {f"desc_classification/{kind}": f"desc_fc/{kind}" for kind in ("kernel", "bias")}
    return names


def set_reference_weights(model: tf.Module) -> None:
    """Every variable of the model as in the reference cases."""
    for path, variable in named_variables(model):
        variable.assign(delg_weight(layer_names()[path], tuple(variable.shape)))


def golden_model(num_classes: int | None = NUM_CLASSES, **options: Any) -> Delf:
    """The full-size network with the reference weights; `options` of ModelOptions."""
    model = build_model(ModelOptions(**options), num_classes)
    set_reference_weights(model)
    return model


@cache
def golden_outputs(name: str = "model.npz") -> dict[str, np.ndarray]:
    """All arrays of one file of reference answers."""
    return load_outputs(SYSTEM, name)
