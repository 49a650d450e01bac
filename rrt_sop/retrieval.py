"""Global retrieval: exact nearest neighbours of the global features, recall@k, neighbour tables."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from rrt_sop.datasets.image_list import ImageList
from utils.knn import search
from utils.nn_tables import save_nn_inds
from utils.paths import atomic_write
from utils.recall import recall_from_labels

BLOCK = 4096  # queries whose labels are compared at a time


def normalize(features: np.ndarray) -> np.ndarray:
    """(N, D) float32 rows divided by their L2 norms (at least 1e-12)."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norms, np.float32(1e-12))


def find_neighbours(
    queries: np.ndarray, gallery: np.ndarray | None, depth: int, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) squared L2 distances, ascending, and gallery indices; K = min(depth, what there is).

    Features are normalised (again). Without a gallery the queries are searched in themselves, and
    each one's first neighbour is dropped without a look, as published: it is taken to be the query
    itself. `options` go to `utils.knn.search`.
    """
    queries = normalize(queries)
    if gallery is None:
        k = min(depth, len(queries) - 1)
        if k < 1:
            raise ValueError(f"{len(queries)} image cannot be matched against itself")
        dists, inds = search(queries, queries, k + 1, metric="l2", **options)
        return np.ascontiguousarray(dists[:, 1:]), np.ascontiguousarray(inds[:, 1:])
    return search(queries, normalize(gallery), min(depth, len(gallery)), metric="l2", **options)


def compute_recall(
    nn_inds: np.ndarray, query_labels: np.ndarray, gallery_labels: np.ndarray, ks: tuple[int, ...]
) -> dict[str, float]:
    """{"R@k": percent, 2 decimals}; a k beyond the table's columns counts the columns there are."""
    recalls = recall_from_labels(nn_inds, query_labels, gallery_labels, ks, truncated=True)
    return {f"R@{k}": round(100 * value, 2) for k, value in recalls.items()}


def find_first_hits(
    nn_inds: np.ndarray, query_labels: np.ndarray, gallery_labels: np.ndarray
) -> np.ndarray:
    """(Q,) int64 column of the first image of the query's label; K where there is none.

    A query counts for R@k exactly if this is below k.
    """
    first = np.empty(len(nn_inds), np.int64)
    for start in range(0, len(nn_inds), BLOCK):
        part = slice(start, start + BLOCK)
        hits = gallery_labels[nn_inds[part]] == query_labels[part, None]
        first[part] = np.where(hits.any(axis=1), hits.argmax(axis=1), nn_inds.shape[1])
    return first


def neighbour_origin(queries: ImageList, gallery: ImageList | None = None) -> dict[str, Any]:
    """What a global neighbour table of these images is made from, for its record."""
    origin = {**queries.origin(), "ranking": "global"}
    return origin if gallery is None else {**origin, "gallery": gallery.origin()}


def save_neighbours(
    folder: str | Path,
    dists: np.ndarray,
    nn_inds: np.ndarray,
    origin: dict[str, Any],
    copy: str | Path | None = None,
) -> Path:
    """Write nn_dists.pkl (float32) and nn_inds.pkl (int64) into `folder`; returns the latter.

    `copy`: where the table goes as well.
    """
    folder = Path(folder)
    atomic_write(
        folder / "nn_dists.pkl",
        pickle.dumps(np.ascontiguousarray(dists, dtype=np.float32), protocol=4),
    )
    for path in (folder / "nn_inds.pkl", *([] if copy is None else [Path(copy)])):
        save_nn_inds(path, nn_inds, origin)
    return folder / "nn_inds.pkl"
