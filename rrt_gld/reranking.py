"""The reranking protocol of Revisited Oxford / Paris (RRT, ICCV'21): pair scores -> new rankings.

Done for two protocols, each with rankings of its own: junk images go to the end of the list before
the head is cut, and what counts as junk differs.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from utils.revisited import GroundTruth

# lists of the ground truth that a protocol ignores; "easy" is ignored by the hard protocol alone
IGNORED = {"medium": ("junk",), "hard": ("junk", "easy")}

# (P, 2) pairs (query, gallery image), unique and sorted -> (P,) scores, higher is better
ScorePairs = Callable[[np.ndarray], np.ndarray]


class Reranked(NamedTuple):
    """Rankings after reranking, and the scores they rest on."""

    medium: np.ndarray  # (Q, K) int64 gallery indices, for the Medium values only
    hard: np.ndarray  # (Q, K) int64 gallery indices, for the Hard values only
    pairs: np.ndarray  # (P, 2) int64 query, gallery image: the union of both heads
    scores: np.ndarray  # (P,) float32


def move_ignored_to_end(nn_inds: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Stable partition of each row: entries that are not ignored first.

    `nn_inds`: (Q, K) int64; `ignored`: (Q, G) bool, True = junk for this query.
    """
    flags = np.take_along_axis(ignored, nn_inds, axis=1)
    return np.take_along_axis(nn_inds, np.argsort(flags, axis=1, kind="stable"), axis=1)


def make_ignored(gnd: GroundTruth, protocol: str) -> np.ndarray:
    """(Q, G) bool, True = ignored in `protocol`, one of "medium" and "hard"."""
    ignored = np.zeros((len(gnd.qimlist), len(gnd.imlist)), dtype=bool)
    for row, lists in zip(ignored, gnd.gnd, strict=True):
        for key in IGNORED[protocol]:
            row[np.asarray(lists[key], dtype=np.int64)] = True
    return ignored


def rerank_head(ranks: np.ndarray, head_scores: np.ndarray) -> np.ndarray:
    """Reorder the first columns of `ranks` (Q, K) by descending score, stable; the rest stays.

    `head_scores`: (Q, top_k), score of `ranks[:, :top_k]`.
    """
    top_k = head_scores.shape[1]
    order = np.argsort(-head_scores, axis=1, kind="stable")
    head = np.take_along_axis(ranks[:, :top_k], order, axis=1)
    return np.concatenate([head, ranks[:, top_k:]], axis=1)


def check_nn_inds(nn_inds: np.ndarray, gnd: GroundTruth) -> None:
    """ValueError unless the table fits the ground truth: a row per query, indices in range."""
    num_queries, num_gallery = len(gnd.qimlist), len(gnd.imlist)
    if nn_inds.ndim != 2 or len(nn_inds) != num_queries:
        raise ValueError(
            f"the neighbour table is {nn_inds.shape}, expected ({num_queries}, K): it belongs to "
            "another set; remake it with python -m rrt_gld.tools.prepare_topk_revisited"
        )
    if nn_inds.min() < 0 or nn_inds.max() >= num_gallery:
        raise ValueError(
            f"the neighbour table holds indices {nn_inds.min()}..{nn_inds.max()}, but the gallery "
            f"has {num_gallery} images: it belongs to another set; remake it with "
            "python -m rrt_gld.tools.prepare_topk_revisited"
        )


def rerank(
    nn_inds: np.ndarray, gnd: GroundTruth, score_pairs: ScorePairs, top_k: int = 100
) -> Reranked:
    """Rerank the first `top_k` of both protocols; a pair that occurs in both is scored once.

    `nn_inds`: (Q, K) int64 gallery indices, nearest first. min(top_k, K) entries are reranked.
    """
    check_nn_inds(nn_inds, gnd)
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}, expected at least 1")
    num_gallery = len(gnd.imlist)
    lists = {key: move_ignored_to_end(nn_inds, make_ignored(gnd, key)) for key in IGNORED}
    rows = np.arange(len(nn_inds), dtype=np.int64)[:, None]
    # one number per pair; np.unique sorts them, so that a lookup is a binary search
    keys = {key: rows * num_gallery + ranks[:, :top_k] for key, ranks in lists.items()}
    union = np.unique(np.concatenate([part.ravel() for part in keys.values()]))
    pairs = np.stack(np.divmod(union, num_gallery), axis=1)
    scores = np.asarray(score_pairs(pairs), dtype=np.float32)
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{(~np.isfinite(scores)).sum()} of {len(scores)} pair scores are not finite: "
            "damaged weights or descriptors"
        )
    new = {
        key: rerank_head(ranks, scores[np.searchsorted(union, keys[key])])
        for key, ranks in lists.items()
    }
    return Reranked(new["medium"], new["hard"], pairs, scores)
