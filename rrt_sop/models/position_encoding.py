"""Sine encoding of the cells of a feature map (RRT, ICCV'21, on products): no parameters."""

import torch
from torch import Tensor

TEMPERATURE = 10000.0
SCALE = 2.0
EPSILON = 1e-6  # in the denominator of the relative position, as published


def position_encoding(
    height: int, width: int, channels: int, device: torch.device | str | None = None
) -> Tensor:
    """(channels, height, width) float32: first half from the row, second half from the column.

    With F = channels / 2, rows i = 1..height and Y = 2 i / (height + 1e-6), channel k of a half is
    sin(Y / D_k) for even k and cos(Y / D_k) for odd k, D_k = 10000^(2 floor(k / 2) / F).
    """
    if channels % 4:
        raise ValueError(
            f"num_local_features is {channels}, expected a multiple of 4: a sine and a cosine "
            "for the row and for the column"
        )
    half = channels // 2
    k = torch.arange(half, dtype=torch.float32, device=device)
    divisor = TEMPERATURE ** (2 * torch.div(k, 2, rounding_mode="floor") / half)  # (F,)

    def encode(length: int) -> Tensor:
        steps = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        angle = SCALE * (steps / (length + EPSILON)) / divisor[:, None]  # (F, length)
        return torch.where(
            torch.arange(half, device=device)[:, None] % 2 == 0, angle.sin(), angle.cos()
        )

    rows = encode(height)[:, :, None].expand(half, height, width)
    columns = encode(width)[:, None, :].expand(half, height, width)
    return torch.cat([rows, columns])
