"""Triplets: the published random stream, the rules of the draw, bad tables."""

import random

import numpy as np
import pytest
import torch

from rrt_gld.datasets.samplers import TripletSampler
from tests.golden_recipe import array, cases_of_kind, load_manifest, load_outputs
from tests.rrt_gld.data_folders import drawn

SYSTEM = "rrt_gld"
CASES = cases_of_kind(SYSTEM, "triplet sampler")
N, COLUMNS, LABELS, BONUS = 120, 20, 6, 0.8  # of the manifest's text


def golden_table(case: str) -> tuple[np.ndarray, np.ndarray]:
    labels = drawn(f"{case}/labels", (N,)) % LABELS
    affinity = array(f"{case}/affinity", (N, N)).astype(np.float64)
    affinity += BONUS * (labels[:, None] == labels)
    np.fill_diagonal(affinity, -1e9)
    return labels, np.argsort(-affinity, axis=1, kind="stable")[:, :COLUMNS]


@pytest.mark.parametrize("case", CASES)
def test_draws_equal_the_published_stream(case):
    entry, outputs = load_manifest(SYSTEM)["cases"][case], load_outputs(SYSTEM)
    sampler = TripletSampler(*golden_table(case), entry["batch_size"])
    np.testing.assert_array_equal(sampler.valids, outputs[f"{case}/valids"])
    assert len(sampler) == outputs[f"{case}/num_batches"]
    torch.manual_seed(entry["seed"])
    random.seed(entry["seed"])
    batches = sampler.draw_batches()
    np.testing.assert_array_equal([batch.size for batch in batches], outputs[f"{case}/batch_sizes"])
    drawn_images = np.concatenate([batch.ravel() for batch in batches])
    np.testing.assert_array_equal(drawn_images, outputs[f"{case}/draws"])


@pytest.mark.parametrize("stream", ["published", "vectorised"])
def test_draws_follow_the_rules(stream):
    labels, nn_inds = golden_table(CASES[0])
    sampler = TripletSampler(labels, nn_inds, stream=stream)
    torch.manual_seed(3)
    epochs = np.stack([sampler.draw_epoch() for _ in range(60)])  # (60, V, 3)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch[:, 0]), sampler.valids)
    anchor, positive, negative = epochs.reshape(-1, 3).T
    assert (labels[anchor] == labels[positive]).all()
    assert (labels[anchor] != labels[negative]).all()
    for partner in (positive, negative):
        assert (nn_inds[anchor] == partner[:, None]).any(axis=1).all(), "from the anchor's row"
    # uniform: among 60 draws from at most 20 entries, all positives of an anchor come up
    # (one of k = 15 is missed with probability 15 (14/15)^60 = 0.24; hence the sum over anchors)
    same = (labels[nn_inds] == labels[:, None]).sum(1)
    seen = [len(np.unique(positive[anchor == i])) for i in sampler.valids]
    assert sum(seen) > 0.97 * same[sampler.valids].sum()


def test_same_seed_same_draws():
    sampler = TripletSampler(*golden_table(CASES[0]), stream="vectorised")
    draws = []
    for _ in range(2):
        torch.manual_seed(1)
        draws.append(sampler.draw_epoch())
    np.testing.assert_array_equal(draws[0], draws[1])


def small_table() -> tuple[np.ndarray, np.ndarray]:
    """Images 0..5 of label 0, image 6 of label 1."""
    nn_inds = np.array([[j for j in range(7) if j != i] for i in range(7)])
    return np.array([0, 0, 0, 0, 0, 0, 1]), nn_inds


def test_anchors_need_five_positives_and_a_negative():
    labels, nn_inds = small_table()
    np.testing.assert_array_equal(TripletSampler(labels, nn_inds).valids, range(6))
    # within the first five columns of images 0..5 there is no negative: nothing to draw from
    with pytest.raises(ValueError, match="no image has 5 neighbours"):
        TripletSampler(labels, nn_inds, num_candidates=5)
    # image 6 has no positive, and image 0's first three columns hold three positives alone
    swapped = nn_inds[:, ::-1]  # image 6 comes first in rows 0..5
    sampler = TripletSampler(labels, swapped, num_candidates=3, min_positives=2)
    np.testing.assert_array_equal(sampler.valids, range(6))
    assert set(sampler.draw_epoch()[:, 2]) == {6}


def test_num_candidates_bounds_the_columns():
    labels, nn_inds = golden_table(CASES[0])
    sampler = TripletSampler(labels, nn_inds, num_candidates=12)
    anchor, *partners = np.concatenate([sampler.draw_epoch() for _ in range(5)]).T
    for partner in partners:
        assert (nn_inds[anchor, :12] == partner[:, None]).any(axis=1).all()
    beyond = TripletSampler(labels, nn_inds, num_candidates=100)
    np.testing.assert_array_equal(beyond.valids, TripletSampler(labels, nn_inds).valids)


def test_batches_of_fewer_or_more_steps_than_an_epoch():
    sampler = TripletSampler(*golden_table(CASES[0]))  # 114 anchors: 10 batches, the last of 6
    assert [len(batch) for batch in sampler.draw_batches(2)] == [12, 12]
    batches = sampler.draw_batches(23)
    assert [len(batch) for batch in batches] == 2 * ([12] * 9 + [6]) + [12] * 3
    for part in (batches[:10], batches[10:20]):
        np.testing.assert_array_equal(np.sort(np.concatenate(part)[:, 0]), sampler.valids)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"batch_size": 35}, "batch_size is 35, expected a multiple of 3"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"nn_inds": np.zeros((5, 4), np.int64)}, r"\(5, 4\), expected \(7, K\)"),
        ({"nn_inds": small_table()[1] + 1}, r"indices 1\.\.7, but the set has 7"),
        ({"num_candidates": 0}, "num_candidates is 0"),
        ({"min_positives": 0}, "min_positives is 0"),
        ({"stream": "fast"}, "stream is 'fast'"),
    ],
)
def test_bad_input_is_refused(change, complaint):
    labels, nn_inds = small_table()
    with pytest.raises(ValueError, match=complaint):
        TripletSampler(**{"labels": labels, "nn_inds": nn_inds, **change})
