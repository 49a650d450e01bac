"""Ranked lists for pages: labels, scores, cut."""

from pathlib import Path

import numpy as np

from utils import ranked_lists
from utils.ranked_lists import make_ranked_lists
from utils.revisited import FrozenList, GroundTruth

QUERIES = [Path("a.jpg"), Path("b.jpg")]
BEFORE, AFTER = np.array([[0, 1, 2, 3], [3, 2, 1, 0]]), np.array([[1, 0, 2, 3], [3, 2, 1, 0]])
APS = np.array([0.5, np.nan]), np.array([1.0, np.nan])


def gallery_path(index: int) -> Path:
    return Path("gallery", f"g{index}.jpg")


def make(gnd: GroundTruth | None, scores: np.ndarray | None = None):
    boxes = [None, (1, 2, 3, 4)]
    return make_ranked_lists(QUERIES, boxes, gallery_path, gnd, (BEFORE, AFTER), APS, scores)


def test_labels_come_from_the_ground_truth_of_each_query():
    lists = [{"easy": [1], "hard": [0], "junk": [3]}, {"easy": [], "hard": [], "junk": []}]
    names = FrozenList(f"g{i}" for i in range(4))
    first, second = make(GroundTruth(names, FrozenList(["a", "b"]), FrozenList(lists)))
    assert [(hit.name, hit.label) for hit in first.after] == [
        *(("g1", "easy"), ("g0", "hard"), ("g2", "negative"), ("g3", "junk")),
    ]
    assert {hit.label for hit in second.before} == {"negative"}
    assert (first.change, second.change, second.query_box) == (0.5, None, (1, 2, 3, 4))


def test_without_ground_truth_there_are_no_labels():
    assert {hit.label for entry in make(None) for hit in entry.after} == {None}


def test_scores_follow_their_images():
    """Those of the head before reranking: images 0 and 1 of query 0, 3 and 2 of query 1."""
    first, second = make(None, np.array([[7, 9], [5, 6]]))
    assert [hit.score for hit in first.after] == [9, 7, None, None]
    assert [hit.score for hit in second.before] == [5, 6, None, None]


def test_lists_are_cut(monkeypatch):
    monkeypatch.setattr(ranked_lists, "SHOWN", 3)
    assert [len(entry.before) for entry in make(None)] == [3, 3]
