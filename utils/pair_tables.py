"""Scores of every query with each of its candidates: tables filled in blocks, new rankings."""

from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from utils.distributed import Ranks
from utils.row_store import Store


def rerank_table(nn_inds: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reorder the first K columns by descending score, stable; the table is cut to them.

    `nn_inds` (Q, >= K) int64, `scores` (Q, K). Returns (nn_inds (Q, K), sorted scores (Q, K)).
    """
    depth = scores.shape[1]
    if scores.shape[0] != len(nn_inds) or depth > nn_inds.shape[1]:
        raise ValueError(f"scores are {scores.shape}, the neighbour table is {nn_inds.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{(~np.isfinite(scores)).sum()} of {scores.size} pair scores are not finite: damaged "
            "weights or features"
        )
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(nn_inds[:, :depth], order, 1), np.take_along_axis(scores, order, 1)


def fill_table(
    score: Callable[[slice], np.ndarray],
    shape: tuple[int, int],
    block_pairs: int,
    ranks: Ranks | None = None,
    store: Store | None = None,
    progress: bool = True,
) -> np.ndarray:
    """(Q, K) float32 scores, from `score(queries)` -> (q, K) for blocks of queries in turn.

    `block_pairs`: scored between two marks of what is done. `store` (Q, K): finished rows are kept
    there, and an interrupted call goes on after them. Several ranks share the blocks out; all of
    them get the whole table.
    """
    ranks, store = ranks or Ranks(), store or Store(shape)
    num_queries, depth = shape
    step = max(1, block_pairs // depth)
    blocks = [
        slice(start, min(start + step, num_queries))
        for start in range(store.done, num_queries, step)
    ]
    mine = blocks[ranks.rank :: ranks.world]
    if ranks.world > 1:
        store.array[:] = 0
    total = sum(part.stop - part.start for part in mine) * depth
    silent = not (progress and ranks.is_first)
    with tqdm(total=total, desc="pairs", unit="pair", disable=silent) as bar:
        for part in mine:
            store.array[part] = score(part)
            bar.update((part.stop - part.start) * depth)
            if ranks.world == 1:
                store.save_mark(part.stop)
    if ranks.world > 1:
        return ranks.sum_(torch.from_numpy(store.array).to(ranks.device)).cpu().numpy()
    return store.array
