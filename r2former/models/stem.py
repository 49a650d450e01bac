"""Convolutions in place of the patch projection: a small DeiT then learns from random weights.

Strided 3 x 3 convolutions with batch normalisation, then 1 x 1 to the width of the tokens (*Early
Convolutions Help Transformers See Better*, 2021). Not of R2Former's paper.
"""

from torch import Tensor, nn

FIRST_CHANNELS = 32


class ConvStem(nn.Sequential):
    """(B, 3, H, W) -> (B, D, H // patch, W // patch); a rest at the right or bottom is cut.

    Channels: 32, 64, then 128 (at most D).
    """

    def __init__(self, patch: int, dim: int) -> None:
        """`patch`: stride of the whole, a power of two."""
        halvings = patch.bit_length() - 1
        if patch < 2 or patch != 2**halvings:
            raise ValueError(f"patch_size is {patch}, a stem of convolutions needs a power of two")
        layers: list[nn.Module] = []
        before = 3
        for step in range(halvings):
            after = min(dim, FIRST_CHANNELS * 2 ** min(step, 2))
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
            before = after
        super().__init__(*layers, nn.Conv2d(before, dim, 1))
        self.patch = patch

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        height, width = (side // self.patch * self.patch for side in images.shape[-2:])
        return super().forward(images[..., :height, :width])
