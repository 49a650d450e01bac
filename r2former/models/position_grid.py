"""Position embeddings of DeiT for images of another size than the model was built for.

The published code does not simply interpolate: it cuts a square from the middle of the grid, or,
where the grid is too small, enlarges it and rescales the values about its centre. Released weights
give their published numbers only so.
"""

import torch
from torch import Tensor, nn


def fit_grid(grid: Tensor, rows: int, columns: int, landscape: bool) -> Tensor:
    """(gh, gw, D) embeddings of the patches -> (rows, columns, D) for another image size.

    `landscape`: the image is wider than high, so rows are cut from the square; else columns.
    """
    side = max(rows, columns)
    square = cut_square(grid, side) if min(grid.shape[:2]) >= side else enlarge(grid, side)
    start = side // 2 - (rows if landscape else columns) // 2
    if landscape:
        return square[start : start + rows]
    return square[:, start : start + columns]


def cut_square(grid: Tensor, side: int) -> Tensor:
    """The middle (side, side, D) of a grid that is large enough."""
    top, left = (size // 2 - side // 2 for size in grid.shape[:2])
    return grid[top : top + side, left : left + side]


def enlarge(grid: Tensor, side: int) -> Tensor:
    """(gh, gw, D) -> (side, side, D): bicubic, then rescaled about the centre.

    The factor keeps the distance between the centre and the point gh // 2 above it. A grid with
    more rows than `side` makes that index negative, which counts from the end, as published.
    """
    gh, gw = grid.shape[:2]
    enlarged = nn.functional.interpolate(
        grid.permute(2, 0, 1)[None], size=(side, side), mode="bicubic", align_corners=False
    )[0].permute(1, 2, 0)
    middle = side // 2
    centre = enlarged[middle, middle]
    before = torch.linalg.vector_norm(grid[0, gw // 2] - grid[gh // 2, gw // 2])
    after = torch.linalg.vector_norm(enlarged[middle - gh // 2, middle] - centre)
    return (enlarged - centre) * (before / after) + centre


def resize_pretrained(pos_embed: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
    """ImageNet's (1, prefix + n * n, D) -> (1, prefix + rows * columns, D), bilinear."""
    head, patches = pos_embed[:, :prefix], pos_embed[:, prefix:]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise ValueError(
            f"the position embedding has {patches.shape[1]} patches, expected a square grid of an "
            "ImageNet checkpoint"
        )
    grid = patches.transpose(1, 2).unflatten(2, (side, side))
    resized = nn.functional.interpolate(
        grid, size=(rows, columns), mode="bilinear", align_corners=False
    )
    return torch.cat([head, resized.flatten(2).transpose(1, 2)], dim=1)
