"""Networks from their checkpoints alone: sizes are read off names and shapes in the file."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from r2former.models.deit import DeiT
from r2former.models.network import DeiTR2Former, R2Former, ResNetR2Former
from r2former.models.resnet import MiniResNetFeatures
from r2former.models.weights import ENTRY as R2FORMER_ENTRY
from r2former.models.weights import load_network, plain_names, read_checkpoint
from rrt_gld.models.matcher import Matcher
from utils.checkpoints import load_released, load_weights
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.weights import ALLOWED as VITGAL_ALLOWED
from vitgal.models.weights import ENTRY as VITGAL_ENTRY
from vitgal.models.weights import load_autoencoder
from vitgal.models.xcit import XCiTSizes

# what no shape tells: attention heads by the sizes that do show
MATCHER_HEADS = {(6, 1024): 4, (2, 256): 2}  # (layers, hidden width): published, mini
RESNET50_STEM, PUBLISHED_SIZE = (64, 3, 7, 7), (480, 640)
MINI_SIZE = (96, 128)  # of the images of generated streets
STEM_KERNEL = (3, 3)  # of the convolutions of a DeiT's stem
DEIT_HEADS = {384: 6, 768: 12, 128: 4}  # width of tokens: DeiT-S, DeiT-B, mini


class PlaceNetwork(NamedTuple):
    """R2Former and what belongs to it."""

    net: R2Former
    size: tuple[int, int]  # height, width of its images
    has_reranking: bool  # False: a file of the global model alone


def count_blocks(names: Iterable[str], start: str) -> int:
    """Blocks numbered behind `start` among the names of a state dict."""
    numbers = (re.match(rf"{re.escape(start)}(\d+)\.", name) for name in names)
    return 1 + max((int(match[1]) for match in numbers if match), default=-1)


def require_entries(state: Mapping[str, Tensor], names: Iterable[str], path: Path, what: str):
    """ValueError unless the file has the entries by which its sizes are told."""
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(
            f"{path} holds no {what}: {', '.join(missing)} not among its entries "
            f"({', '.join(list(state)[:3])}, ...); give the file of one"
        )


def load_matcher(path: Path) -> Matcher:
    """A matcher of rrt_gld, of the published or the mini size, in evaluation mode."""
    state = {k.removeprefix("module."): v for k, v in load_weights(path).items()}
    require_entries(
        state, ["remap.weight", "encoder.layers.0.linear1.weight"], path, "matcher of rrt_gld"
    )
    d_model, d_global = state["remap.weight"].shape
    hidden = len(state["encoder.layers.0.linear1.weight"])
    layers = count_blocks(state, "encoder.layers.")
    if (layers, hidden) not in MATCHER_HEADS:
        raise ValueError(
            f"{path} is a matcher of {layers} layers with {hidden} hidden numbers; known are "
            f"{', '.join(map(str, MATCHER_HEADS))}: only their number of heads is known"
        )
    model = Matcher(
        d_global, d_model, nhead=MATCHER_HEADS[layers, hidden], num_encoder_layers=layers,
        dim_feedforward=hidden,
    )  # fmt: skip
    load_released(model, path)
    return model.eval()


def load_vitgal(path: Path) -> Autoencoder:
    """The autoencoder of ViTGaL with its backbone, of any size, in evaluation mode."""
    state = load_weights(path, VITGAL_ENTRY, VITGAL_ALLOWED)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    backbone = "retrieval_back_bone."
    temperature = f"{backbone}blocks.0.attn.temperature"
    require_entries(state, ["whitening_layer.weight", temperature], path, "autoencoder of vitgal")
    code_dim, width = state["whitening_layer.weight"].shape
    sizes = XCiTSizes(
        width, count_blocks(state, f"{backbone}blocks."), len(state[temperature]), drop_path=0.0
    )
    return load_autoencoder(Autoencoder(sizes, code_dim), path).eval()


def load_r2former(path: Path) -> PlaceNetwork:
    """R2Former on a DeiT or ResNet-50, or a DeiT alone, in evaluation mode.

    The size of images is told by the number of positions, their aspect being 3:4.
    """
    state = plain_names(read_checkpoint(path)[R2FORMER_ENTRY])
    options = _read_reranking(state)
    net: R2Former
    if "backbone.0.weight" in state:
        size, net = _make_resnet(state, options, path)
    else:
        deit, size = _make_deit(state, path)
        net = DeiTR2Former(deit, **options)
    has_reranking = load_network(net, path, allow_global=True)
    return PlaceNetwork(net.eval(), size, has_reranking)


def _make_resnet(
    state: Mapping[str, Tensor], options: dict[str, Any], path: Path
) -> tuple[tuple[int, int], R2Former]:
    require_entries(state, ["local_head.weight"], path, "R2Former on ResNet-50 with reranking")
    stem = tuple(state["backbone.0.weight"].shape)
    if stem == RESNET50_STEM:
        return PUBLISHED_SIZE, ResNetR2Former(out_dim=len(state["aggregation.1.weight"]), **options)
    features = MiniResNetFeatures()
    if stem != tuple(features.state_dict()["0.weight"].shape):
        raise ValueError(
            f"{path} is R2Former on a network whose first layer is {stem}; known are DeiTs, "
            f"ResNet-50, {RESNET50_STEM}, and its mini size"
        )
    out_dim = len(state["aggregation.1.weight"])
    return MINI_SIZE, ResNetR2Former(out_dim=out_dim, backbone=features, **options)


def _make_deit(state: Mapping[str, Tensor], path: Path) -> tuple[DeiT, tuple[int, int]]:
    start = "" if "cls_token" in state else "backbone."
    # a projection of patches, or the convolutions in its place
    stem = "conv" if f"{start}patch_embed.proj.0.weight" in state else "patch"
    first = "patch_embed.proj.0.weight" if stem == "conv" else "patch_embed.proj.weight"
    names = [f"{start}{name}" for name in ("pos_embed", first, "head.weight")]
    require_entries(state, names, path, "DeiT of r2former")
    positions, patches, head = (state[name] for name in names)
    width, count = positions.shape[2], positions.shape[1] - 2
    side = round((count / 12) ** 0.5)
    if 12 * side**2 != count or width not in DEIT_HEADS:
        raise ValueError(
            f"{path} is a DeiT of width {width} with {count} positions; expected a width of "
            f"{list(DEIT_HEADS)} and a grid of aspect 3:4 (12, 48, ..., 1200 positions)"
        )
    pixels = patches.shape[-1]
    if stem == "conv":
        shapes = [v.shape for k, v in state.items() if k.startswith(f"{start}patch_embed.proj.")]
        pixels = 2 ** sum(shape[2:] == STEM_KERNEL for shape in shapes)  # each halves the side
    size = (3 * side * pixels, 4 * side * pixels)
    depth = count_blocks(state, f"{start}blocks.")
    return DeiT(size, len(head), width, depth, DEIT_HEADS[width], pixels, stem=stem), size


def _read_reranking(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of local head and reranker; none where the file has no such parts."""
    if "local_head.weight" not in state or "Reranker.pair_head.weight" not in state:
        return {}
    options = {
        "local_dim": len(state["local_head.weight"]),
        "dim": len(state["Reranker.pair_head.weight"]),
        "depth": count_blocks(state, "Reranker.blocks."),
        "pair_depth": count_blocks(state, "Reranker.blocks_2."),
    }
    positions = state.get("Reranker.decoder_pos_embed")
    if positions is not None:
        options["num_local"] = (positions.shape[1] - 1) // 2
    return options
