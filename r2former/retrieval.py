"""Global retrieval: nearest database images, and mAP@k from lists of positives."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.knn import search


def find_neighbours(
    queries: np.ndarray, database: np.ndarray, depth: int, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) squared L2 distances, ascending, and database indices; K = min(depth, N).

    Descriptors are taken as they are. `options` go to `utils.knn.search`.
    """
    return search(queries, database, min(depth, len(database)), metric="l2", **options)


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
