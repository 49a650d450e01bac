"""Recall@k against a loop over queries and cases done by hand."""

import numpy as np
import pytest

from utils import recall
from utils.recall import (
    compute_recalls,
    find_first_hits,
    find_first_of_label,
    hits_from_positives,
)


def test_recall_counts_queries_with_a_right_image_and_short_lists_as_they_are():
    """First right columns: 0, 2, none: of three queries, one within 1, two within 3 and 10."""
    nn_inds = np.array([[1, 2, 3], [3, 4, 0], [0, 1, 3]])
    first = find_first_of_label(nn_inds, np.array([7, 8, 9]), np.array([8, 7, 5, 5, 5]))
    assert first.tolist() == [0, 2, 3]
    recalls = compute_recalls(first, (1, 2, 3, 10), 3)
    assert recalls == {"R@1": 33.33, "R@2": 33.33, "R@3": 66.67, "R@10": 66.67}


def test_positives_by_hand_with_an_empty_query():
    """Query 0 finds image 0 at the 2nd place, query 1 has no positives, query 2 has 3 at once."""
    nn_inds = np.array([[2, 0, 1], [1, 2, 3], [3, 0, 2]])
    hits = hits_from_positives(nn_inds, np.array([2, 0, 1]), np.array([0, 9, 3]))
    assert hits.tolist() == [[False, True, False], [False] * 3, [True, False, False]]
    assert compute_recalls(find_first_hits(hits), (1, 2), 3) == {"R@1": 33.33, "R@2": 66.67}
    assert not hits_from_positives(nn_inds, np.zeros(3, int), np.zeros(0, int)).any()


def test_random_tables_equal_the_loop(monkeypatch):
    monkeypatch.setattr(recall, "BLOCK", 7)
    rng = np.random.default_rng(0)
    for _ in range(50):
        n_queries, n_gallery = rng.integers(1, 30), rng.integers(10, 60)
        nn_inds = np.stack([rng.permutation(n_gallery)[:10] for _ in range(n_queries)])
        nn_inds = nn_inds.astype(rng.choice(["int32", "int64", "uint16"]))
        labels, gallery_labels = rng.integers(6, size=n_queries), rng.integers(6, size=n_gallery)
        positives = [np.flatnonzero(rng.random(n_gallery) < 0.1) for _ in range(n_queries)]
        by_label = find_first_of_label(nn_inds, labels, gallery_labels)
        counts = np.array([len(part) for part in positives])
        by_list = hits_from_positives(nn_inds.astype(np.int64), counts, np.concatenate(positives))
        for q, row in enumerate(nn_inds):
            right = [j for j, g in enumerate(row) if gallery_labels[g] == labels[q]]
            assert by_label[q] == (right[0] if right else 10)
            assert by_list[q].tolist() == [g in positives[q] for g in row]
        naive = np.mean(
            [any(gallery_labels[row[:3]] == labels[q]) for q, row in enumerate(nn_inds)]
        )
        assert compute_recalls(by_label, (3,), 10) == {"R@3": round(100 * naive, 2)}


def test_tables_of_another_set_are_refused():
    nn_inds, labels = np.array([[2, 0, 1], [1, 2, 3]]), np.array([7, 9])
    with pytest.raises(ValueError, match="images 0 to 3, but there are 3 gallery labels"):
        find_first_of_label(nn_inds, labels, np.array([7, 8, 7]))
    with pytest.raises(ValueError, match="images -1 to 1"):
        find_first_of_label(nn_inds[:1] - 1, labels[:1], np.array([7, 8, 7]))
    with pytest.raises(ValueError, match="2 ranked lists, but labels of 1 queries"):
        find_first_of_label(nn_inds, labels[:1], np.array([7, 8, 7, 7]))
    with pytest.raises(ValueError, match="2 ranked lists, but positives of 1 queries"):
        hits_from_positives(nn_inds, np.array([1]), np.array([0]))
