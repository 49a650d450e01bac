"""Images -> recall@k, by global features or after reranking; for evaluation and during training."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rrt_sop.datasets.image_list import ImageList
from rrt_sop.features import Loading, extract
from rrt_sop.models.nets import Net, make_scorer
from rrt_sop.reranking import check_table, score_table
from rrt_sop.retrieval import (
    KeptTables,
    TableFiles,
    find_neighbours,
    neighbour_origin,
    writing_tables,
)
from utils.checkpoints import fingerprint_weights
from utils.distributed import Ranks
from utils.pair_tables import rerank_table
from utils.recall import compute_recalls, find_first_of_label
from utils.row_store import Resumption, Store, hash_arrays

logger = logging.getLogger(__name__)


class Evaluation(NamedTuple):
    """What an evaluation found."""

    metrics: dict[str, float]  # {"R@1": percent, 2 decimals, ...}
    nn_inds: np.ndarray  # (Q, K) int64 gallery indices, best first
    values: np.ndarray  # (Q, K) float32: squared distances ascending, or logits descending
    first_hits: np.ndarray  # (Q,) int64 column of the first right image, K where there is none


@contextmanager
def evaluation_mode(net: torch.nn.Module) -> Iterator[None]:
    """The net in evaluation mode within the block, then as it was."""
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)


def make_resumption(
    folder: str | Path | None,
    net: torch.nn.Module,
    queries: ImageList,
    gallery: ImageList | None,
    ranks: Ranks,
) -> Resumption | None:
    """Where an evaluation keeps what it has; None without a folder or with several processes."""
    if folder is None or ranks.world > 1:
        return None
    origin = neighbour_origin(queries, gallery)
    transform = str(queries.transform)
    return Resumption(
        folder, {**origin, "weights": fingerprint_weights(net), "transform": transform}
    )


def evaluate_global(
    net: Net,
    queries: ImageList,
    gallery: ImageList | None,
    ks: tuple[int, ...],
    ranks: Ranks | None = None,
    loading: Loading | None = None,
    folder: str | Path | None = None,
    files: TableFiles | None = None,
) -> Evaluation:
    """Rank by global features; the table has max(ks) columns, or as many as there are images.

    `gallery` None: queries against each other, the first neighbour dropped. `folder`: features are
    kept there until the end, and an interrupted call goes on with them. `files`: the tables are
    written there while they are found, and what is returned are memory maps of them.
    """
    ranks, loading = ranks or Ranks(), loading or Loading()
    kept = make_resumption(folder, net, queries, gallery, ranks)
    width = net.num_global_features
    features = []
    with evaluation_mode(net):
        for name, images in (("queries", queries), ("gallery", gallery)):
            if images is not None:
                shape = (len(images), width)
                store = kept.store(f"{name}_global", shape) if kept else Store(shape)
                features.append(
                    extract(net.embed_global, images, store, loading, ranks, f"{name}, global")
                )
    searched = features[1] if gallery is not None else None
    depth, blocks = find_neighbours(
        features[0], searched, max(ks), device=ranks.device, progress=loading.progress
    )
    shape, first = (len(queries), depth), np.empty(len(queries), np.int64)
    gallery_labels = queries.labels if gallery is None else gallery.labels
    with writing_tables(files, shape) if files else nullcontext(KeptTables(shape)) as filled:
        for start, stop, values, nn_inds in blocks:
            filled.append(values, nn_inds)
            labels = queries.labels[start:stop]
            first[start:stop] = find_first_of_label(nn_inds, labels, gallery_labels)
    tables = filled.tables()
    found = Evaluation(compute_recalls(first, ks, depth), tables.nn_inds, tables.values, first)
    if kept:
        kept.remove()
    return found


def evaluate_reranked(
    net: Net,
    queries: ImageList,
    gallery: ImageList | None,
    nn_inds: np.ndarray,
    depth: int,
    ks: tuple[int, ...],
    ranks: Ranks | None = None,
    loading: Loading | None = None,
    folder: str | Path | None = None,
    precision: str = "float32",
) -> Evaluation:
    """Rerank the first `depth` columns of a global ranking and cut the lists to them.

    `nn_inds` (Q, K) int64: min(depth, K) columns are scored; a k beyond counts them all.
    `folder`: local maps and scores are kept there until the end, and an interrupted call goes on.
    """
    ranks, loading = ranks or Ranks(), loading or Loading()
    searched = queries if gallery is None else gallery
    check_table(nn_inds, len(queries), len(searched))
    if depth < 1:
        raise ValueError(f"the depth of reranking is {depth}, expected at least 1")
    head = np.ascontiguousarray(nn_inds[:, :depth])
    kept = make_resumption(folder, net, queries, gallery, ranks)
    with evaluation_mode(net):
        query_maps = extract_maps(net, queries, "queries", loading, ranks, kept)
        gallery_maps = query_maps
        if gallery is not None:
            gallery_maps = extract_maps(net, gallery, "gallery", loading, ranks, kept)
    scorer = make_scorer(net, ranks.device, precision)
    store = None
    if kept:
        store = kept.store("scores", head.shape, table=hash_arrays(head), precision=precision)
    scores = score_table(scorer, query_maps, gallery_maps, head, ranks, store, loading.progress)
    reranked, values = rerank_table(head, scores)
    found = measure(reranked, values, queries, gallery, ks)
    if kept:
        kept.remove()
    return found


def extract_maps(
    net: Net,
    images: ImageList,
    name: str,
    loading: Loading,
    ranks: Ranks,
    kept: Resumption | None,
) -> np.ndarray:
    """(N, C, h, w) float32 local maps: in memory, or in a file where they are kept."""
    with torch.no_grad():
        one = net.embed_local(images[0][0].unsqueeze(0).to(ranks.device))
    shape = (len(images), *one.shape[1:])
    store = kept.store(f"{name}_local", shape) if kept else Store(shape)
    return extract(net.embed_local, images, store, loading, ranks, f"{name}, local")


def measure(
    nn_inds: np.ndarray,
    values: np.ndarray,
    queries: ImageList,
    gallery: ImageList | None,
    ks: tuple[int, ...],
) -> Evaluation:
    """Recall of a table by the labels of the images."""
    gallery_labels = queries.labels if gallery is None else gallery.labels
    first = find_first_of_label(nn_inds, queries.labels, gallery_labels)
    return Evaluation(compute_recalls(first, ks, nn_inds.shape[1]), nn_inds, values, first)
