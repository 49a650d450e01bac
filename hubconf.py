"""torch.hub entry points: `torch.hub.load(REPO, "vitgal", variant="s12", checkpoint=FILE)`.

REPO: the path of a checkout with source="local", or OWNER/NAME on GitHub. `checkpoint`: a released
or own file, .pt, .pth or .safetensors (`python -m utils.checkpoints convert`), loaded strictly:
names and shapes that do not fit are listed. Without one the weights are random.
"""

from pathlib import Path
from typing import Any

dependencies = ["torch", "torchvision", "timm"]


def rrt_gld_matcher(checkpoint: str | Path | None = None, **sizes: Any) -> Any:
    """Reranking transformer on DELG descriptors (RRT, ICCV'21), in evaluation mode.

    `checkpoint`: a released or own file, loaded strictly; without one the weights are random.
    `sizes`: arguments of `rrt_gld.models.matcher.Matcher`, by default the published size. Called
    with (src_global, src_local, src_mask, src_scales, src_positions, tgt_...): one logit per pair.
    """
    from rrt_gld.models.matcher import Matcher
    from utils.checkpoints import load_released

    model = Matcher(**sizes)
    if checkpoint is not None:
        load_released(model, checkpoint)
    return model.eval()


def rrt_sop_model(checkpoint: str | Path | None = None, **options: Any) -> Any:
    """ResNet with reranking transformer on products (RRT, ICCV'21), in evaluation mode.

    `checkpoint`: a released or own file, loaded strictly; without one the weights are random.
    `options`: arguments of `rrt_sop.models.network.RerankNet`; by default the published network
    (`normalize=True`, 11,318 classes). `model(images)` with (B, 3, H, W) RGB in [0, 1] gives
    (logits, global, local); `model.matcher(local_src, local_tgt)` one logit per pair.
    """
    from rrt_sop.models.network import RerankNet
    from utils.checkpoints import load_released

    model = RerankNet(**{"normalize": True, **options})
    if checkpoint is not None:
        load_released(model, checkpoint)
    return model.eval()


def rrt_sop_matcher(**sizes: Any) -> Any:
    """The matcher of `rrt_sop_model` alone, random weights, in evaluation mode.

    `sizes`: arguments of `rrt_sop.models.matcher.Matcher`, by default the published size. Called
    with two local maps (B, C, h, w), the query's first: one logit per pair.
    """
    from rrt_sop.models.matcher import Matcher

    return Matcher(**sizes).eval()


def rrt_sop_superpoint(checkpoint: str | Path | None = None, **sizes: Any) -> Any:
    """SuperPoint descriptors with their pair matcher on products (RRT, ICCV'21), evaluation mode.

    `checkpoint`: a released or own file, loaded strictly; without one the weights are random.
    `sizes`: arguments of `rrt_sop.models.superpoint.SuperPointNet`. Images come grey with their
    keypoints, as `rrt_sop.keypoint_layout` packs them.
    """
    from rrt_sop.models.superpoint import SuperPointNet
    from utils.checkpoints import load_released

    model = SuperPointNet(**sizes)
    if checkpoint is not None:
        load_released(model, checkpoint)
    return model.eval()


def vitgal(variant: str = "s12", checkpoint: str | Path | None = None) -> Any:
    """Autoencoder model of ViTGaL (ACCV 2022) in evaluation mode: global and local descriptors.

    `variant`: s12 or s24. `checkpoint`: a released or own file, loaded strictly; without one the
    weights are random. Called with normalised images (B, 3, H, W): a dict of global (B, 384),
    cls_attn (B, 8, N), tokens (B, N, 384), code (B, N, 128), decoded (B, N, 384), ae_attn (B, 8, N)
    and ae_cls (B, 384), N = ceil(H / 16) * ceil(W / 16) patches row by row.
    """
    from vitgal.models.autoencoder import Autoencoder
    from vitgal.models.weights import load_autoencoder
    from vitgal.models.xcit import VARIANTS

    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}, expected one of {list(VARIANTS)}")
    model = Autoencoder(VARIANTS[variant])
    if checkpoint is not None:
        load_autoencoder(model, checkpoint)
    return model.eval()


def vitgal_global(variant: str = "s12", checkpoint: str | Path | None = None) -> Any:
    """Retrieval network of ViTGaL (ACCV 2022) alone, in evaluation mode: global descriptors.

    `checkpoint`: a file of the retrieval network or a released one, whose autoencoder is left out;
    without one the weights are random. Called with normalised images (B, 3, H, W): a dict with
    global (B, 384).
    """
    from vitgal.models.retrieval import RetrievalNetwork
    from vitgal.models.weights import load_backbone
    from vitgal.models.xcit import VARIANTS

    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}, expected one of {list(VARIANTS)}")
    network = RetrievalNetwork(VARIANTS[variant], 0)
    if checkpoint is not None:
        load_backbone(network, checkpoint)
    return network.eval()


def r2former(checkpoint: str | Path | None = None, backbone: str = "deit", **options: Any) -> Any:
    """R2Former for place recognition (CVPR 2023) in evaluation mode.

    `checkpoint`: a released or own file with reranker, loaded strictly; without one the weights are
    random. `backbone`: deit, deitBase or resnet50. `options`: `img_size` (height, width) that a
    DeiT's positions are built for, `num_local`, `local_dim`. `model(images)` with normalised images
    (B, 3, H, W) gives (global (B, 256), local (B, K, 131)); `model.rerank(local_query,
    local_reference)` logits (B, 2), whose difference ranks.
    """
    from r2former.models.deit import DeiT
    from r2former.models.network import DeiTR2Former, ResNetR2Former
    from r2former.models.weights import load_network

    sizes: dict[str, dict[str, Any]] = {"deit": {}, "deitBase": {"embed_dim": 768, "num_heads": 12}}
    if backbone == "resnet50":
        model: Any = ResNetR2Former(**options)
    elif backbone in sizes:
        img_size = tuple(options.pop("img_size", (480, 640)))
        model = DeiTR2Former(DeiT(img_size, **sizes[backbone]), **options)
    else:
        raise ValueError(f"backbone is {backbone!r}, expected one of {[*sizes, 'resnet50']}")
    if checkpoint is not None:
        load_network(model, checkpoint)
    return model.eval()


def r2former_global(
    checkpoint: str | Path | None = None, img_size: tuple[int, int] = (480, 640), **sizes: Any
) -> Any:
    """Global model of R2Former (CVPR 2023) alone, a DeiT, in evaluation mode.

    `checkpoint`: `msls_v2_deits.pth`, or a file with reranker, which is left out; without one the
    weights are random. `img_size`: height and width that its positions are built for; `sizes`:
    further arguments of `r2former.models.deit.DeiT`. Called with normalised images (B, 3, H, W):
    descriptors (B, 256), unit rows.
    """
    from r2former.models.deit import DeiT
    from r2former.models.weights import load_global

    height, width = img_size
    model = DeiT((height, width), **sizes)
    if checkpoint is not None:
        load_global(model, checkpoint)
    return model.eval()
