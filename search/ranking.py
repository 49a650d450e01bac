"""Rows of a store -> ranked lists: globally, by the gallery's neighbourhoods, reranked by pairs."""

from typing import NamedTuple

import numpy as np

from rrt_gld.reranking import rerank_head
from search import baselines
from search.codec import normalise_rows
from search.rerankers import Reranker
from search.store import Store
from utils.knn import search

BLOCK_BYTES = 1 << 30  # of gallery descriptors in memory


class Ranked(NamedTuple):
    """Gallery images of every query, nearest first, as indices into the gallery's rows."""

    before: np.ndarray  # (Q, K) int64 by global descriptors
    after: np.ndarray  # (Q, K) int64, the first `top_k` in the order of their scores
    scores: np.ndarray | None  # (Q, top_k) float32 in the order of `before`; None: not reranked


def rank_globally(
    store: Store, query_rows: np.ndarray, gallery_rows: np.ndarray, k: int, progress: bool = False
) -> np.ndarray:
    """(Q, k) int64 indices into `gallery_rows` by cosine similarity; ties to the lower index.

    Exact; the gallery passes by in blocks, whatever the kind of the store.
    """
    queries = normalise_rows(store.global_descriptors(query_rows))
    step = max(k, BLOCK_BYTES // (4 * queries.shape[1]))
    best = np.empty((len(queries), 0), np.float32)
    found = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(gallery_rows), step):
        part = gallery_rows[start : start + step]
        block = normalise_rows(store.global_descriptors(part))
        values, indices = search(queries, block, min(k, len(part)), progress=progress)
        best = np.concatenate([best, values], axis=1)
        found = np.concatenate([found, indices + start], axis=1)
        # earlier blocks stand first, so that equal values keep the order of the gallery
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(best, order, axis=1)
        found = np.take_along_axis(found, order, axis=1)
    return found


def rank(
    store: Store, query_rows: np.ndarray, gallery_rows: np.ndarray, k: int, refine: str = "none",
    own: np.ndarray | None = None, progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """(Q, k) int64 indices into `gallery_rows`. `refine`: one of `baselines.NAMES`.

    `own` (Q,): index of the query itself in the gallery, which is left out, or -1. All but "none"
    hold the gallery's global descriptors in memory.
    """
    count = len(gallery_rows)
    wanted = min(k + (own is not None), count)
    if refine == "none":
        found = rank_globally(store, query_rows, gallery_rows, wanted, progress)
    else:
        queries, gallery = (
            normalise_rows(store.global_descriptors(rows)) for rows in (query_rows, gallery_rows)
        )
        found = baselines.rank_with(refine, queries, gallery, wanted, progress)
    if own is None:
        return found
    # the query goes to the end and is cut off; where it was not found, the surplus image is
    last = np.argsort(found == own[:, None], axis=1, kind="stable")
    return np.take_along_axis(found, last, axis=1)[:, : min(k, wanted - bool((own >= 0).any()))]


def rerank(
    store: Store, query_rows: np.ndarray, gallery_rows: np.ndarray, before: np.ndarray, top_k: int,
    reranker: Reranker | None, progress: bool = True,
) -> Ranked:  # fmt: skip
    """The first `top_k` of each list `before` (Q, K) in the order of the reranker's scores."""
    if reranker is None:
        return Ranked(before, before, None)
    head = before[:, :top_k]
    pairs = np.stack([np.repeat(query_rows, head.shape[1]), gallery_rows[head.ravel()]], axis=1)
    scores = reranker.score(store, pairs, progress).reshape(head.shape)
    if not np.isfinite(scores).all():
        raise ValueError("pair scores are not finite: damaged weights or descriptors")
    return Ranked(before, rerank_head(before, scores), scores)
