"""Ranked lists before and after reranking, with the labels of the ground truth, for pages."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.report_parts import Hit, RankedList
from utils.revisited import KINDS, GroundTruth

SHOWN = 100  # of each ranking that a page knows; it shows the first ten


def make_lists(
    query_paths: Sequence[Path],
    boxes: Sequence[Sequence[float] | None],
    gallery_paths: Sequence[Path],
    gnd: GroundTruth | None,
    rankings: tuple[np.ndarray, np.ndarray],
    aps: tuple[np.ndarray, np.ndarray],
) -> list[RankedList]:
    """One list per query; without a ground truth the images have no labels.

    `rankings`, `aps`: before and after reranking; (Q, K) gallery indices, (Q,) fractions.
    """
    labels: list[dict[int, str]] = [{}] * len(query_paths)
    if gnd is not None:
        labels = [{int(j): kind for kind in KINDS for j in lists[kind]} for lists in gnd.gnd]
    default = None if gnd is None else "negative"

    def hits(ranks: np.ndarray, q: int) -> list[Hit]:
        found = ((gallery_paths[j], labels[q].get(j, default)) for j in ranks[q, :SHOWN].tolist())
        return [Hit(path, path.stem, label) for path, label in found]

    return [
        RankedList(
            query, boxes[q], hits(rankings[0], q), hits(rankings[1], q),
            float(aps[0][q]), float(aps[1][q]),
        )
        for q, query in enumerate(query_paths)
    ]  # fmt: skip
