"""ResNet-50 with GeM in place of DeiT (R2Former, Table 6): descriptor, tokens and attention.

Global: L2(W GeM_p(L2(layer4)) + b). Local map: layer3. Attention: how much each place of layer4
contributes to the descriptor, enlarged to layer3.
"""

from collections.abc import Iterable

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from r2former.models.deit import Attended, read_hypercolumn
from r2former.models.pooling import GeM, L2Norm

STRIDE = 16  # pixels per column of layer3
POOLED, LAYER3 = 3, 3  # index of the stem's pooling; stages from there to layer3
CLAMP = 1e-6
MINI_WIDTHS = (32, 32, 64, 128, 192)  # channels of the stem and of layer1 to layer4
MINI_STRIDES = (1, 2, 1, 2)  # of layer1 to layer4


def ceil_div(value: int, by: int) -> int:
    """value / by, rounded up."""
    return -(-value // by)


class ResNetFeatures(nn.Sequential):
    """torchvision's resnet50 without its last two children, numbered as in the released names."""

    widths = (64, 256, 512, 1024, 2048)  # channels of the stem and of layer1 to layer4
    stride = STRIDE

    def __init__(self, hypercolumn: int = 0, children: Iterable[nn.Module] | None = None) -> None:
        """`hypercolumn`: 100 * s + e takes stages s..e-1, concatenated, in place of layer3: 0 is
        the stem after its pooling, 1 to 3 are layer1 to layer3; 4 takes all (1856 channels).

        `children`: eight others: conv1, bn1, relu, maxpool, layer1 .. layer4.
        """
        if children is None:
            children = list(torchvision.models.resnet50(weights=None).children())[:-2]
        super().__init__(*children)
        self.columns = read_hypercolumn(hypercolumn, len(self.widths))

    @property
    def local_width(self) -> int:
        """Channels of the local map."""
        return sum(self.widths[stage] for stage in self.columns or (LAYER3,))

    @property
    def width(self) -> int:
        """Channels of layer4."""
        return self.widths[-1]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> local map (B, 1024, ceil(H/16), ceil(W/16)), layer4 (B, 2048, ...).

        The maps of a hypercolumn are brought to the size of layer3 as the attention is: bicubic,
        without antialias (the paper does not say how).
        """
        x, kept = images, []
        for index in range(POOLED + LAYER3 + 1):
            x = self[index](x)
            if index - POOLED in self.columns:
                kept.append(x)
        size = x.shape[-2:]
        resized = [
            part if part is x else
            nn.functional.interpolate(part, size=size, mode="bicubic", align_corners=False)
            for part in kept
        ]  # fmt: skip
        return torch.cat(resized, dim=1) if kept else x, self[POOLED + LAYER3 + 1](x)


class MiniResNetFeatures(ResNetFeatures):
    """One basic block per layer and few channels, for small images; layer3 at stride 8.

    Children are numbered as those of resnet50, so that everything else is common.
    """

    widths = MINI_WIDTHS
    stride = 8

    def __init__(self, hypercolumn: int = 0) -> None:
        super().__init__(hypercolumn, make_mini_layers())
        self.to(memory_format=torch.channels_last)  # on CPUs faster

    def as_sequence(self) -> nn.Sequential:
        """The same layers, called for the last one alone."""
        return nn.Sequential(*self)


def make_mini_layers() -> list[nn.Module]:
    """conv1, bn1, relu, maxpool, layer1 .. layer4 of the small ResNet, random weights."""
    stem = MINI_WIDTHS[0]
    layers: list[nn.Module] = [
        nn.Conv2d(3, stem, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(stem),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    for before, after, stride in zip(MINI_WIDTHS, MINI_WIDTHS[1:], MINI_STRIDES, strict=False):
        shortcut = None
        if stride > 1 or before != after:
            shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )
        layers.append(nn.Sequential(BasicBlock(before, after, stride, shortcut)))
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return layers


class GeMHead(nn.Sequential):
    """Normalised channels -> GeM -> linear -> unit rows; names `0.1.p`, `1.weight`, `1.bias`."""

    def __init__(self, channels: int, out_dim: int) -> None:
        super().__init__(
            nn.Sequential(L2Norm(), GeM(), nn.Flatten()), nn.Linear(channels, out_dim), L2Norm()
        )


def attend(layer3: Tensor, layer4: Tensor, head: GeMHead, size: tuple[int, int]) -> Attended:
    """Descriptor (B, 256), tokens (B, T, 1024) and attention (B, T), T = ceil(H/16)*ceil(W/16).

    `size`: rows and columns of the grid of places.
    """
    with torch.no_grad():
        normed = nn.functional.normalize(layer4, dim=1).clamp(min=CLAMP)
        linear = head[1]
        assert isinstance(linear, nn.Linear)
        weight = linear.weight[:, :, None, None]
        contribution = nn.functional.conv2d(normed, weight).clamp(min=CLAMP).sum(1, keepdim=True)
        attention = nn.functional.interpolate(
            contribution, size=size, mode="bicubic", align_corners=False
        )
    return Attended(head(layer4), layer3.flatten(2).transpose(1, 2), attention.flatten(1))
