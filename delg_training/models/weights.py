"""Weights on disk: TensorFlow checkpoints in the published layout, ImageNet weights of Keras.

The key of a variable is its attribute path, `backbone/l2a/conv2a/kernel`, followed by TensorFlow's
suffix; in a checkpoint of a training run `model/` stands before it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow as tf

from delg_training.models.layers import BatchNorm, Conv
from delg_training.models.resnet import ResNet
from utils.paths import require_file, temporary_folder

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
RUN_PREFIX = "model/"  # of the network's keys in the checkpoint of a training run
SHOWN = 8  # names in an error message
IMAGENET_FILE = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"


def named_variables(module: tf.Module, prefix: str = "") -> Iterator[tuple[str, tf.Variable]]:
    """Attribute path and variable, for every variable of the module and those within it."""
    for attribute, value in sorted(vars(module).items()):
        if isinstance(value, tf.Variable):
            yield prefix + attribute, value
        elif isinstance(value, tf.Module):
            yield from named_variables(value, f"{prefix}{attribute}/")


def _shown(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def open_checkpoint(path: str | Path) -> Any:
    """Reader of the checkpoint `path` (a prefix without `.index`); a clear error without one."""
    require_file(
        f"{path}.index",
        f"give the prefix of a TensorFlow checkpoint, such as <logdir>/delf_weights, not {path}",
    )
    try:
        return tf.train.load_checkpoint(str(path))
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{path}.index is no readable TensorFlow checkpoint: {error}") from error


def assign_from_checkpoint(variables: dict[str, tf.Variable], path: str | Path) -> None:
    """Give each variable the tensor of its key (without suffix); the checkpoint may hold more.

    ValueError for absent keys or other shapes; nothing is assigned then.
    """
    reader = open_checkpoint(path)
    shapes = reader.get_variable_to_shape_map()
    absent = [key for key in variables if key + SUFFIX not in shapes]
    if absent:
        raise ValueError(
            f"{path} lacks {len(absent)} of {len(variables)} variables: {_shown(absent)}; it "
            "belongs to a network with other options (DELF or DELG, use_autoencoder, width, depths)"
        )
    found = {key: list(shapes[key + SUFFIX]) for key in variables}
    other = [
        f"{key} {found[key]}, expected {variable.shape.as_list()}"
        for key, variable in variables.items()
        if found[key] != variable.shape.as_list()
    ]
    if other:
        raise ValueError(f"{path} holds other shapes: {_shown(other)}; check the model's options")
    values = {key: _read(reader, key + SUFFIX, path) for key in variables}
    for key, variable in variables.items():
        variable.assign(values[key])


def _read(reader: Any, key: str, path: str | Path) -> np.ndarray:
    try:
        return reader.get_tensor(key)
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{path} is damaged, {key} cannot be read: {error}") from error


def holds_key(path: str | Path, key: str) -> bool:
    """Whether the checkpoint has a variable of that key (without suffix)."""
    return open_checkpoint(path).has_tensor(key + SUFFIX)


def load_weights(model: tf.Module, path: str | Path) -> None:
    """All variables of `model` from a weights file or from the checkpoint of a training run.

    Loading is partial the other way round: what the file holds beyond the model (classifiers, an
    autoencoder, an optimiser) is left out.
    """
    variables = dict(named_variables(model))
    of_run = holds_key(path, f"{RUN_PREFIX}{next(iter(variables))}")
    prefix = RUN_PREFIX if of_run else ""
    assign_from_checkpoint({prefix + key: value for key, value in variables.items()}, path)


def save_weights(model: tf.Module, path: str | Path) -> None:
    """Write `<path>.index` and `<path>.data-00000-of-00001`; older files are replaced when done."""
    path = Path(path)
    with temporary_folder(path) as folder:
        written = tf.train.Checkpoint(model).write(os.path.join(folder, path.name))
        for file in sorted(folder.glob(f"{Path(written).name}.*")):  # data, then index
            os.replace(file, path.with_name(file.name))


def _named_layers(module: tf.Module) -> Iterator[Conv | BatchNorm]:
    for value in vars(module).values():
        if isinstance(value, Conv | BatchNorm):
            yield value
        elif isinstance(value, tf.Module):
            yield from _named_layers(value)


def _layer_variables(layer: Conv | BatchNorm) -> tuple[tf.Variable, ...]:
    """In the order of Keras' files."""
    if isinstance(layer, Conv):
        return layer.kernel, layer.bias
    return layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance


def load_imagenet_weights(backbone: ResNet, path: str | Path, load_stem: bool = True) -> None:
    """The convolutions and norms of `backbone` from a Keras `.h5` file without classifier.

    `load_stem`: False leaves `conv1` and `bn_conv1` as they are, as the published code did without
    meaning to. ValueError for a layer that the file lacks or that has other shapes.
    """
    path = require_file(path, f"imagenet_checkpoint names Keras' file {IMAGENET_FILE}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file: {error}") from error
    with file:
        if "layer_names" not in file.attrs:
            raise ValueError(f"{path} has no attribute layer_names: not weights written by Keras")
        found = {_text(name) for name in file.attrs["layer_names"]}
        layers = {layer.name: layer for layer in _named_layers(backbone)}
        if not load_stem:
            layers = {k: v for k, v in layers.items() if k not in ("conv1", "bn_conv1")}
        absent = sorted(set(layers) - found)
        if absent:
            raise ValueError(f"{path} lacks {len(absent)} layers: {_shown(absent)}")
        values = {name: _layer_arrays(file, name, layers[name], path) for name in layers}
    for name, layer in layers.items():
        for variable, value in zip(_layer_variables(layer), values[name], strict=True):
            variable.assign(value)


def _text(name: bytes | str) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)


def _layer_arrays(
    file: h5py.File, name: str, layer: Conv | BatchNorm, path: Path
) -> list[np.ndarray]:
    group = file[name]
    arrays = [np.asarray(group[_text(weight)]) for weight in group.attrs["weight_names"]]
    expected = [tuple(variable.shape) for variable in _layer_variables(layer)]
    if [array.shape for array in arrays] != expected:
        raise ValueError(
            f"{path}, layer {name}: shapes {[array.shape for array in arrays]}, expected {expected}"
        )
    return arrays
