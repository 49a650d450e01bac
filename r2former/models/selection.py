"""Local features by attention: which patches, their coordinates and their weight (Sec. 3.2)."""

import torch
from torch import Tensor

XYA = 3  # columns of a local feature before its descriptor: X, Y, A


def select_patches(
    attention: Tensor, num_local: int, columns: int, patch: int, longer: int
) -> tuple[Tensor, Tensor]:
    """The patches with most attention: indices (B, k) int64, descending, and X, Y, A (B, k, 3).

    `attention` (B, T); k = min(T, num_local). X, Y: centre of the patch in a grid of `columns`,
    divided by the `longer` side of the image (X first). A: attention over that of the first.
    """
    values, index = attention.topk(min(num_local, attention.shape[1]), dim=1)
    centre = patch / 2
    x = (index % columns) * patch + centre
    y = torch.div(index, columns, rounding_mode="floor") * patch + centre
    weight = values / values[:, :1]
    return index, torch.stack([x / longer, y / longer, weight], dim=-1)


def gather_rows(features: Tensor, index: Tensor) -> Tensor:
    """(B, N, D) rows at (B, k) -> (B, k, D)."""
    return features.gather(1, index[..., None].expand(-1, -1, features.shape[-1]))
