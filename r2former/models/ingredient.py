"""Sacred ingredient `model`: options of the network; model.deit, model.deitBase, model.resnet50."""

import logging

import torch
from sacred import Ingredient
from torch import nn

from r2former.models.deit import DeiT
from r2former.models.network import DeiTR2Former, R2Former, ResNetR2Former
from r2former.models.resnet import MiniResNetFeatures, ResNetFeatures
from r2former.models.vg_network import MINI, Extras, VGNetwork
from r2former.models.weights import (
    load_global,
    load_network,
    read_pretrained,
    start_deit,
    start_resnet,
)

logger = logging.getLogger(__name__)

model_ingredient = Ingredient("model", save_git_info=False)

RERANKING_BACKBONES = ("deit", "deitBase", "resnet50", MINI)
PRETRAINED = {
    "deit": "deit_small_distilled_patch16_224",
    "deitBase": "deit_base_distilled_patch16_384",
    "resnet50": "resnet50",
}


@model_ingredient.config
def config():
    backbone = "deit"  # deit, deitBase, resnet50; global stage also vgg16, vit, cct384, ...
    img_size = [480, 640]  # height width that the position embedding is built for
    fc_output_dim = 256  # width of the global descriptor
    local_dim = 128  # width of local features, without X, Y, A
    num_local = 500  # local features per image, by attention
    hypercolumn = 0  # 100 * s + e: local features from blocks (or stages) s..e-1; 0: published
    embed_dim = 768 if backbone == "deitBase" else 384  # width of DeiT's tokens
    depth = 12  # blocks of DeiT
    num_heads = 12 if backbone == "deitBase" else 6  # attention heads of DeiT
    patch_size = 16  # pixels
    stem = "patch"  # of DeiT: patch (published), or conv (ours): convolutions, random weights
    rerank_model = "r2former"  # the only one
    rerank_dim = 32  # width of the reranker
    rerank_depth = 6  # layers over all tokens
    rerank_pair_depth = 2  # layers over the five partners of a feature
    rerank_heads = 4  # attention heads of the reranker
    num_corr = 5  # partners of a local feature
    pretrained = True  # start training from ImageNet weights; evaluation needs none
    backbone_weights = None  # their file; None: the cache of timm or torchvision, which download
    aggregation = "gem"  # netvlad, gem, spoc, mac, rmac, crn, rrm; vit, cct384: cls, seqpool
    l2 = "before_pool"  # CNN of the global stage: before_pool, after_pool, none
    netvlad_clusters = 64  # of netvlad and crn
    non_local = False  # global stage, not DeiT: non-local blocks before the pooling
    num_non_local = 1  # so many of them
    channel_bottleneck = 128  # channels inside one
    trunc_te = None  # vit, cct384: only so many first blocks; None: all
    freeze_te = None  # vit, cct384: blocks up to this index, and all outside blocks, do not train


model_ingredient.add_named_config("deit", {"backbone": "deit"})
model_ingredient.add_named_config("deitBase", {"backbone": "deitBase"})
model_ingredient.add_named_config("resnet50", {"backbone": "resnet50"})
# the same method, small enough to be trained on two cores from random weights (generated streets)
model_ingredient.add_named_config(
    "resnet_mini",
    {
        "backbone": MINI,
        "img_size": [96, 128],
        "pretrained": False,
        "fc_output_dim": 128,
        "local_dim": 64,
        "num_local": 64,
        "rerank_depth": 2,
        "rerank_pair_depth": 1,
    },
)
model_ingredient.add_named_config(
    "deit_mini",
    {
        "backbone": "deit",
        "pretrained": False,
        "img_size": [96, 128],
        "embed_dim": 128,
        "depth": 3,
        "num_heads": 4,
        "patch_size": 8,
        "stem": "conv",
        "fc_output_dim": 128,
        "local_dim": 64,
        "num_local": 96,
        "rerank_depth": 4,
    },
)


@model_ingredient.capture
def make_deit(
    img_size: list[int],
    fc_output_dim: int,
    embed_dim: int,
    depth: int,
    num_heads: int,
    patch_size: int,
    hypercolumn: int,
    stem: str,
    aggregation: str,
) -> DeiT:
    """The configured DeiT with random weights: the bare global model."""
    if aggregation != "gem":
        logger.warning("model.aggregation=%s is ignored: a DeiT has none", aggregation)
    size = (int(img_size[0]), int(img_size[1]))
    return DeiT(size, fc_output_dim, embed_dim, depth, num_heads, patch_size, hypercolumn, stem)


