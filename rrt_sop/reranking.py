"""Scores of every query with its neighbours, in blocks of bounded memory."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rrt_sop.models.nets import Scorer
from utils.distributed import Ranks
from utils.pair_tables import fill_table
from utils.row_store import Store

Maps = np.ndarray | Tensor
PUBLISHED_DEPTH = 100  # columns that the evaluation reranks
BLOCK_PAIRS = 6_400  # pairs whose images are encoded together
BLOCK_BYTES = 700 << 20  # and what their encodings may take: four times their local maps


def check_table(nn_inds: np.ndarray, num_queries: int, num_gallery: int) -> None:
    """ValueError unless the table has a row per query and indices of gallery images."""
    if nn_inds.ndim != 2 or len(nn_inds) != num_queries or nn_inds.shape[1] < 1:
        raise ValueError(
            f"the neighbour table is {nn_inds.shape}, expected ({num_queries}, K): it belongs to "
            "another split; make it again with eval_global"
        )
    if nn_inds.min() < 0 or nn_inds.max() >= num_gallery:
        raise ValueError(
            f"the neighbour table holds indices {nn_inds.min()}..{nn_inds.max()}, but there are "
            f"{num_gallery} images: it belongs to another split; make it again with eval_global"
        )


def score_table(
    scorer: Scorer,
    query_maps: Maps,
    gallery_maps: Maps,
    nn_inds: np.ndarray,
    ranks: Ranks | None = None,
    store: Store | None = None,
    progress: bool = True,
) -> np.ndarray:
    """(Q, K) float32 logits of every query with each of its neighbours; the query comes first.

    `query_maps`, `gallery_maps`: (N, C, h, w), arrays or memory maps. Queries pass by in blocks,
    each with the distinct images among its neighbours. `store` (Q, K): finished rows are kept there
    and an interrupted call goes on after them. Several ranks share the blocks out.
    """
    check_table(nn_inds, len(query_maps), len(gallery_maps))
    alike = gallery_maps is query_maps
    query_maps = keep_on_device(query_maps, scorer)
    gallery_maps = query_maps if alike else keep_on_device(gallery_maps, scorer)
    fitting = BLOCK_BYTES // (4 * max(1, gallery_maps.nbytes // len(gallery_maps)))

    def score(part: slice) -> np.ndarray:
        return score_block(scorer, query_maps[part], gallery_maps, nn_inds[part])

    return fill_table(score, nn_inds.shape, min(BLOCK_PAIRS, fitting), ranks, store, progress)


def score_block(
    scorer: Scorer, query_maps: Maps, gallery_maps: Maps, nn_inds: np.ndarray
) -> np.ndarray:
    """(q, K) logits of some queries; every image among their neighbours is encoded once."""
    images, column = np.unique(nn_inds, return_inverse=True)
    queries: Any = scorer.encode(query_maps, "query")
    gallery: Any = scorer.encode(gallery_maps[images], "gallery")
    rows = np.arange(len(nn_inds)).repeat(nn_inds.shape[1])
    pairs = np.stack([rows, column.reshape(-1)], axis=1)
    return scorer.score_pairs(queries, gallery, pairs).reshape(nn_inds.shape)


def keep_on_device(maps: Maps, scorer: Scorer) -> Maps:
    """The maps on the scorer's GPU where they take less than half of its free memory."""
    if scorer.device.type != "cuda" or isinstance(maps, Tensor):
        return maps
    free, _ = torch.cuda.mem_get_info(scorer.device)
    return torch.from_numpy(maps).to(scorer.device) if 2 * maps.nbytes < free else maps
