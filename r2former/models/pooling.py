"""Pooling of the VG benchmark, for the option `aggregation`: (B, C, H, W) -> (B, C) or wider."""

import math

import torch
from torch import Tensor, nn

from r2former.models.vlad import CRN, NetVLAD


class L2Norm(nn.Module):
    """Divides by the L2 norm along axis 1 (at least 1e-12)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        return nn.functional.normalize(x, dim=1)


class GeM(nn.Module):
    """Generalised-mean pooling: y_c = (mean_hw max(x_chw, eps)^p)^(1/p)."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), p))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1)."""
        return x.clamp(min=self.eps).pow(self.p).mean(dim=(-2, -1), keepdim=True).pow(1 / self.p)


class SPoC(nn.Module):
    """Average pooling (Babenko and Lempitsky 2015)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1)."""
        return x.mean(dim=(-2, -1), keepdim=True)


class MAC(nn.Module):
    """Maximum pooling (Razavian et al. 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1)."""
        return x.amax(dim=(-2, -1), keepdim=True)


class RMAC(nn.Module):
    """Sum of the normalised maxima of regions (Tolias et al. 2016).

    Scale l has squares of side 2 min(H, W) / (l + 1); along the longer side so many more that
    neighbours overlap by about 40 %.
    """

    def __init__(self, levels: int = 3, overlap: float = 0.4, eps: float = 1e-6) -> None:
        super().__init__()
        self.levels, self.overlap, self.eps = levels, overlap, eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1)."""
        total = self._normed_maximum(x)
        height, width = x.shape[-2:]
        for top, left, side in regions(height, width, self.levels, self.overlap):
            total = total + self._normed_maximum(x[..., top : top + side, left : left + side])
        return total

    def _normed_maximum(self, x: Tensor) -> Tensor:
        peak = x.amax(dim=(-2, -1), keepdim=True)
        return peak / (peak.norm(dim=1, keepdim=True) + self.eps)


def regions(height: int, width: int, levels: int, overlap: float) -> list[tuple[int, int, int]]:
    """(top, left, side) of the squares of all scales."""
    shorter, longer = min(height, width), max(height, width)
    counts = range(2, 8)
    extra = 0
    if longer > shorter:
        steps = [(longer - shorter) / (count - 1) for count in counts]
        gaps = [abs((shorter * shorter - shorter * s) / shorter**2 - overlap) for s in steps]
        extra = 1 + min(range(len(gaps)), key=gaps.__getitem__)
    found = []
    for level in range(1, levels + 1):
        side = 2 * shorter // (level + 1)
        if side == 0:
            continue
        rows = level + (extra if height > width else 0)
        columns = level + (extra if width > height else 0)
        for top in spread(height - side, rows):
            found += [(top, left, side) for left in spread(width - side, columns)]
    return found


def spread(room: int, count: int) -> list[int]:
    """`count` starts from 0 to `room`, evenly; one: 0."""
    return [math.floor(room * i / max(1, count - 1)) for i in range(count)]


class RRM(nn.Module):
    """Residual retrieval module: average, then a residual map between two LayerNorms."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        x = self.ln1(x.mean(dim=(-2, -1)))
        return self.ln2(x + self.fc2(torch.relu(self.fc1(x))))


class CLS(nn.Module):
    """The class token of (B, N, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, D)."""
        return x[:, 0]


class SeqPool(nn.Module):
    """Tokens weighted by a learnt softmax (compact transformers)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention = nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, D)."""
        weights = self.attention(x).softmax(dim=1)
        return (weights * x).sum(dim=1)


TOKEN_POOLINGS = ("cls", "seqpool")
MAP_POOLINGS = ("netvlad", "gem", "spoc", "mac", "rmac", "crn", "rrm", "none")


def make_pooling(name: str, channels: int, clusters: int = 64) -> tuple[nn.Module, int]:
    """The pooling of that name and its output width."""
    if name in ("netvlad", "crn"):
        make = NetVLAD if name == "netvlad" else CRN
        return make(clusters, channels), clusters * channels
    made: dict[str, type[nn.Module]] = {"gem": GeM, "spoc": SPoC, "mac": MAC, "rmac": RMAC}
    if name in made:
        return made[name](), channels
    if name == "none":
        return nn.Identity(), channels
    with_width: dict[str, type[nn.Module]] = {"rrm": RRM, "seqpool": SeqPool}
    if name in with_width:
        return with_width[name](channels), channels
    if name == "cls":
        return CLS(), channels
    raise ValueError(f"aggregation is {name!r}, expected one of {[*MAP_POOLINGS, *TOKEN_POOLINGS]}")
