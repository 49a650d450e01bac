"""Files with weights of ViTGaL and XCiT, loaded without anything left out in silence.

A released file holds an autoencoder with its backbone (names retrieval_back_bone.*); training also
writes files of the retrieval network alone. Both are dicts with the entry "model"; released ones
have the options of their run as an argparse.Namespace, the one further class that is admitted.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from utils.checkpoints import load_exactly, load_weights, save_checkpoint
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.retrieval import RetrievalNetwork
from vitgal.models.xcit import has_timm_names, rename_from_timm

ENTRY = "model"
ALLOWED = (argparse.Namespace,)
BACKBONE = "retrieval_back_bone."
HEADS = ("head.weight", "head.bias")
# an ImageNet file has two class blocks and a classifier, for which there is no place here
NOT_IN_VITGAL = ("head.", "cls_attn_blocks.1.")
NOT_IN_IMAGENET = "local_atrous."


def load_autoencoder(model: Autoencoder, path: str | Path) -> Autoencoder:
    """A released file, or one of experiment_autoencoder; its classifier is dropped."""
    state = _load_autoencoder(path)
    _check_depth(path, state, len(model.retrieval_back_bone.blocks))
    _load_but_head(model, state, path)
    return model


def load_backbone(network: RetrievalNetwork, path: str | Path) -> RetrievalNetwork:
    """The retrieval network of a file of vitgal.experiment, or that within an autoencoder's file.

    A head in the file is dropped; one of `network` keeps its weights.
    """
    state = _load(path)
    if any(name.startswith(BACKBONE) for name in state):
        state = {
            name.removeprefix(BACKBONE): value
            for name, value in state.items()
            if name.startswith(BACKBONE)
        }
    elif not any(name.startswith(NOT_IN_IMAGENET) for name in state):
        raise ValueError(
            f"{path} holds no retrieval network (no entry {NOT_IN_IMAGENET}*), but {_kind(state)}; "
            "give a released file or one that vitgal.experiment wrote"
        )
    _check_depth(path, state, len(network.blocks))
    _load_but_head(network, state, path)
    return network


def load_imagenet(network: RetrievalNetwork, path: str | Path) -> RetrievalNetwork:
    """The start of training: an ImageNet XCiT file, with published or with timm's names.

    Everything is taken but its classifier and its second class block; the multi-atrous block and
    the head keep their initial values. ValueError when any other name or shape differs.
    """
    state = _load(path)
    if any(name.startswith((NOT_IN_IMAGENET, BACKBONE)) for name in state):
        raise ValueError(
            f"{path} holds {_kind(state)}, expected an XCiT trained on ImageNet; to go on with an "
            "interrupted run use resume="
        )
    if has_timm_names(state):
        state = rename_from_timm(state)
    _check_depth(path, state, len(network.blocks))
    state = {k: v for k, v in state.items() if not k.startswith(NOT_IN_VITGAL)}
    own = network.state_dict()
    kept = {k: v for k, v in own.items() if k.startswith((NOT_IN_IMAGENET, "head."))}
    load_exactly(network, {**kept, **state}, path)
    return network


def export_autoencoder(path: str | Path, target: str | Path, half: bool = False) -> Path:
    """Write the entries of `path` that evaluation reads to `target`: no classifier, no optimiser.

    `half`: floating-point numbers in half precision; ValueError when one is too large for it.
    """
    state = {k: v for k, v in _load_autoencoder(path).items() if k not in HEADS}
    if half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        large = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
        if large:
            raise ValueError(
                f"{path} has numbers that half precision does not hold, in {large[0]}; export with "
                "half=False"
            )
    return save_checkpoint(target, **{ENTRY: state})


def _load_autoencoder(path: str | Path) -> dict[str, Tensor]:
    """The state dict of an autoencoder's file; ValueError when it is another's."""
    state = _load(path)
    if not any(name.startswith(BACKBONE) for name in state):
        raise ValueError(
            f"{path} holds no autoencoder (no entry {BACKBONE}*), but {_kind(state)}; give a "
            "released file or one that vitgal.experiment_autoencoder wrote"
        )
    return state


def _load(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a file; names lose the "module." of a data-parallel wrapper."""
    state = load_weights(path, ENTRY, ALLOWED)
    return {name.removeprefix("module."): value for name, value in state.items()}


def _load_but_head(
    module: Autoencoder | RetrievalNetwork, state: Mapping[str, Tensor], path: str | Path
) -> None:
    body = {name: value for name, value in state.items() if name not in HEADS}
    own_head = {name: value for name, value in module.state_dict().items() if name in HEADS}
    load_exactly(module, {**body, **own_head}, path)


def _check_depth(path: str | Path, state: Mapping[str, Tensor], depth: int) -> None:
    """ValueError for a file of the other variant, in fewer words than all its names."""
    numbers = [re.match(rf"(?:{re.escape(BACKBONE)})?blocks\.(\d+)\.", name) for name in state]
    found = 1 + max((int(match[1]) for match in numbers if match), default=-1)
    if found != depth:
        raise ValueError(
            f"{path} is of another variant: it has {found} blocks, the model {depth}; choose "
            "model.xcit_s12 for 12, model.xcit_s24 for 24, model.xcit_mini for the generated set"
        )


def _kind(state: Mapping[str, Tensor]) -> str:
    """What the names of a state dict belong to, in words."""
    if any(name.startswith(BACKBONE) for name in state):
        return "an autoencoder"
    if any(name.startswith(NOT_IN_IMAGENET) for name in state):
        return "a retrieval network"
    if any(name.startswith("cls_attn_blocks.1.") for name in state):
        return "an XCiT"
    return f"entries like {', '.join(list(state)[:3])}"
