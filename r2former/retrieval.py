"""Global retrieval: nearest database images, recall@k and mAP@k from lists of positives."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from r2former.datasets.place_set import Positives
from utils.knn import search


def find_neighbours(
    queries: np.ndarray, database: np.ndarray, depth: int, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) squared L2 distances, ascending, and database indices; K = min(depth, N).

    Descriptors are taken as they are. `options` go to `utils.knn.search`.
    """
    return search(queries, database, min(depth, len(database)), metric="l2", **options)


def mark_hits(nn_inds: np.ndarray, positives: Positives) -> np.ndarray:
    """(Q, K) bool: which of the ranked images are positives of their query."""
    if len(nn_inds) != len(positives):
        raise ValueError(f"{len(nn_inds)} ranked lists, but positives of {len(positives)} queries")
    stride = 1 + max(int(nn_inds.max(initial=0)), int(positives.indices.max(initial=0)))
    owner = np.repeat(np.arange(len(positives)), positives.counts)
    wanted = positives.indices + stride * owner  # ascending
    keys = nn_inds + stride * np.arange(len(nn_inds))[:, None]
    if not len(wanted):
        return np.zeros(nn_inds.shape, bool)
    place = np.searchsorted(wanted, keys).clip(max=len(wanted) - 1)
    return wanted[place] == keys


def find_first_hits(hits: np.ndarray) -> np.ndarray:
    """(Q,) int64 column of the first positive; K where there is none. R@k counts those below k."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1), hits.shape[1]).astype(np.int64)


def compute_recalls(first_hits: np.ndarray, ks: Sequence[int], depth: int) -> dict[str, float]:
    """{"R@k": percent} of all queries, 2 decimals; a k beyond the depth counts what there is.

    A query without positives counts as missed.
    """
    return {f"R@{k}": round(100 * float((first_hits < min(k, depth)).mean()), 2) for k in ks}


def average_precisions(hits: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """(Q,) AP@k of MSLS: (sum over hits at rank r <= k of hits so far / r) / min(positives, k).

    `counts` (Q,): positives of each query; NaN where there is none.
    """
    head = hits[:, :k]
    precision = head.cumsum(axis=1) / np.arange(1, head.shape[1] + 1)
    total = (precision * head).sum(axis=1)
    return np.divide(total, np.minimum(counts, k), out=np.full(len(hits), np.nan), where=counts > 0)


def compute_maps(hits: np.ndarray, counts: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """{"mAP@k": percent}, over the queries with a positive, as the MSLS toolkit; 2 decimals."""
    asked = counts > 0
    if not asked.any():
        return {f"mAP@{k}": float("nan") for k in ks}
    found = {k: average_precisions(hits[asked], counts[asked], k) for k in ks}
    return {f"mAP@{k}": round(100 * float(values.mean()), 2) for k, values in found.items()}
