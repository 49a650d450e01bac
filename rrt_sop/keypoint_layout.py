"""Where the keypoints of an image stand in its tensor (SuperPoint rows): below its pixels.

So an image with keypoints is one tensor (1, S + R, S), and loaders, batches and training take it as
they take any other image. Shared by datasets (which fill it) and models (which read it).
"""

import torch
from torch import Tensor
from torch.nn import functional

PER_POINT = 3  # x, y in [0, 1], and 1 for a keypoint or 0 for padding
FILLER = -1.0  # up to the end of the last row


def pack(grey: Tensor, points: Tensor, max_points: int) -> Tensor:
    """(1, S, S) in [0, 1] with (n, 2) points (x, y) -> (1, S + R, S); the first `max_points` stay.

    Padding points stand in the middle, (0.5, 0.5).
    """
    size = grey.shape[-1]
    values = torch.tensor([0.5, 0.5, 0.0]).repeat(max_points, 1)
    kept = min(len(points), max_points)
    values[:kept, :2] = points[:kept]
    values[:kept, 2] = 1.0
    flat = values.flatten()
    rows = functional.pad(flat, (0, -len(flat) % size), value=FILLER).view(1, -1, size)
    return torch.cat([grey, rows], dim=1)


def unpack(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 1, S + R, S) -> grey (B, 1, S, S), points (B, N, 2) and mask (B, N), True = padding."""
    size = images.shape[-1]
    if images.dim() != 4 or images.shape[1] != 1 or images.shape[2] <= size:
        raise ValueError(
            f"images are {tuple(images.shape)}, expected (B, 1, S + R, S) with keypoints below the "
            "pixels; name a set with keypoints (dataset.sop_superpoint)"
        )
    flat = images[:, 0, size:].flatten(1)
    count = flat.shape[1] // PER_POINT
    values = flat[:, : count * PER_POINT].view(len(images), count, PER_POINT)
    values = values[:, : int((values[0, :, 2] > FILLER / 2).sum())]
    return images[:, :, :size], values[..., :2], values[..., 2] < 0.5
