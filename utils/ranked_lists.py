"""Ranked lists before and after reranking, with the labels of a ground truth, for pages."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from utils.report_parts import Hit, RankedList
from utils.revisited import KINDS, GroundTruth

SHOWN = 100  # of each ranking that a page knows; it shows the first ten


def make_ranked_lists(
    query_paths: Sequence[str | Path],
    boxes: Sequence[Sequence[float] | None],
    gallery_path: Callable[[int], Path],
    gnd: GroundTruth | None,
    rankings: tuple[np.ndarray, np.ndarray],
    aps: tuple[np.ndarray, np.ndarray],
    scores: np.ndarray | None = None,
) -> list[RankedList]:
    """One list per query; without a ground truth the images have no labels.

    `gallery_path`: index -> file. `rankings`, `aps`: before and after reranking; (Q, K) gallery
    indices, (Q,) fractions. `scores` (Q, R): of the first R images before reranking.
    """
    default = None if gnd is None else "negative"
    made = []
    for q, query in enumerate(query_paths):
        entry = {} if gnd is None else gnd.gnd[q]
        labels = {int(i): kind for kind in KINDS for i in entry.get(kind, ())}
        known: dict[int, float] = {}
        if scores is not None:
            known = dict(zip(rankings[0][q].tolist(), scores[q].tolist(), strict=False))
        before, after = (
            [
                Hit(path, path.stem, labels.get(i, default), known.get(i))
                for i, path in ((i, gallery_path(i)) for i in ranks[q, :SHOWN].tolist())
            ]
            for ranks in rankings
        )
        made.append(RankedList(query, boxes[q], before, after, float(aps[0][q]), float(aps[1][q])))
    return made
