"""Files on disk -> reranked lists -> metrics, for evaluation and during training."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from rrt_gld.datasets.image_set import EvalSet, ItemImages
from rrt_gld.models.matcher import Matcher
from rrt_gld.models.scoring import PairScorer
from rrt_gld.reranking import Reranked, rerank
from rrt_gld.rows import to_percent
from utils.distributed import Ranks
from utils.paths import atomic_path
from utils.revisited import GroundTruth, evaluate_ranks

logger = logging.getLogger(__name__)

BLOCK = 128  # gallery images held at a time


class Evaluation(NamedTuple):
    """What an evaluation found."""

    metrics: dict[str, Any]  # as tabulated: M_map, H_map, M_mp, H_mp, percent, 2 decimals
    aps: dict[str, np.ndarray]  # M, H: (Q,) average precision, fraction, NaN without positives
    reranked: Reranked


def score_pairs_from_files(
    scorer: PairScorer,
    queries: ItemImages,
    gallery: ItemImages,
    pairs: np.ndarray,
    ranks: Ranks | None = None,
    progress: bool = True,
) -> np.ndarray:
    """(P,) float32 logits of `pairs` (P, 2): query, gallery image; the query is the first image.

    Queries stay in memory as tokens; the gallery passes by in blocks, so that each file is read
    once and only a block is held. With several ranks each scores a share of the gallery images.
    """
    ranks = ranks or Ranks()
    shares = pairs[:, 1] % ranks.world
    mine = np.flatnonzero(shares == ranks.rank)
    mine = mine[np.argsort(pairs[mine, 1], kind="stable")]  # by gallery image
    scores = np.empty(len(mine), dtype=np.float32)
    query_rows, query_of = np.unique(pairs[mine, 0], return_inverse=True)
    query_blocks = [_encode(scorer, queries, i) for i in query_rows]
    images, first = np.unique(pairs[mine, 1], return_index=True)
    first = np.append(first, len(mine))
    with tqdm(total=len(mine), desc="pairs", unit="pair", disable=not progress) as bar:
        for start in range(0, len(images), BLOCK):
            stop = min(start + BLOCK, len(images))
            span = slice(first[start], first[stop])
            blocks = [_encode(scorer, gallery, j) for j in images[start:stop]]
            column = np.searchsorted(images[start:stop], pairs[mine[span], 1])
            local_pairs = np.stack([query_of[span], column], axis=1)
            scores[span] = scorer.score_pairs(query_blocks, blocks, local_pairs)
            bar.update(len(local_pairs))
    return ranks.gather_scores(scores[np.argsort(mine)], shares)


def _encode(scorer: PairScorer, images: ItemImages, i: int) -> Any:
    item = images.load_item(int(i))
    return scorer.encode(item.global_, item.local, item.scales)


def compute_reranked_metrics(
    reranked: Reranked, gnd: GroundTruth, ks: tuple[int, ...] = (1, 5, 10)
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Medium values from the Medium lists, Hard values from the Hard lists; and the APs (Q,)."""
    medium = evaluate_ranks(reranked.medium, gnd, ks)["medium"]
    hard = evaluate_ranks(reranked.hard, gnd, ks)["hard"]
    metrics = to_percent(medium, "M") | to_percent(hard, "H")
    order = ("M_map", "H_map", "M_mp", "H_mp")
    return {key: metrics[key] for key in order}, {"M": medium["ap"], "H": hard["ap"]}


def evaluate(
    model: Matcher,
    test: EvalSet,
    top_k: int = 100,
    ks: tuple[int, ...] = (1, 5, 10),
    ranks: Ranks | None = None,
    precision: str = "float32",
    progress: bool = True,
) -> Evaluation:
    """Rerank the heads of the global ranking with `model` and measure. Leaves the model's mode."""
    ranks = ranks or Ranks()
    training = model.training
    model.eval()
    scorer = PairScorer(model, device=ranks.device, precision=precision)

    def score_pairs(pairs: np.ndarray) -> np.ndarray:
        return score_pairs_from_files(
            scorer, test.queries, test.gallery, pairs, ranks, progress and ranks.is_first
        )

    reranked = rerank(test.nn_inds, test.gnd, score_pairs, top_k)
    model.train(training)
    metrics, aps = compute_reranked_metrics(reranked, test.gnd, ks)
    return Evaluation(metrics, aps, reranked)


def save_evaluation(path: Path, found: Evaluation, top_k: int) -> Path:
    """Write the reranked lists, the pair scores and the APs to an .npz file; returns its path."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            medium=found.reranked.medium,
            hard=found.reranked.hard,
            pairs=found.reranked.pairs,
            scores=found.reranked.scores,
            M_ap=found.aps["M"],
            H_ap=found.aps["H"],
            top_k=top_k,
        )
    return path
