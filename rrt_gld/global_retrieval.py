"""Global ranking by cosine similarity, with alpha query expansion."""

import numpy as np

from utils.knn import search


def normalize(vectors: np.ndarray) -> np.ndarray:
    """(N, D) float32 rows divided by their L2 norms.

    A row of zeros (an image in which nothing was found) stays as it is: similarity 0 to all.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, np.float32(1))


def rank_all(queries: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Q, G) cosines, falling, and gallery indices; equal cosines by the lower index.

    Both inputs float32 with unit rows. Exact (`utils.knn`): the ranking is the same on every
    machine and with any number of threads.
    """
    return search(queries, gallery, len(gallery), progress=False)


def expand_queries(
    queries: np.ndarray, gallery: np.ndarray, k: int = 2, alpha: float = 0.3
) -> np.ndarray:
    """(Q, D) queries plus their top `k` gallery rows weighted by similarity^alpha, over k + 1.

    Unit rows in, unit rows out. The query has similarity 1 with itself. A negative similarity
    counts as 0: its power is not defined.
    """
    if not 0 < k <= len(gallery):
        raise ValueError(f"k of the query expansion is {k}, expected 1 to {len(gallery)}")
    similarities, top = search(queries, gallery, k, progress=False)
    weights = np.maximum(similarities, 0) ** np.float32(alpha)
    expanded = queries + np.einsum("qk,qkd->qd", weights, gallery[top])
    return normalize(expanded / np.float32(k + 1))
