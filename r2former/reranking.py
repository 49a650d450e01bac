"""Scores of candidates -> new ranking; pairs scored in blocks of bounded memory."""

import numpy as np
import torch
from tqdm import tqdm

from r2former.models.pair_scoring import Local, PairScorer
from utils.distributed import Ranks
from utils.row_store import Store

PUBLISHED_DEPTH = 100  # candidates that the evaluation reranks
BLOCK_PAIRS = 6_400  # pairs between two marks of what is done


def rerank_table(nn_inds: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reorder the first K columns by descending score, stable; the table is cut to them.

    `nn_inds` (Q, >= K) int64, `scores` (Q, K). Returns (nn_inds (Q, K), sorted scores (Q, K)). The
    global similarity is not mixed in, as published.
    """
    depth = scores.shape[1]
    if scores.shape[0] != len(nn_inds) or depth > nn_inds.shape[1]:
        raise ValueError(f"scores are {scores.shape}, the ranking is {nn_inds.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{(~np.isfinite(scores)).sum()} of {scores.size} pair scores are not finite: damaged "
            "weights or features"
        )
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(nn_inds[:, :depth], order, 1), np.take_along_axis(scores, order, 1)


def score_table(
    scorer: PairScorer,
    local_query: Local,
    local_database: Local,
    nn_inds: np.ndarray,
    ranks: Ranks | None = None,
    store: Store | None = None,
    progress: bool = True,
) -> np.ndarray:
    """(Q, K) float32 scores of every query with each of its candidates; the query comes first.

    `store` (Q, K): finished rows are kept there, and an interrupted call goes on after them.
    Several ranks share the blocks of queries out.
    """
    ranks = ranks or Ranks()
    num_queries, depth = nn_inds.shape
    store = store or Store((num_queries, depth))
    step = max(1, BLOCK_PAIRS // depth)
    blocks = range(store.done, num_queries, step)
    mine = [start for b, start in enumerate(blocks) if b % ranks.world == ranks.rank]
    if ranks.world > 1:
        store.array[:] = 0
    total = sum(min(step, num_queries - start) for start in mine) * depth
    silent = not (progress and ranks.is_first)
    with tqdm(total=total, desc="pairs", unit="pair", disable=silent) as bar:
        for start in mine:
            part = slice(start, min(start + step, num_queries))
            rows = np.arange(part.start, part.stop).repeat(depth)
            pairs = np.stack([rows, nn_inds[part].reshape(-1)], axis=1)
            scores = scorer.score(local_query, local_database, pairs)
            store.array[part] = scores.reshape(-1, depth)
            bar.update(len(pairs))
            if ranks.world == 1:
                store.save_mark(part.stop)
    if ranks.world > 1:
        return ranks.sum_(torch.from_numpy(store.array).to(ranks.device)).cpu().numpy()
    return store.array
