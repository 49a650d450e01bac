"""Exported forms of the reference network, and comparison of features row by row."""

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from delg_training.models.delf import Delf
from delg_training.models.export import PyramidModel
from tests.delg_training.golden_models import golden_model

TOLERANCE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}  # of the manifest, for forward outputs
IMAGE = {"input_image": "uint8[None, None, 3]"}  # inputs of the published signatures
FED = {"input_scales": "float32[None]"}
LOCAL = {"input_max_feature_num": "int32[]", "input_abs_thres": "float32[]"}
CHOICE = {"input_global_scales_ind": "int32[None]"}
LOCAL_OUTPUTS = {"boxes", "features", "scales", "scores"}
SWAP_GAP = 3e-4  # rows whose scores differ by less may come in either order


@cache
def reference_network(block3_strides: bool, autoencoder: bool = True) -> Delf:
    """The full-size DELG network without classifiers."""
    if autoencoder:
        return golden_model(None, block3_strides=block3_strides)
    network = copy.copy(reference_network(block3_strides))  # the same variables
    network.autoencoder = None
    return network


def call_eagerly(model: PyramidModel, *arguments: Any) -> dict[str, np.ndarray]:
    """The signature's outputs without the seconds that a graph takes to trace."""
    tensors = [tf.constant(argument) for argument in arguments]
    found = model.serve.python_function(*tensors)  # type: ignore[attr-defined]
    return {name: value.numpy() for name, value in found.items()}


def load_signature(path: Path) -> Any:
    """The function behind `serving_default`."""
    return tf.saved_model.load(str(path)).signatures["serving_default"]


def signature_of(function: Any) -> tuple[dict[str, str], set[str]]:
    """Inputs with dtype and shape, and names of outputs."""
    inputs = function.structured_input_signature[1]
    described = {k: f"{v.dtype.name}{v.shape.as_list()}" for k, v in inputs.items()}
    return described, set(function.structured_outputs)


def align_rows(ours: np.ndarray, reference: np.ndarray, gap: float = SWAP_GAP) -> np.ndarray:
    """Our rows in the order of the reference, by scores; neighbours of like score may swap."""
    order = np.arange(len(ours))
    for i in range(len(ours) - 1):
        near = abs(reference[i] - reference[i + 1]) < gap
        here, swapped = abs(ours[order[i]] - reference[i]), abs(ours[order[i + 1]] - reference[i])
        if near and swapped < here:
            order[[i, i + 1]] = order[[i + 1, i]]
    return order


def compare_features(
    ours: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    scores: str,
    tolerances: Mapping[str, dict[str, Any]],
    kept: Mapping[str, int],
) -> None:
    """Every array of `expected`; `scores` names the one that both are sorted by.

    `kept`: of these the reference holds only every n-th channel.
    """
    assert len(ours[scores]) == len(expected[scores])
    order = align_rows(ours[scores].reshape(-1), expected[scores].reshape(-1))
    for name, reference in expected.items():
        rows = ours[name][order] if len(reference) == len(order) else ours[name]
        rows = rows[..., :: kept.get(name, 1)]
        assert rows.shape == reference.shape, name
        np.testing.assert_allclose(rows, reference, **tolerances.get(name, TOLERANCE), err_msg=name)
