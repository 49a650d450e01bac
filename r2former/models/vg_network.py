"""Global networks of the VG benchmark: a CNN or ViT with a pooling, without reranking."""

from typing import Any

import torchvision
from torch import Tensor, nn

from r2former.models.pooling import MAP_POOLINGS, TOKEN_POOLINGS, L2Norm, make_pooling
from r2former.models.resnet import MiniResNetFeatures

MINI = "resnetMini"
RESNETS = ("resnet18", "resnet50", "resnet101")
# child of torchvision's ResNet at which features are taken: one past layer3 or layer4
CUTS = {"conv4": 7, "conv5": 8}
BACKBONES = [
    *("alexnet", "vgg16", "vit", MINI),
    *(f"{name}{cut}" for name in RESNETS for cut in CUTS),
]
L2_PLACES = ("before_pool", "after_pool", "none")


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
    ) -> None:
        """`pretrained`: ImageNet weights from the cache of torchvision or timm (or downloaded).

        `freeze_early`: the first layers stay as they are, as in the benchmark; R2Former's ResNet-50
        trains all of them.
        """
        super().__init__()
        if l2 not in L2_PLACES:
            raise ValueError(f"l2 is {l2!r}, expected one of {list(L2_PLACES)}")
        wanted = TOKEN_POOLINGS if backbone == "vit" else MAP_POOLINGS
        if aggregation not in wanted:
            raise ValueError(
                f"aggregation {aggregation!r} does not go with {backbone}; choose one of "
                f"{list(wanted)}"
            )
        if aggregation == "none" and fc_output_dim is not None:
            raise ValueError(
                "aggregation none leaves the whole map, whose size depends on the image: set "
                "fc_output_dim=None"
            )
        self.backbone: nn.Module
        self.backbone, channels = make_backbone(backbone, pretrained)
        if not freeze_early:
            self.backbone.requires_grad_(True)
        pooling, width = make_pooling(aggregation, channels, netvlad_clusters)
        parts = {
            "before_pool": [L2Norm(), pooling, nn.Flatten()],
            "after_pool": [pooling, L2Norm(), nn.Flatten()],
            "none": [pooling, nn.Flatten()],
        }
        # NetVLAD and CRN normalise by themselves, tokens are not maps: the pooling stands alone
        alone = backbone == "vit" or aggregation in ("netvlad", "crn", "rrm")
        self.aggregation: nn.Module = pooling if alone else nn.Sequential(*parts[l2])
        self.out_dim = width if fc_output_dim is None else fc_output_dim
        if fc_output_dim is not None:
            self.aggregation = nn.Sequential(
                self.aggregation, nn.Linear(width, fc_output_dim), L2Norm()
            )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, out_dim)."""
        return nn.functional.normalize(self.aggregation(self.backbone(images)), dim=1)

    def embed_global(self, images: Tensor) -> Tensor:
        """The same, under the name that all networks share."""
        return self(images)


class ViTTokens(nn.Module):
    """timm's ViT-B/16, all tokens of the last layer."""

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        import timm

        self.vit: Any = timm.create_model(
            "vit_base_patch16_224", pretrained=pretrained, num_classes=0, dynamic_img_size=True
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + T, 768)."""
        return self.vit.forward_features(images)


def make_backbone(name: str, pretrained: bool) -> tuple[nn.Module, int]:
    """The feature extractor of that name and its number of channels.

    As in the benchmark, layers below conv4 (ResNet) or conv5 (VGG-16) are frozen.
    """
    if name == "vit":
        return ViTTokens(pretrained), 768
    if name == MINI:
        if pretrained:
            raise ValueError(f"{MINI} has no ImageNet weights: set model.pretrained=False")
        return MiniResNetFeatures().as_sequence(), MiniResNetFeatures.width
    if name not in BACKBONES:
        raise ValueError(
            f"backbone is {name!r}, expected deit, deitBase, resnet50 (with reranking) or one of "
            f"{BACKBONES}; cct384 has no well-kept library and is not offered"
        )
    weights = "IMAGENET1K_V1" if pretrained else None
    family = name[:-5] if name.startswith("resnet") else name
    model = torchvision.models.get_model(family, weights=weights)
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
