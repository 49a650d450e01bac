"""Nearest local descriptors of two images by one matrix product; float64 decides.

Of all pairs the product gives |a - b|^2 up to the rounding of float32. Only pairs that may be a
row's nearest within that error get their distance in float64, so that the matches are those of an
exact search (the published code's k-d tree), for descriptors of any length.
"""

from typing import NamedTuple

import numpy as np

SINGLE = 2.0**-24  # unit round-off of float32
PRODUCTS = 4_000_000  # products held at once
PAIRS = 16_384  # pairs whose exact distances are computed at once


class Candidates(NamedTuple):
    """Pairs that may be matches, sorted by query row, then index row."""

    rows: np.ndarray  # (P,) int64 rows of the query
    columns: np.ndarray  # (P,) int64 rows of the index image
    distances: np.ndarray  # (P,) float64, L2


def _check(query: np.ndarray, index: np.ndarray) -> None:
    if query.ndim != 2 or index.ndim != 2 or query.shape[1] != index.shape[1]:
        raise ValueError(
            f"descriptors are {query.shape} and {index.shape}, expected (N, D) with the same D: "
            "extract both images with the same model and configuration"
        )


def _collect(query: np.ndarray, index: np.ndarray, nearest: int, max_distance: float) -> Candidates:
    """All pairs that may be among a query row's `nearest` within `max_distance`."""
    lengths = np.einsum("nd,nd->n", query, query, dtype=np.float64)  # squared
    others = np.einsum("nd,nd->n", index, index, dtype=np.float64)
    longest = np.sqrt(others.max())
    # one product gives a.b - |b|^2 / 2 = (|a|^2 - |a - b|^2) / 2
    left = np.concatenate([query, np.ones((len(query), 1))], axis=1).astype(np.float32)
    right = np.concatenate([index, -others[:, None] / 2], axis=1).astype(np.float32)
    errors = (query.shape[1] + 8) * SINGLE * (np.sqrt(lengths) * longest + longest**2)
    step = max(1, PRODUCTS // len(index))
    found = []
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        scores = left[part] @ right.T
        if nearest == 1:
            best = scores.max(axis=1)
        else:
            best = np.partition(scores, -nearest, axis=1)[:, -nearest]
        least = (lengths[part] - max_distance**2) / 2 - errors[part]
        limits = np.maximum(best - 2 * errors[part], least)
        # rounded down, lest a candidate is lost
        limits = np.nextafter(limits.astype(np.float32), np.float32(-np.inf))
        # on the flat table: several times quicker than two-dimensional indices
        rows, columns = np.divmod(np.flatnonzero(scores >= limits[:, None]), len(index))
        found.append((rows + start, columns))
    rows, columns = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Candidates(rows, columns, _distances(query, index, rows, columns))


def _distances(
    query: np.ndarray, index: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """(P,) L2 distances in float64."""
    distances = np.empty(len(rows))
    for at in range(0, len(rows), PAIRS):
        part = slice(at, at + PAIRS)
        difference = query[rows[part]].astype(np.float64) - index[columns[part]]
        distances[part] = np.sqrt(np.einsum("pd,pd->p", difference, difference))
    return distances


def _order(found: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Candidates by row, then distance, then column; (R,) where each row starts in that order."""
    order = np.lexsort((found.columns, found.distances, found.rows))
    return order, np.flatnonzero(np.diff(found.rows[order], prepend=-1))


def match_by_distance(query: np.ndarray, index: np.ndarray, max_distance: float) -> np.ndarray:
    """(M, 2) int64: each query row's nearest index row, where nearer than `max_distance` (L2).

    `query` (N, D), `index` (N2, D). Sorted by query row; several may share an index row. Equal
    distances go to the lower index row. ValueError for descriptors of different widths.
    """
    _check(query, index)
    if not len(query) or not len(index):
        return np.zeros((0, 2), np.int64)
    found = _collect(query, index, 1, max_distance)
    order, firsts = _order(found)
    nearest = order[firsts]
    nearest = nearest[found.distances[nearest] < max_distance]
    return np.stack([found.rows[nearest], found.columns[nearest]], axis=1)


def match_by_ratio(query: np.ndarray, index: np.ndarray, ratio: float) -> np.ndarray:
    """(M, 2) int64: each query row's nearest, where nearer than `ratio` times the second nearest.

    As `match_by_distance` otherwise. With a single index row there is no second nearest, which
    counts as infinitely far.
    """
    _check(query, index)
    if not len(query) or not len(index):
        return np.zeros((0, 2), np.int64)
    found = _collect(query, index, min(2, len(index)), np.inf)
    order, firsts = _order(found)
    nearest = order[firsts]
    second = np.full(len(nearest), np.inf)
    if len(index) > 1:
        second = found.distances[order[firsts + 1]]
    nearest = nearest[found.distances[nearest] < ratio * second]
    return np.stack([found.rows[nearest], found.columns[nearest]], axis=1)
