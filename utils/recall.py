"""Recall@k: the share of queries with a right image among the first k of their ranking.

Which ranked images are right is told by labels (products) or by lists of positives (places); the
first right one of each query says all about its recall.
"""

from collections.abc import Iterable

import numpy as np

BLOCK = 4096  # queries whose labels are compared at a time


def hits_from_positives(nn_inds: np.ndarray, counts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """(Q, K) bool: which of the ranked images (Q, K) are positives of their query.

    `counts` (Q,): positives of each query, whose gallery numbers follow each other in `indices`,
    ascending for each. ValueError where lists and positives are of different queries.
    """
    if len(nn_inds) != len(counts):
        raise ValueError(f"{len(nn_inds)} ranked lists, but positives of {len(counts)} queries")
    stride = 1 + max(int(nn_inds.max(initial=0)), int(indices.max(initial=0)))
    wanted = indices + stride * np.repeat(np.arange(len(counts)), counts)  # ascending
    keys = nn_inds + stride * np.arange(len(nn_inds))[:, None]
    if not len(wanted):
        return np.zeros(nn_inds.shape, bool)
    place = np.searchsorted(wanted, keys).clip(max=len(wanted) - 1)
    return wanted[place] == keys


def find_first_hits(hits: np.ndarray) -> np.ndarray:
    """(Q, K) bool -> (Q,) int64 column of the first right image, K where there is none.

    A query counts for R@k exactly if this is below k.
    """
    return np.where(hits.any(axis=1), hits.argmax(axis=1), hits.shape[1]).astype(np.int64)


def find_first_of_label(
    nn_inds: np.ndarray, query_labels: np.ndarray, gallery_labels: np.ndarray
) -> np.ndarray:
    """`find_first_hits` where an image of the query's label is right, some queries at a time.

    `nn_inds` (Q, K) gallery numbers, without the query itself if it is in the gallery; labels (Q,)
    and (G,). ValueError for a table of other queries or another gallery.
    """
    if len(nn_inds) != len(query_labels):
        raise ValueError(f"{len(nn_inds)} ranked lists, but labels of {len(query_labels)} queries")
    first = np.empty(len(nn_inds), np.int64)
    for start in range(0, len(nn_inds), BLOCK):
        part = slice(start, start + BLOCK)
        ranked = nn_inds[part]
        if ranked.size and not 0 <= ranked.min() <= ranked.max() < len(gallery_labels):
            raise ValueError(
                f"the table refers to gallery images {ranked.min()} to {ranked.max()}, but there "
                f"are {len(gallery_labels)} gallery labels: it was made for another set"
            )
        first[part] = find_first_hits(gallery_labels[ranked] == query_labels[part, None])
    return first


def compute_recalls(first_hits: np.ndarray, ks: Iterable[int], depth: int) -> dict[str, float]:
    """{"R@k": percent} of all queries, 2 decimals; a k beyond `depth` counts what there is.

    `first_hits` (Q,), of lists of `depth` images. A query without a right image counts as missed.
    """
    return {f"R@{k}": round(100 * float((first_hits < min(k, depth)).mean()), 2) for k in ks}
