"""Scores of neighbours -> new ranking; pairs scored in blocks of bounded memory."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rrt_sop.models.nets import Scorer
from utils.distributed import Ranks
from utils.row_store import Store

Maps = np.ndarray | Tensor
PUBLISHED_DEPTH = 100  # columns that the evaluation reranks
BLOCK_PAIRS = 6_400  # pairs whose images are encoded together
BLOCK_BYTES = 700 << 20  # and what their encodings may take: four times their local maps


def rerank_table(nn_inds: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reorder the first K columns by descending score, stable; the table is CUT to them.

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
    ranks = ranks or Ranks()
    check_table(nn_inds, len(query_maps), len(gallery_maps))
    num_queries, depth = nn_inds.shape
    store = store or Store((num_queries, depth))
    alike = gallery_maps is query_maps
    query_maps = keep_on_device(query_maps, scorer)
    gallery_maps = query_maps if alike else keep_on_device(gallery_maps, scorer)
    fitting = BLOCK_BYTES // (4 * max(1, gallery_maps.nbytes // len(gallery_maps)))
    step = max(1, min(BLOCK_PAIRS, fitting) // depth)
    blocks = range(store.done, num_queries, step)
    mine = [start for b, start in enumerate(blocks) if b % ranks.world == ranks.rank]
    if ranks.world > 1:
        store.array[:] = 0
    total = sum(min(step, num_queries - start) for start in mine) * depth
    with tqdm(
        total=total, desc="pairs", unit="pair", disable=not (progress and ranks.is_first)
    ) as bar:
        for start in mine:
            part = slice(start, min(start + step, num_queries))
            store.array[part] = score_block(scorer, query_maps[part], gallery_maps, nn_inds[part])
            bar.update(nn_inds[part].size)
            if ranks.world == 1:
                store.save_mark(part.stop)
    if ranks.world > 1:
        return ranks.sum_(torch.from_numpy(store.array).to(ranks.device)).cpu().numpy()
    return store.array


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