@model_ingredient.capture
def make_model(
    backbone: str,
    fc_output_dim: int,
    local_dim: int,
    num_local: int,
    rerank_model: str,
    rerank_dim: int,
    rerank_depth: int,
    rerank_pair_depth: int,
    rerank_heads: int,
    num_corr: int,
    hypercolumn: int,
    pretrained: bool,
    backbone_weights: str | None,
    for_checkpoint: bool = False,
) -> R2Former:
    """The configured network with reranking: ImageNet or random weights, a random reranker.

    `for_checkpoint`: its weights come from a checkpoint; those of ImageNet are not fetched.
    """
    check_reranking(backbone, rerank_model)
    check_extras(backbone)
    sizes = {
        "dim": rerank_dim,
        "depth": rerank_depth,
        "pair_depth": rerank_pair_depth,
        "num_heads": rerank_heads,
        "num_corr": num_corr,
    }
    start = pretrained and not for_checkpoint
    if backbone.startswith("resnet"):
        if start and backbone == MINI:
            raise ValueError(f"{MINI} has no ImageNet weights: set model.pretrained=False")
        make_features = MiniResNetFeatures if backbone == MINI else ResNetFeatures
        features = make_features(hypercolumn)
        cnn = ResNetR2Former(fc_output_dim, local_dim, num_local, features, **sizes)
        return start_resnet(cnn, read_pretrained("resnet50", backbone_weights)) if start else cnn
    net = DeiTR2Former(make_deit(), local_dim, num_local, **sizes)
    if start:
        start_deit(net.backbone, read_deit(), PRETRAINED[backbone])
    return net


def check_reranking(backbone: str, rerank_model: str) -> None:
    """ValueError for what has no reranking."""
    if rerank_model != "r2former":
        raise ValueError(f"rerank_model is {rerank_model!r}, the only one is 'r2former'")
    if backbone not in RERANKING_BACKBONES:
        raise ValueError(
            f"backbone is {backbone!r}, reranking goes with {list(RERANKING_BACKBONES)}; others "
            "are for the global stage (experiment_global, or evaluate with rerank=False)"
        )


@model_ingredient.capture
def check_extras(backbone: str, non_local: bool, trunc_te: int | None, freeze_te: int | None):
    """ValueError for options of the VG benchmark's networks where there is R2Former's."""
    asked = {"non_local": non_local or None, "trunc_te": trunc_te, "freeze_te": freeze_te}
    found = [name for name, value in asked.items() if value is not None]
    if backbone in RERANKING_BACKBONES and found:
        raise ValueError(
            f"{', '.join(found)} belong to the networks of the VG benchmark in the global stage, "
            f"not to {backbone}; leave them at their defaults"
        )


@model_ingredient.capture
def read_deit(backbone: str, stem: str, backbone_weights: str | None) -> dict[str, torch.Tensor]:
    """ImageNet's weights for the configured DeiT."""
    if stem == "conv":
        raise ValueError("stem=conv has no ImageNet weights: set model.pretrained=False")
    return read_pretrained(PRETRAINED[backbone], backbone_weights)


@model_ingredient.capture
def make_global_model(
    backbone: str,
    aggregation: str,
    l2: str,
    netvlad_clusters: int,
    fc_output_dim: int | None,
    pretrained: bool,
    non_local: bool,
    num_non_local: int,
    channel_bottleneck: int,
    trunc_te: int | None,
    freeze_te: int | None,
    backbone_weights: str | None,
    for_checkpoint: bool = False,
) -> nn.Module:
    """The global model alone, `net(images) -> (B, D)` unit rows: a bare DeiT, or CNN with pooling.

    Its state dict has the names of `msls_v2_deits.pth`. `resnet50` means resnet50conv5.
    """
    start = pretrained and not for_checkpoint
    extras = Extras(
        non_local, num_non_local, channel_bottleneck, trunc_te, freeze_te, backbone_weights
    )
    check_extras(backbone)
    if backbone.startswith("deit"):
        if backbone not in PRETRAINED:
            raise ValueError(f"backbone is {backbone!r}; DeiTs are deit and deitBase")
        net = make_deit()
        return start_deit(net, read_deit(), PRETRAINED[backbone]) if start else net
    own = backbone in RERANKING_BACKBONES  # of R2Former: all layers are trained
    name = "resnet50conv5" if backbone == "resnet50" else backbone
    return VGNetwork(name, aggregation, l2, netvlad_clusters, fc_output_dim, start, not own, extras)


def load_model(resume: str | None, allow_global: bool = False) -> R2Former:
    """The network with the weights of the file `resume`, strictly; None: as before training.

    `allow_global`: `msls_v2_deits.pth` and other global models are accepted; local head and
    reranker are then random.
    """
    if resume is None:
        return make_model()
    net = make_model(for_checkpoint=True)
    load_network(net, resume, allow_global)
    return net


def load_global_model(resume: str | None) -> nn.Module:
    """The global model alone with the weights of a file; None: as before training."""
    if resume is None:
        return make_global_model()
    return load_global(make_global_model(for_checkpoint=True), resume)
