"""A store of a set with ground truth, and mAP of each way to rank it: the ground of both tables."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rrt_gld.evaluation import compute_reranked_metrics
from rrt_gld.reranking import ScorePairs
from rrt_gld.reranking import rerank as rerank_by_protocol
from search.describers import make_describer
from search.photographs import Photograph, RevisitedSet
from search.ranking import rank
from search.rerankers import Reranker
from search.store import Store
from utils.revisited import GroundTruth, evaluate_ranks


class Sets(NamedTuple):
    """Rows of a store that belong to a set with ground truth."""

    store: Store
    query_rows: np.ndarray
    gallery_rows: np.ndarray
    gnd: GroundTruth


class Measured(NamedTuple):
    """mAP in percent, by protocol, and the time it took."""

    medium: float
    hard: float
    seconds: float
    pairs: int  # scored; 0 without a reranker


def build_store(
    folder: Path, name: str, places: RevisitedSet, weights: Path | None = None,
    max_locals: int | None = None, delg_dir: Path | None = None,
) -> tuple[Store, list[Photograph], list[Photograph]]:  # fmt: skip
    """The float32 store of a set in `folder`, its queries and its gallery, marked."""
    describe = make_describer(name, weights, max_locals, delg_dir)
    queries, gallery = describe.mark(places.queries), describe.mark(places.gallery)
    store = Store(folder, describe.made_from)
    store.extend([*gallery, *queries], describe)
    return store, queries, gallery


def select(
    store: Store, queries: list[Photograph], gallery: list[Photograph], gnd: GroundTruth
) -> Sets:
    """The set's rows of a store."""
    return Sets(store, store.rows_of(queries), store.rows_of(gallery), gnd)


def measure(
    sets: Sets, reranker: Reranker | None = None, refine: str = "none", top_k: int = 100,
    progress: bool = True,
) -> Measured:  # fmt: skip
    """mAP of the global ranking, or after its first `top_k` were reranked by the protocol."""
    started = time.perf_counter()
    store, query_rows, gallery_rows, gnd = sets
    ranks = rank(store, query_rows, gallery_rows, len(gallery_rows), refine)
    if reranker is None:
        seconds = time.perf_counter() - started
        found = evaluate_ranks(ranks, gnd)
        medium, hard = (100 * float(found[key]["map"]) for key in ("medium", "hard"))
        return Measured(medium, hard, seconds, 0)
    started = time.perf_counter()
    reranked = rerank_by_protocol(ranks, gnd, _scorer(sets, reranker, progress), top_k)
    seconds = time.perf_counter() - started
    metrics, _ = compute_reranked_metrics(reranked, gnd)
    return Measured(metrics["M_map"], metrics["H_map"], seconds, len(reranked.pairs))


def _scorer(sets: Sets, reranker: Reranker, progress: bool) -> ScorePairs:
    def score(pairs: np.ndarray) -> np.ndarray:
        rows = np.stack([sets.query_rows[pairs[:, 0]], sets.gallery_rows[pairs[:, 1]]], axis=1)
        return reranker.score(sets.store, rows, progress)

    return score
