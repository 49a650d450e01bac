"""Tiles of values as numbers that are quick to compare, and selections from them.

A tile of bfloat16 values is looked at as int16 codes in the same order on the processor.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.torch_threads import workers

STRIP = 1 << 21  # bytes of a tile worked on at a time: they stay in the cache
GROUP = 8  # codes of a row of a tile that are looked at together


def as_codes(values: Tensor) -> Tensor:
    """Something quick to compare in place of `values`, in the same order; overwrites them.

    On the processor bfloat16 numbers become int16 (negative ones with the other bits flipped).
    """
    if values.dtype != torch.bfloat16 or values.device.type != "cpu":
        return values
    codes = values.view(torch.int16)
    in_strips(flip, codes.numpy())
    return codes


def flip(strip: np.ndarray) -> None:
    """int16 views of bfloat16 numbers to their codes, in place."""
    strip ^= (strip >> 15) & np.int16(0x7FFF)


def from_codes(codes: Tensor) -> Tensor:
    """The float32 values of a selection of codes."""
    if codes.dtype == torch.int16:
        return (codes ^ ((codes >> 15) & 0x7FFF)).view(torch.bfloat16).float()
    return codes.float()


def least_codes(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Codes (or float32) at or below the float32 `values`, for comparison with codes of `dtype`."""
    if dtype != torch.int16:
        return values
    bits = values.view(torch.int32)
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> 16).to(torch.int16)


def in_strips(function: Callable[..., Any], *tiles: np.ndarray) -> list[Any]:
    """The function's results on a few rows of the arrays at a time, by all threads, in order."""
    step = max(1, STRIP * len(tiles[0]) // max(1, tiles[0].nbytes))
    starts = range(0, len(tiles[0]), step)
    return list(workers().map(lambda i: function(*(x[i : i + step] for x in tiles)), starts))


def kth_largest(rows: Tensor, k: int) -> Tensor:
    """(n, m) codes or numbers -> (n,) the k-th largest of each row."""
    if rows.device.type != "cpu" or rows.dtype == torch.bfloat16:
        return rows.topk(k, dim=1, sorted=False).values.amin(dim=1)
    found = in_strips(lambda strip: select_kth(np.array(strip, order="C"), k), rows.numpy())
    return torch.from_numpy(np.concatenate(found))


def select_kth(rows: np.ndarray, k: int) -> np.ndarray:
    """The same on the calling thread; overwrites `rows`."""
    place = rows.shape[1] - k
    rows.partition(place, axis=1)
    return rows[:, place].copy()


def true_places(mask: np.ndarray) -> np.ndarray:
    """np.flatnonzero of a whole number of eight booleans, quicker where a few in a hundred are."""
    words = mask.reshape(-1).view(np.uint64)
    used = np.flatnonzero(words != 0)
    found = np.flatnonzero(words[used].view(bool))
    at = used[found >> 3]
    at <<= 3
    found &= 7
    at |= found
    return at


def entries(mask: Tensor) -> Tensor:
    """Flat positions (P,) of the true entries, ascending."""
    if mask.device.type == "cpu":  # numpy is several times quicker at this
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return torch.nonzero(mask.view(-1)).squeeze(1)


def kth_at_least(codes: Tensor, k: int, by_column: bool) -> Tensor:
    """Lower bound of the k-th largest code of each row (or column) of a tile, nearly equal to it.

    The k-th largest maximum of groups of codes: k groups hold one code each that is no smaller.
    """
    maxima = group_maxima(codes, GROUP // 2, by_column)
    fine = maxima if maxima.shape[0 if by_column else 1] >= 8 * k else codes
    return kth_largest(fine.T if by_column else fine, k)


def group_maxima(codes: Tensor, size: int, by_column: bool) -> Tensor:
    """Maxima over `size` codes of a row at equal distances: (n, m) -> (n, m / size) or (n, m).

    `by_column`: over codes of a column, (n / size, m). Not grouped where `size` does not divide.
    """
    n, m = codes.shape
    if (n if by_column else m) % size:
        return codes
    return codes.view(size, -1, m).amax(0) if by_column else codes.view(n, size, -1).amax(1)


def at_or_above(codes: Tensor, floor: Tensor, by_column: bool) -> Tensor:
    """Flat positions in the tile whose code reaches the floor of its row (or column).

    Rows ascending unless `by_column`. Only groups whose maximum reaches it are looked into.
    """
    maxima = group_maxima(codes, GROUP, by_column)
    found = entries(maxima >= (floor[None, :] if by_column else floor[:, None]))
    if maxima is codes:
        return found
    n, m = maxima.shape
    of = floor[found % m if by_column else found // m]
    if by_column:
        start, step = found, n * m
    else:
        start, step = found // m * codes.shape[1] + found % m, m
    at = start[:, None] + torch.arange(GROUP, device=codes.device) * step
    return at[codes.view(-1)[at] >= of[:, None]]


def stable_order(keys: Tensor, below: int) -> Tensor:
    """Stable ascending order of small whole numbers; a radix sort where they fit 16 bits."""
    if keys.device.type == "cpu" and below <= 1 << 16:
        return torch.from_numpy(np.argsort(keys.numpy().astype(np.uint16), kind="stable"))
    return torch.sort(keys, stable=True).indices
