"""Global networks of the VG benchmark: a CNN or ViT with a pooling, without reranking."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torchvision
from torch import Tensor, nn

from r2former.models.non_local import NonLocal
from r2former.models.pooling import MAP_POOLINGS, TOKEN_POOLINGS, L2Norm, SeqPool, make_pooling
from r2former.models.resnet import MiniResNetFeatures
from r2former.models.transformers import (
    CCT,
    VIT,
    freeze_transformer,
    make_transformer,
    tokens_to_map,
)
from r2former.models.weights import read_pretrained
from utils.checkpoints import load_exactly

MINI = "resnetMini"
RESNETS = ("resnet18", "resnet50", "resnet101")
# child of torchvision's ResNet at which features are taken: one past layer3 or layer4
CUTS = {"conv4": 7, "conv5": 8}
BACKBONES = [
    *("alexnet", "vgg16", VIT, CCT, MINI),
    *(f"{name}{cut}" for name in RESNETS for cut in CUTS),
]
TRANSFORMERS = (VIT, CCT)
L2_PLACES = ("before_pool", "after_pool", "none")


@dataclass(frozen=True)
class Extras:
    """Options of the VG benchmark that are off by default, under their names there."""

    non_local: bool = False  # blocks of `NonLocal` between backbone and pooling
    num_non_local: int = 1
    channel_bottleneck: int = 128  # channels inside such a block
    trunc_te: int | None = None  # only the first blocks of a transformer
    freeze_te: int | None = None  # the last block that stays as it is, with all outside blocks
    backbone_weights: str | None = None  # file of the pretrained backbone; None: its library's

    def check(self, backbone: str, aggregation: str) -> None:
        """ValueError for options of another kind of network."""
        if backbone not in TRANSFORMERS and (self.trunc_te, self.freeze_te) != (None, None):
            raise ValueError(
                f"trunc_te and freeze_te count blocks of {list(TRANSFORMERS)}, the backbone is "
                f"{backbone!r}: leave them at None"
            )
        if self.non_local and aggregation in TOKEN_POOLINGS:
            raise ValueError(
                f"non_local needs a map of features, aggregation {aggregation!r} takes tokens: "
                f"choose one of {list(MAP_POOLINGS)}"
            )
        if self.non_local and self.num_non_local < 1:
            raise ValueError(f"num_non_local is {self.num_non_local}, expected at least 1")


class VGNetwork(nn.Module):
    """Called with (B, 3, H, W): unit rows (B, out_dim). Names as in the VG benchmark's files."""

    def __init__(
        self,
        backbone: str = "resnet18conv4",
        aggregation: str = "netvlad",
        l2: str = "before_pool",
        netvlad_clusters: int = 64,
        fc_output_dim: int | None = None,
        pretrained: bool = False,
        freeze_early: bool = True,
        extras: Extras | None = None,
    ) -> None:
        """`pretrained`: ImageNet weights from the cache of torchvision or timm (or downloaded).

        `freeze_early`: the first layers stay as they are, as in the benchmark; R2Former's ResNet-50
        trains all of them.
        """
        super().__init__()
        extras = extras or Extras()
        check_parts(backbone, aggregation, l2, fc_output_dim)
        extras.check(backbone, aggregation)
        source = make_source(backbone, aggregation, pretrained, extras)
        if not freeze_early:
            source.net.requires_grad_(True)
        self.backbone, self.prefix, channels = source.net, source.prefix, source.channels
        blocks = range(extras.num_non_local if extras.non_local else 0)
        self.non_local = nn.Sequential(
            *(NonLocal(channels, extras.channel_bottleneck) for _ in blocks)
        )
        pooling, width = make_pooling(aggregation, channels, netvlad_clusters)
        if isinstance(pooling, SeqPool) and source.pool:
            pooling.attention.load_state_dict(source.pool)
        parts = {
            "before_pool": [L2Norm(), pooling, nn.Flatten()],
            "after_pool": [pooling, L2Norm(), nn.Flatten()],
            "none": [pooling, nn.Flatten()],
        }
        # NetVLAD and CRN normalise by themselves, tokens are not maps: the pooling stands alone
        alone = aggregation in (*TOKEN_POOLINGS, "netvlad", "crn", "rrm")
        self.aggregation: nn.Module = pooling if alone else nn.Sequential(*parts[l2])
        self.out_dim = width if fc_output_dim is None else fc_output_dim
        if fc_output_dim is not None:
            self.aggregation = nn.Sequential(
                self.aggregation, nn.Linear(width, fc_output_dim), L2Norm()
            )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, out_dim)."""
        features = self.backbone(images)
        if self.prefix is not None:
            features = tokens_to_map(features, self.prefix, images.shape[-2:])
        return nn.functional.normalize(self.aggregation(self.non_local(features)), dim=1)

    def embed_global(self, images: Tensor) -> Tensor:
        """The same, under the name that all networks share."""
        return self(images)


def check_parts(backbone: str, aggregation: str, l2: str, fc_output_dim: int | None) -> None:
    """ValueError for parts that do not go together."""
    if l2 not in L2_PLACES:
        raise ValueError(f"l2 is {l2!r}, expected one of {list(L2_PLACES)}")
    tokens = TOKEN_POOLINGS if backbone in TRANSFORMERS else ()
    if aggregation not in (*tokens, *MAP_POOLINGS):
        raise ValueError(
            f"aggregation {aggregation!r} does not go with {backbone}; choose one of "
            f"{[*tokens, *MAP_POOLINGS]}"
        )
    if aggregation == "none" and fc_output_dim is not None:
        raise ValueError(
            "aggregation none leaves the whole map, whose size depends on the image: set "
            "fc_output_dim=None"
        )


class Source(NamedTuple):
    """Where the features that are pooled come from."""

    net: nn.Module
    channels: int
    prefix: int | None = None  # tokens before those of places; None: not to be made a map
    pool: Mapping[str, Tensor] | None = None  # pretrained attention pooling, where there is one


def make_source(backbone: str, aggregation: str, pretrained: bool, extras: Extras) -> Source:
    """A CNN, or a transformer with its first blocks."""
    if backbone not in TRANSFORMERS:
        return Source(*make_backbone(backbone, pretrained, extras.backbone_weights))
    net, pool = make_transformer(
        backbone, aggregation == "cls", pretrained, extras.trunc_te, extras.backbone_weights
    )
    freeze_transformer(net, extras.freeze_te)
    return Source(net, net.width, None if aggregation in TOKEN_POOLINGS else net.prefix, pool)


def make_backbone(name: str, pretrained: bool, path: str | None = None) -> tuple[nn.Module, int]:
    """The CNN of that name and its number of channels.

    `path`: file of the pretrained weights; None: those of torchvision. As in the benchmark, layers
    below conv4 (ResNet) or conv5 (VGG-16) are frozen.
    """
    if name == MINI:
        if pretrained:
            raise ValueError(f"{MINI} has no ImageNet weights: set model.pretrained=False")
        return MiniResNetFeatures().as_sequence(), MiniResNetFeatures.widths[-1]
    if name not in BACKBONES:
        raise ValueError(
            f"backbone is {name!r}, expected deit, deitBase, resnet50 (with reranking) or one of "
            f"{BACKBONES}"
        )
    weights = "IMAGENET1K_V1" if pretrained and path is None else None
    family = name[:-5] if name.startswith("resnet") else name
    model = torchvision.models.get_model(family, weights=weights)
    if pretrained and path is not None:
        load_exactly(model, read_pretrained(family, path), path)
    if family in ("vgg16", "alexnet"):
        layers = list(model.features.children())[:-2]  # without the last ReLU and pooling
        freeze(layers[:-5] if family == "vgg16" else [])
        return nn.Sequential(*layers), 512 if family == "vgg16" else 256
    cut = CUTS[name[-5:]]
    layers = list(model.children())[:cut]
    freeze(layers[:6])
    channels = {"resnet18": (256, 512)}.get(family, (1024, 2048))
    return nn.Sequential(*layers), channels[cut - 7]


def freeze(layers: list[nn.Module]) -> None:
    """Leave the layers as they are in training."""
    for layer in layers:
        layer.requires_grad_(False)
