"""Exported models from disk, one way to call them: TensorFlow 2 signatures and pruned 1.x graphs.

Files of TensorFlow 1, as the authors released them, have no usable signature: their graph is cut
between tensors known by name.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from delg_training.delf_config import DelfConfig
from utils.paths import require_file

SIGNATURE = "serving_default"
GRAPH_FILE = "saved_model.pb"
BLOCK = 2**22  # bytes that are hashed at once
LOCAL_OUTPUTS = ("boxes", "features", "scales", "scores")
GLOBAL_OUTPUT = "global_descriptors"
EMPTY = {
    "boxes": np.zeros((0, 4), np.float32),
    "features": np.zeros((0, 0), np.float32),
    "scales": np.zeros(0, np.float32),
    "scores": np.zeros(0, np.float32),
    GLOBAL_OUTPUT: np.zeros((0, 0), np.float32),
}
REMEDY = "export it with export_local_model, export_global_model or export_local_and_global_model"
FEEDS = {  # input -> dtype of its tensor
    "input_image": np.uint8,
    "input_scales": np.float32,
    "input_max_feature_num": np.int32,
    "input_abs_thres": np.float32,
    "input_global_scales_ind": np.int32,
}


class ModelOutputs(NamedTuple):
    """What a model finds in a picture."""

    boxes: np.ndarray  # (N, 4) ymin, xmin, ymax, xmax; pixels
    features: np.ndarray  # (N, D)
    scales: np.ndarray  # (N,) 1 / scale of the level
    scores: np.ndarray  # (N,)
    global_descriptors: np.ndarray  # (S, E)


class Model(Protocol):
    """An exported model, ready to be called."""

    def __call__(
        self,
        image: np.ndarray,
        scales: np.ndarray,
        max_feature_num: int,
        threshold: float,
        global_indices: np.ndarray,
        /,
    ) -> ModelOutputs:
        """uint8 (H, W, 3), float32 (S,), ..., int32 (G,); what it does not output is empty."""


def wanted_inputs(config: DelfConfig) -> list[str]:
    """Inputs of the configuration's kind of model, in the order of the published 1.x files."""
    names = ["input_image", "input_scales"]
    if config.use_local_features:
        names += ["input_abs_thres", "input_max_feature_num"]
    return names + (["input_global_scales_ind"] if config.use_global_features else [])


def wanted_outputs(config: DelfConfig) -> list[str]:
    """Outputs of the configuration's kind of model."""
    names = [*LOCAL_OUTPUTS] if config.use_local_features else []
    return names + ([GLOBAL_OUTPUT] if config.use_global_features else [])


class _LoadedModel:
    """Calls `run` with the tensors it takes; empty arrays stand for absent outputs."""

    def __init__(
        self, owner: object, run: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]],
        inputs: list[str],
    ) -> None:  # fmt: skip
        self.owner = owner  # holds the variables: without it they would be gone
        self.run, self.inputs = run, inputs

    def __call__(
        self,
        image: np.ndarray,
        scales: np.ndarray,
        max_feature_num: int,
        threshold: float,
        global_indices: np.ndarray,
    ) -> ModelOutputs:
        values = dict(
            zip(FEEDS, (image, scales, max_feature_num, threshold, global_indices), strict=True)
        )
        found = self.run({name: tf.constant(values[name], FEEDS[name]) for name in self.inputs})
        arrays = EMPTY | {name: tensor.numpy() for name, tensor in found.items()}
        return ModelOutputs(
            arrays["boxes"],
            arrays["features"],
            arrays["scales"],
            arrays["scores"].reshape(-1),
            arrays[GLOBAL_OUTPUT],
        )


def require_model(model_path: str | Path) -> Path:
    """The folder of a SavedModel; FileNotFoundError says where to get one."""
    require_file(
        Path(model_path) / GRAPH_FILE,
        "model_path names the folder of a SavedModel: download a released one "
        "(delg_scripts/download_models.sh) or export your own",
    )
    return Path(model_path)


def load_model(config: DelfConfig) -> Model:
    """The model of the configuration; errors name what is missing and what is there instead."""
    folder = require_model(config.model_path)
    try:
        loaded = tf.saved_model.load(str(folder))
    except (tf.errors.OpError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{folder} is no readable SavedModel: {error}; get it again") from error
    return _tf2_model(loaded, config) if config.is_tf2_exported else _tf1_model(loaded, config)


def _tf2_model(loaded: Any, config: DelfConfig) -> Model:
    signatures = getattr(loaded, "signatures", {})
    if SIGNATURE not in signatures:
        raise ValueError(
            f"{config.model_path} has no signature {SIGNATURE}, only {sorted(signatures)}; {REMEDY}"
        )
    function = signatures[SIGNATURE]
    inputs = sorted(function.structured_input_signature[1])
    outputs = sorted(function.structured_outputs)
    wanted = wanted_inputs(config), wanted_outputs(config)
    absent = [*(set(wanted[0]) - set(inputs)), *(set(wanted[1]) - set(outputs))]
    unfed = sorted(set(inputs) - set(FEEDS))
    if absent or unfed:
        raise ValueError(
            f"{config.model_path} takes {inputs} and gives {outputs}; the configuration "
            f"(use_local_features {config.use_local_features}, use_global_features "
            f"{config.use_global_features}) needs {wanted[0]} and {wanted[1]}; {REMEDY}, or switch "
            "the features off that it lacks"
        )
    return _LoadedModel(loaded, lambda feeds: function(**feeds), inputs)


def _tf1_model(loaded: Any, config: DelfConfig) -> Model:
    inputs, outputs = wanted_inputs(config), wanted_outputs(config)
    if not hasattr(loaded, "prune"):
        raise ValueError(
            f"{config.model_path} was exported by TensorFlow 2: set is_tf2_exported: true"
        )
    graph = loaded.graph
    operations = {operation.name for operation in graph.get_operations()}
    absent = [name for name in (*inputs, *outputs) if name not in operations]
    if absent:
        raise ValueError(
            f"the graph of {config.model_path} has no tensors {', '.join(absent)}, which the "
            f"configuration (use_local_features {config.use_local_features}, use_global_features "
            f"{config.use_global_features}) needs; an export of TensorFlow 2 needs "
            "is_tf2_exported: true"
        )
    function = loaded.prune([f"{name}:0" for name in inputs], [f"{name}:0" for name in outputs])
    return _LoadedModel(
        loaded,
        lambda feeds: dict(zip(outputs, function(*(feeds[name] for name in inputs)), strict=True)),
        inputs,
    )


def fingerprint_model(model_path: str | Path) -> str:
    """Short hash of the SavedModel's graph and weights, for records."""
    digest = hashlib.sha256()
    folder = require_model(model_path)
    for path in sorted([folder / GRAPH_FILE, *folder.glob("variables/variables.*")]):
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()[:16]
