"""Weights of R2Former: released and own files read strictly, ImageNet's DeiT and ResNet as a start.

A checkpoint is a dict with `model_state_dict`, every name with the prefix `module.` (of the
data-parallel wrapper), as the published tools read and write it.
"""

import codecs
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from r2former.models.deit import PREFIX, DeiT
from r2former.models.network import R2Former, ResNetR2Former
from r2former.models.position_grid import resize_pretrained
from utils.checkpoints import describe_difference, load_exactly, load_state
from utils.paths import require_file

logger = logging.getLogger(__name__)

ENTRY = "model_state_dict"
WRAPPER = "module."
UNUSED = ("Reranker.decoder_pos_embed", "Reranker.ratio")  # never influence the ranking
RERANKING = ("local_head.", "Reranker.")
HINT = "download it (r2former/README.md says from where) or give the path of a checkpoint"
WEIGHTS_HINT = "give the path of the ImageNet weights"
# what released files hold beside tensors: numpy's arrays and numbers of recalls
_core = getattr(np, "_core", None) or np.core
NUMPY = cast(
    "list[type]",
    [
        np.ndarray, np.dtype, _core.multiarray._reconstruct, _core.multiarray.scalar, codecs.encode,
        type(np.dtype(np.float64)), type(np.dtype(np.float32)), type(np.dtype(np.int64)),
    ],
)  # fmt: skip


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """All entries of a released or own checkpoint; a bare state dict becomes its only entry."""
    content = load_state(require_file(path, HINT), NUMPY)
    if ENTRY in content:
        state = content[ENTRY]
        if isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values()):
            return content
        raise ValueError(f"{path} holds no tensors by name in its entry {ENTRY!r}; {HINT}")
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return {ENTRY: content}
    raise ValueError(
        f"{path} has no entry {ENTRY!r} (entries: {sorted(map(str, content))[:8]}): it is no "
        "checkpoint of R2Former; give CVPR23_DeitS_Rerank.pth, msls_v2_deits.pth or one of "
        "r2former.experiment_*"
    )


def to_released_names(net: nn.Module) -> dict[str, Tensor]:
    """The state dict with `module.` in front of every name, as checkpoints carry it."""
    return {WRAPPER + name: value for name, value in net.state_dict().items()}


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefix of the wrapper."""
    return {name.removeprefix(WRAPPER): value for name, value in state.items()}


def is_bare(state: Mapping[str, Tensor]) -> bool:
    """Whether plain names are those of a DeiT alone (msls_v2_deits.pth)."""
    return "cls_token" in state


def load_network(net: R2Former, path: str | Path, allow_global: bool = False) -> bool:
    """Give the network the weights of a file, strictly; returns whether it has reranking.

    `allow_global`: a file of the global model alone (`msls_v2_deits.pth`) is accepted, and local
    head and reranker stay as they are; otherwise it is refused. The two unused entries of the
    reranker may be missing or of another length.
    """
    state = plain_names(read_checkpoint(path)[ENTRY])
    if is_bare(state):
        state = {f"backbone.{name}": value for name, value in state.items()}
    own = net.state_dict()
    has_reranking = any(name.startswith(RERANKING) for name in state)
    if not has_reranking:
        if not allow_global:
            raise ValueError(
                f"{path} holds a global model only, without local_head and Reranker; give a file "
                "of the reranking stages (CVPR23_DeitS_Rerank.pth), or rank globally with "
                "rerank=False"
            )
        state |= {name: own[name] for name in own if name.startswith(RERANKING)}
    for name in UNUSED:
        if name not in state or state[name].shape != own[name].shape:
            state[name] = own[name]
    load_exactly(net, state, path)
    return has_reranking


def load_global(net: nn.Module, path: str | Path) -> nn.Module:
    """Give a global model (DeiT, or one of the VG benchmark) the weights of a file, strictly.

    The file may also be one with reranking, whose other parts are left out.
    """
    state = plain_names(read_checkpoint(path)[ENTRY])
    if isinstance(net, DeiT) and not is_bare(state):
        start = "backbone."
        state = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
    state = {name: value for name, value in state.items() if not name.startswith(RERANKING)}
    return load_exactly(net, state, path)


def read_pretrained(name: str, path: str | None) -> dict[str, Tensor]:
    """ImageNet weights from a file, else from the cache of timm or torchvision (downloads)."""
    if path is not None:
        content = load_state(require_file(path, WEIGHTS_HINT))
        found = content.get("model", content)
        return dict(found)
    if name.startswith("resnet"):
        import torchvision

        weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
        return dict(weights.get_state_dict(check_hash=True))
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        raise FileNotFoundError(
            f"the ImageNet weights of {name} are neither in timm's cache nor could they be fetched "
            f"({type(error).__name__}: {error}); give their file: model.backbone_weights=FILE, or "
            "model.pretrained=False for random weights"
        ) from error


def start_deit(net: DeiT, weights: Mapping[str, Tensor], where: str) -> DeiT:
    """Begin with a DeiT of ImageNet: positions resized, both heads from rows of its `head`.

    As published, `head_dist` starts with the same rows of `head`, not of `head_dist`.
    """
    state = dict(weights)
    for name in ("head.weight", "head.bias", "pos_embed"):
        if name not in state:
            raise ValueError(f"{where} has no entry {name!r}: it is no distilled DeiT of ImageNet")
    state["pos_embed"] = resize_pretrained(state["pos_embed"], PREFIX, *net.grid)
    for part in ("weight", "bias"):
        rows = state[f"head.{part}"][: net.out_dim]
        state[f"head.{part}"] = state[f"head_dist.{part}"] = rows.clone()
    difference = describe_difference(net.state_dict(), state)
    if difference:
        raise ValueError(f"{where} does not fit this DeiT\n{difference}")
    net.load_state_dict(state)
    return net


def start_resnet(net: ResNetR2Former, weights: Mapping[str, Tensor]) -> ResNetR2Former:
    """Begin with torchvision's resnet50 of ImageNet."""
    children = ["conv1", "bn1", "relu", "maxpool", *(f"layer{i}" for i in range(1, 5))]
    state = {}
    for name, value in weights.items():
        first, _, rest = name.partition(".")
        if first in children:
            state[f"{children.index(first)}.{rest}"] = value
    load_exactly(net.backbone, state, "torchvision's resnet50")
    return net
