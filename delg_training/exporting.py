"""A trained network from its weights, for the exporters."""

from dataclasses import replace
from pathlib import Path

from delg_training.models.delf import Delf
from delg_training.models.delg import ModelOptions, build_model
from delg_training.models.weights import RUN_PREFIX, holds_key, load_weights

WHITENING = "backbone/embedding_layer/kernel"  # only DELG has it


def load_network(options: ModelOptions, ckpt_path: str | Path | None, seed: int = 0) -> Delf:
    """The network without classifiers.

    `ckpt_path`: of weights, or of a run's checkpoint; None: as a training with `seed` starts, to
    compare with.
    """
    network = build_model(options, seed=seed)
    if ckpt_path is not None:
        load_weights(network, ckpt_path)
    return network


def check_kind(options: ModelOptions, ckpt_path: str | Path | None) -> None:
    """ValueError when DELG weights would be exported as DELF: their global vector is no descriptor.

    It would be the plain mean of block4, which DELG never trains.
    """
    if ckpt_path is None or options.delg_global_features:
        return
    if any(holds_key(ckpt_path, prefix + WHITENING) for prefix in ("", RUN_PREFIX)):
        raise ValueError(
            f"{ckpt_path} holds a DELG network: add model.delg (delg_global_features=True), or "
            "export local features alone (export_local_model)"
        )


def load_global_network(options: ModelOptions, ckpt_path: str | Path | None, seed: int = 0) -> Delf:
    """The network for global descriptors alone.

    Strides in block3 leave block4 as it is, and are less work; the autoencoder is not needed.
    """
    check_kind(options, ckpt_path)
    options = replace(options, block3_strides=True, use_autoencoder=False)
    return load_network(options, ckpt_path, seed)


def load_whole_network(options: ModelOptions, ckpt_path: str | Path | None, seed: int = 0) -> Delf:
    """The network for local features and global descriptors."""
    check_kind(options, ckpt_path)
    return load_network(options, ckpt_path, seed)
