"""Nearest local descriptors of two images: quick products find candidates, float64 decides.

An inner product in low precision differs from the true one by at most E. Whoever lies 2 E or more
below a query's best cannot be its nearest, so only few pairs get their exact distance. The matches
are those of an exact search, whatever the precision of the products.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

SINGLE, BRAIN = 2.0**-24, 2.0**-9  # unit round-offs of float32 and bfloat16
UNIT = 1e-6  # how far the length of a row may be from 1 by rounding, which distances notice
MANY = 16  # candidates per row of the query from which on float32 products are taken
PAIRS = 16384  # candidates whose exact distances are computed at once
CHUNK = 1_000_000  # rows of images times rows of the query whose products are held at once


class Matches(NamedTuple):
    """Putative matches of a pair, in the order of the query's features."""

    query_index: np.ndarray  # (M,) int64
    db_index: np.ndarray  # (M,) int64
    distance: np.ndarray  # (M,) float32, L2


NO_MATCHES = Matches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
Multiply = Callable[[np.ndarray], np.ndarray]  # (N, D) -> (M, N) products with the query


@cache
def has_quick_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively."""
    import torch

    from utils.knn import multiplies_bf16

    return multiplies_bf16(torch.device("cpu"))


def single_error(width: int) -> float:
    """Largest error of a float32 product of unit rows, and what their lengths add."""
    return (width + 4) * SINGLE + UNIT


def multiplier(query: np.ndarray, bf16: bool) -> tuple[Multiply, float]:
    """What multiplies images with `query` (M, D), and the largest error E of a product."""
    error = single_error(query.shape[1])
    if not bf16:
        return lambda image: query @ image.T, error
    import torch

    rounded = torch.from_numpy(query).bfloat16()

    def multiply(image: np.ndarray) -> np.ndarray:
        return (rounded @ torch.from_numpy(image).bfloat16().T).float().numpy()

    return multiply, 3.05 * BRAIN + error  # both operands and the product are rounded


def match_by_distance(
    query: np.ndarray,
    images: Sequence[np.ndarray],
    max_distance: float,
    bf16: bool | None = None,
) -> list[Matches]:
    """Per image: each query row's nearest, where it is nearer than `max_distance` (L2).

    `query` (M, D), `images` (N, D) each: unit rows, float32. Equal distances go to the lower row.
    `bf16`: precision of the products; None: bfloat16 where the processor has it.
    """
    multiply, error = multiplier(query, has_quick_bf16() if bf16 is None else bf16)
    least = 1 - max_distance**2 / 2 - error
    found = []
    for image in images:
        _check(query, image)
        if not len(query) or not len(image):
            found.append(NO_MATCHES)
            continue
        crowded = len(query) * len(image) > CHUNK * 4
        if not crowded:
            parts = _candidates(multiply(image), least, 2 * error)
            crowded = len(parts[0]) > MANY * len(
                query
            )  # much alike: finer products tell more apart
        if crowded:
            parts = _candidates_in_blocks(query, image, least, 2 * single_error(query.shape[1]))
        found.append(_nearest(query, image, *parts, max_distance))
    return found


def _check(query: np.ndarray, image: np.ndarray) -> None:
    if query.ndim != 2 or image.ndim != 2 or query.shape[1] != image.shape[1]:
        raise ValueError(
            f"descriptors are {query.shape} and {image.shape}, expected (M, D) and (N, D) of one "
            "model; extract them again"
        )


def _candidates(products: np.ndarray, least: float, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (P,) of products above `least` and within `margin` of their row's best."""
    best = products[np.arange(len(products)), products.argmax(axis=1)]
    limit = np.where(best > least, best - margin, np.inf).astype(np.float32)
    # on the flat table: several times quicker than two-dimensional indices
    return np.divmod(np.flatnonzero(products > limit[:, None]), products.shape[1])


def _candidates_in_blocks(
    query: np.ndarray, image: np.ndarray, least: float, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """`_candidates` of large images, in float32, a bounded block of the query's rows at a time."""
    step = max(1, CHUNK // len(image))
    parts = [
        (start, _candidates(query[start : start + step] @ image.T, least, margin))
        for start in range(0, len(query), step)
    ]
    rows = np.concatenate([start + part[0] for start, part in parts])
    return rows, np.concatenate([part[1] for _, part in parts])


def _nearest(
    query: np.ndarray,
    image: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    max_distance: float,
) -> Matches:
    """Of candidate pairs, sorted by row and column, the nearest of each row, if near enough."""
    if not len(rows):
        return NO_MATCHES
    distance = np.concatenate(
        [
            distances(query[rows[at : at + PAIRS]], image[columns[at : at + PAIRS]])
            for at in range(0, len(rows), PAIRS)
        ]
    )
    first = np.flatnonzero(np.diff(rows, prepend=-1))  # of each row
    smallest = np.minimum.reduceat(distance, first)
    count = np.diff(np.append(first, len(rows)))
    hits = np.flatnonzero(distance == np.repeat(smallest, count))
    chosen = hits[np.flatnonzero(np.diff(rows[hits], prepend=-1))]  # of equal ones the first
    chosen = chosen[distance[chosen] < max_distance]
    return Matches(rows[chosen], columns[chosen], distance[chosen].astype(np.float32))


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) L2 distances of rows, in float64."""
    difference = a.astype(np.float64) - b
    return np.sqrt(np.einsum("pd,pd->p", difference, difference))


def match_by_ratio(
    query: np.ndarray, images: Sequence[np.ndarray], threshold: float
) -> Iterator[Matches]:
    """Per image: each row's nearest, where nearer than `threshold` times the second nearest.

    No limit of the distance; images of fewer than two rows have no matches.
    """
    for image in images:
        _check(query, image)
        if len(image) < 2 or not len(query):
            yield NO_MATCHES
            continue
        two = np.argpartition(-(query @ image.T), 1, axis=1)[:, :2]
        both = np.stack([distances(query, image[two[:, k]]) for k in (0, 1)], axis=1)
        rows, first = np.arange(len(query)), both.argmin(axis=1)
        nearest, second = both[rows, first], both[rows, 1 - first]
        kept = nearest < threshold * second
        yield Matches(rows[kept], two[rows, first][kept], nearest[kept].astype(np.float32))
