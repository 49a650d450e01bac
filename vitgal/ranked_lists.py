"""Ranked lists before and after reranking, with the labels of the ground truth."""

import numpy as np

from utils.report_parts import Hit, RankedList
from utils.revisited import KINDS
from vitgal.datasets.revisited_lists import TestImages
from vitgal.global_ranking import GlobalRanking
from vitgal.global_search import query_paths

SHOWN = 100  # of each ranking that a page knows; it shows the first ten


def make_lists(
    test: TestImages,
    before: GlobalRanking,
    after: GlobalRanking,
    scores: np.ndarray,
    aps: tuple[np.ndarray, np.ndarray],
) -> list[RankedList]:
    """One list per query, after reranking with inliers.

    `scores` (Q, R): in the order of the heads `before`. `aps`: before and after, (Q,) fractions.
    """
    made = []
    for q, query in enumerate(query_paths(test)):
        entry = test.ground_truth.gnd[q]
        labels = {int(i): kind for kind in KINDS for i in entry[kind]}
        head = before.head[q]
        inliers = dict(zip(head.tolist(), scores[q].tolist(), strict=False))

        def hits(
            indices: np.ndarray, labels: dict[int, str] = labels, inliers: dict = inliers
        ) -> list[Hit]:
            paths = [(int(i), test.database_path(int(i))) for i in indices[:SHOWN]]
            return [
                Hit(path, path.stem, labels.get(i, "negative"), inliers.get(i)) for i, path in paths
            ]

        box = tuple(test.boxes[q].tolist())
        made.append(
            RankedList(query, box, hits(head), hits(after.head[q]),
                       float(aps[0][q]), float(aps[1][q]))
        )  # fmt: skip
    return made
