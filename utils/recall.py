"""Recall@k: the share of queries with a right image among the first k of their ranking."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def recall_from_labels(
    nn_inds: np.ndarray,
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    ks: Sequence[int],
    truncated: bool = False,
) -> dict[int, float]:
    """Recall@k, fractions, where an image of the query's label is right.

    `nn_inds`: (Q, K) gallery indices, nearest first, without the query itself if it is in the
    gallery. Labels: (Q,) and (G,). A k beyond K is an error unless `truncated`, which counts a
    short list as it is (R@100 of 15 columns = R@15).
    """
    query_labels, gallery_labels = np.asarray(query_labels), np.asarray(gallery_labels)
    head = _checked_head(nn_inds, len(query_labels), ks, truncated)
    if head.size and head.max() >= len(gallery_labels):
        raise ValueError(
            f"nn_inds refer to gallery image {head.max()}, but there are {len(gallery_labels)} "
            "gallery labels: were they made for another set?"
        )
    return _recall_of_hits(gallery_labels[head] == query_labels[:, None], ks)


def recall_from_positives(
    nn_inds: np.ndarray,
    positives: Sequence[ArrayLike],
    ks: Sequence[int],
    truncated: bool = False,
    skip_empty: bool = False,
) -> dict[int, float]:
    """Recall@k, fractions, where `positives[q]` lists the right gallery indices of query q.

    `nn_inds`: (Q, K) gallery indices, nearest first. Queries without positives count as missed, or
    are left out with `skip_empty` (the official MSLS evaluation). `truncated` as in
    `recall_from_labels`.
    """
    head = _checked_head(nn_inds, len(positives), ks, truncated)
    lists = [np.asarray(indices, dtype=np.int64) for indices in positives]
    counts = np.array([len(indices) for indices in lists], dtype=np.int64)
    flat = np.concatenate([np.zeros(0, np.int64), *lists])
    if flat.size and flat.min() < 0:
        raise ValueError(f"positives hold the gallery index {flat.min()}")
    stride = 1 + max(int(head.max(initial=0)), int(flat.max(initial=0)))
    keys = head.astype(np.int64) + stride * np.arange(len(head))[:, None]
    wanted = flat + stride * np.repeat(np.arange(len(counts)), counts)
    hits = np.isin(keys, wanted)
    return _recall_of_hits(hits[counts > 0] if skip_empty else hits, ks)


def _checked_head(
    nn_inds: np.ndarray, n_queries: int, ks: Sequence[int], truncated: bool
) -> np.ndarray:
    """(Q, min(max(ks), K)) first columns; ValueError for what does not fit."""
    nn_inds = np.asanyarray(nn_inds)
    if nn_inds.ndim != 2 or nn_inds.dtype.kind not in "iu" or len(nn_inds) != n_queries:
        raise ValueError(
            f"nn_inds is {nn_inds.dtype} of shape {nn_inds.shape}, "
            f"expected integers of shape ({n_queries}, K)"
        )
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}, expected numbers of neighbours >= 1")
    if max(ks) > nn_inds.shape[1] and not truncated:
        raise ValueError(
            f"recall@{max(ks)} needs {max(ks)} columns, nn_inds has {nn_inds.shape[1]}; "
            "make a deeper neighbour table or ask for smaller k"
        )
    head = nn_inds[:, : max(ks)]
    if head.size and head.min() < 0:
        raise ValueError(f"nn_inds hold {head.min()}, which is no gallery index")
    return head


def _recall_of_hits(hits: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """`hits`: (Q, K) True = right image. NaN if there is no query at all."""
    if len(hits) == 0:
        return {int(k): float("nan") for k in ks}
    return {int(k): float(hits[:, :k].any(axis=1).mean()) for k in ks}
