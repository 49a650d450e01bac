"""Scores of every query with its candidates, in blocks of bounded memory."""

import numpy as np

from r2former.models.pair_scoring import Local, PairScorer
from utils.distributed import Ranks
from utils.pair_tables import fill_table
from utils.row_store import Store

PUBLISHED_DEPTH = 100  # candidates that the evaluation reranks
BLOCK_PAIRS = 6_400  # pairs between two marks of what is done


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

    def score(part: slice) -> np.ndarray:
        rows = np.arange(part.start, part.stop).repeat(nn_inds.shape[1])
        pairs = np.stack([rows, nn_inds[part].reshape(-1)], axis=1)
        return scorer.score(local_query, local_database, pairs).reshape(-1, nn_inds.shape[1])

    return fill_table(score, nn_inds.shape, BLOCK_PAIRS, ranks, store, progress)
