"""ResNet-50 with GeM in place of DeiT (R2Former, Table 6): descriptor, tokens and attention.

Global: L2(W GeM_p(L2(layer4)) + b). Local map: layer3. Attention: how much each place of layer4
contributes to the descriptor, enlarged to layer3.
"""

import torch
import torchvision
from torch import Tensor, nn

from r2former.models.deit import Attended
from r2former.models.pooling import GeM, L2Norm

STRIDE = 16  # pixels per column of layer3
CLAMP = 1e-6


def ceil_div(value: int, by: int) -> int:
    """value / by, rounded up."""
    return -(-value // by)


class ResNetFeatures(nn.Sequential):
    """torchvision's resnet50 without its last two children, numbered as in the released names."""

    def __init__(self) -> None:
        children = list(torchvision.models.resnet50(weights=None).children())[:-2]
        super().__init__(*children)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> layer3 (B, 1024, ceil(H/16), ceil(W/16)), layer4 (B, 2048, ...)."""
        x = images
        for index in range(7):
            x = self[index](x)
        return x, self[7](x)


class GeMHead(nn.Sequential):
    """Normalised channels -> GeM -> linear -> unit rows; names `0.1.p`, `1.weight`, `1.bias`."""

    def __init__(self, channels: int, out_dim: int) -> None:
        super().__init__(
            nn.Sequential(L2Norm(), GeM(), nn.Flatten()), nn.Linear(channels, out_dim), L2Norm()
        )


def attend(layer3: Tensor, layer4: Tensor, head: GeMHead, size: tuple[int, int]) -> Attended:
    """Descriptor (B, 256), tokens (B, T, 1024) and attention (B, T), T = ceil(H/16)*ceil(W/16)."""
    with torch.no_grad():
        normed = nn.functional.normalize(layer4, dim=1).clamp(min=CLAMP)
        linear = head[1]
        assert isinstance(linear, nn.Linear)
        weight = linear.weight[:, :, None, None]
        contribution = nn.functional.conv2d(normed, weight).clamp(min=CLAMP).sum(1, keepdim=True)
        grid = ceil_div(size[0], STRIDE), ceil_div(size[1], STRIDE)
        attention = nn.functional.interpolate(
            contribution, size=grid, mode="bicubic", align_corners=False
        )
    return Attended(head(layer4), layer3.flatten(2).transpose(1, 2), attention.flatten(1))
