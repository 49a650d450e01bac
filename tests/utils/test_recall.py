"""Recall@k against a loop over queries and cases done by hand."""

from typing import Any

import numpy as np
import pytest

from utils.recall import recall_from_labels, recall_from_positives

NN_INDS = np.array([[2, 0, 1], [1, 2, 3], [3, 0, 2]])


def naive_recall(nn_inds, is_right, ks):
    return {k: np.mean([any(is_right(q, g) for g in row[:k]) for q, row in nn_inds]) for k in ks}


def test_labels_by_hand():
    # gallery labels 7 8 7 9; query 0 (7): right at 1st; query 1 (9): at 3rd; query 2 (8): never
    found = recall_from_labels(NN_INDS, [7, 9, 8], [7, 8, 7, 9], ks=(1, 2, 3))
    assert found == {1: pytest.approx(1 / 3), 2: pytest.approx(1 / 3), 3: pytest.approx(2 / 3)}


def test_positives_by_hand_with_and_without_empty_queries():
    # query 0 finds image 0 at 2nd place, query 1 has no positives, query 2 finds image 3 at once
    positives: list[Any] = [[0, 9], [], np.array([3])]
    counted = recall_from_positives(NN_INDS, positives, ks=(1, 2))
    assert counted == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3)}
    assert recall_from_positives(NN_INDS, positives, (1, 2), skip_empty=True) == {1: 0.5, 2: 1.0}


def test_random_tables_equal_the_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        n_queries, n_gallery = rng.integers(1, 30), rng.integers(10, 60)
        nn_inds = np.stack([rng.permutation(n_gallery)[:10] for _ in range(n_queries)])
        nn_inds = nn_inds.astype(rng.choice(["int32", "int64", "uint16"]))
        labels, gallery_labels = rng.integers(6, size=n_queries), rng.integers(6, size=n_gallery)
        positives = [np.flatnonzero(rng.random(n_gallery) < 0.1) for _ in range(n_queries)]
        rows, ks = list(enumerate(nn_inds)), (1, 3, 10)
        by_label = naive_recall(rows, lambda q, g: labels[q] == gallery_labels[g], ks)  # noqa: B023
        by_list = naive_recall(rows, lambda q, g: g in positives[q], ks)  # noqa: B023
        assert recall_from_labels(nn_inds, labels, gallery_labels, ks) == pytest.approx(by_label)
        assert recall_from_positives(nn_inds, positives, ks) == pytest.approx(by_list)


def test_short_lists_are_refused_unless_asked_for():
    with pytest.raises(ValueError, match="recall@10 needs 10 columns, nn_inds has 3"):
        recall_from_labels(NN_INDS, [7, 9, 8], [7, 8, 7, 9], ks=(1, 10))
    found = recall_from_labels(NN_INDS, [7, 9, 8], [7, 8, 7, 9], ks=(3, 10), truncated=True)
    assert found[10] == found[3]


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="another set"):
        recall_from_labels(NN_INDS, [7, 9, 8], [7, 8, 7], ks=(1, 2))
    with pytest.raises(ValueError, match=r"expected integers of shape \(2, K\)"):
        recall_from_labels(NN_INDS, [7, 9], [7, 8, 7, 9], ks=(1,))
    with pytest.raises(ValueError, match="expected integers"):
        recall_from_positives(NN_INDS.astype(float), [[], [], []], ks=(1,))
    with pytest.raises(ValueError, match="no gallery index"):
        recall_from_positives(np.array([[-1, 2]]), [[0]], ks=(1,))
    with pytest.raises(ValueError, match="ks is"):
        recall_from_positives(NN_INDS, [[], [], []], ks=(0, 1))
    with pytest.raises(ValueError, match="ks is"):
        recall_from_positives(NN_INDS, [[], [], []], ks=())
