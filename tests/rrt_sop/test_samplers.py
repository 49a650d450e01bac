"""Batches of training images: the published draws, the rules they follow, bad input."""

import math
import random

import numpy as np
import pytest
import torch

from rrt_sop.datasets.samplers import RandomIdSampler, ShuffleSampler, TripletSampler
from tests.golden_recipe import array, cases_of_kind, load_manifest, load_outputs

SYSTEM, KIND = "rrt_sop", "samplers"
CASES = cases_of_kind(SYSTEM, KIND)
IDENTITIES, COLUMNS, TRIPLET_BATCH = 20, 30, 30  # of the manifest's text


def drawn_counts(case: str) -> np.ndarray:
    """Images per identity; identity 0 has one."""
    counts = 2 + (np.abs(array(f"{case}/counts", (IDENTITIES,))) * 1000).astype(np.int64) % 4
    counts[0] = 1
    return counts


def golden_table(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and neighbour table of the triplet part."""
    labels = np.arange(IDENTITIES - 1).repeat(drawn_counts(case)[1:])
    affinity = array(f"{case}/affinity", (len(labels), len(labels))).astype(np.float64)
    np.fill_diagonal(affinity, -1e9)
    return labels, np.argsort(-affinity, axis=1, kind="stable")[:, :COLUMNS]


@pytest.mark.parametrize("case", CASES)
def test_identities_are_drawn_as_published(case):
    entry, outputs = load_manifest(SYSTEM)["cases"][case], load_outputs(SYSTEM)
    labels = np.arange(IDENTITIES).repeat(drawn_counts(case))
    per_id = entry["batch_size"] // entry["num_identities"]
    sampler = RandomIdSampler(labels, entry["batch_size"], per_id, entry["num_iterations"])
    random.seed(entry["seed"])
    batches = sampler.draw_batches()
    np.testing.assert_array_equal(batches, outputs[f"{case}/id_draws"])
    assert len(sampler) == len(batches) == entry["num_iterations"]


@pytest.mark.parametrize("case", CASES)
def test_triplets_are_drawn_as_published(case):
    entry, outputs = load_manifest(SYSTEM)["cases"][case], load_outputs(SYSTEM)
    sampler = TripletSampler(*golden_table(case), TRIPLET_BATCH)
    torch.manual_seed(entry["seed"])
    random.seed(entry["seed"])
    batches = sampler.draw_batches()
    np.testing.assert_array_equal(np.concatenate(batches), outputs[f"{case}/triplet_draws"])
    sizes = [len(batch) for batch in batches]
    np.testing.assert_array_equal(sizes, outputs[f"{case}/triplet_sizes"])
    assert len(sampler) == entry["declared_triplet_batches"]
    assert all(batch.dtype == np.int64 for batch in batches)


def test_a_share_of_the_negatives_comes_from_all_other_identities():
    """Neighbours are the next three images of 0..59, three of an identity: 60 have 57 others."""
    labels = np.arange(20).repeat(3)
    table = (np.arange(60)[:, None] + np.arange(1, 6)) % 60
    random.seed(0)
    torch.manual_seed(0)
    sampler = TripletSampler(labels, table, 30, random_negatives=0.5)
    drawn = np.concatenate([sampler.draw_epoch() for _ in range(100)])
    assert (labels[drawn[:, 0]] != labels[drawn[:, 2]]).all()
    near = (drawn[:, 2] - drawn[:, 0]) % 60 <= 5
    # one in two from the table, and of the others 3 to 5 in 57: its share is 0.535 on average
    assert abs(near.mean() - 0.535) < 0.03
    others = drawn[drawn[:, 0] == 30][:, 2]
    assert len(np.unique(others)) > 30


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_beyond_one_is_refused(share):
    with pytest.raises(ValueError, match="random_negatives is"):
        TripletSampler(np.zeros(2, np.int64), np.zeros((2, 1), np.int64), 3, random_negatives=share)


def naive_triplets(labels: np.ndarray, nn_inds: np.ndarray, columns: int) -> list[list[int]]:
    """One epoch, image by image with lists, as the paper's description reads."""
    triplets = []
    for anchor in torch.randperm(len(labels)).tolist():
        same = [i for i in range(len(labels)) if labels[i] == labels[anchor] and i != anchor]
        other = [i for i in nn_inds[anchor][:columns].tolist() if labels[i] != labels[anchor]]
        if same and other:
            positive, negative = random.choices(same)[0], random.choices(other)[0]
            triplets.append([anchor, positive, negative])
    return triplets


@pytest.mark.parametrize("columns", [100, 7, 2])
def test_draws_equal_those_of_lists_per_image(columns):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(40).repeat(rng.integers(1, 6, 40)))
    _, labels = np.unique(labels, return_inverse=True)  # singles among them
    close = rng.random((len(labels), len(labels))) + 0.7 * (labels[:, None] == labels)
    np.fill_diagonal(close, -1)
    nn_inds = np.argsort(-close, axis=1)
    sampler = TripletSampler(labels, nn_inds, 12, columns)
    drawn = []
    for draw in (sampler.draw_epoch, lambda: naive_triplets(labels, nn_inds, columns)):
        torch.manual_seed(5)
        random.seed(5)
        drawn.append(draw())
    np.testing.assert_array_equal(*drawn)
    assert sampler.skipped == len(labels) - len(drawn[0])
    assert sampler.skipped > 0


def test_an_identity_of_one_image_is_neither_anchor_nor_drawn():
    labels = np.array([0, 0, 1, 2, 2, 3, 3])  # image 2 is alone
    nn_inds = np.array([[j for j in range(7) if j != i] for i in range(7)])
    triplets = TripletSampler(labels, nn_inds, 6)
    assert triplets.skipped == 1
    assert set(triplets.draw_epoch()[:, 0]) == {0, 1, 3, 4, 5, 6}
    batches = RandomIdSampler(labels, 4, 2, num_iterations=30).draw_batches()
    assert set(np.concatenate(batches)) == {0, 1, 3, 4, 5, 6}


def test_an_image_whose_neighbours_all_share_its_label_is_no_anchor():
    labels = np.array([0, 0, 0, 1, 1])
    nn_inds = np.array([[1, 2], [0, 3], [0, 4], [0, 1], [0, 1]])  # row 0: label 0 alone
    assert sorted(TripletSampler(labels, nn_inds, 3).draw_epoch()[:, 0]) == [1, 2, 3, 4]


def test_batches_hold_distinct_identities_with_distinct_images_side_by_side():
    labels = np.arange(30).repeat(4)
    for batch in RandomIdSampler(labels, 24, 3, num_iterations=20):
        groups = labels[batch].reshape(8, 3)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == 8
        assert len(set(batch.tolist())) == 24


def test_all_images_come_once_when_shuffled():
    sampler = ShuffleSampler(10, 4)
    torch.manual_seed(0)
    first, second = sampler.draw_batches(), sampler.draw_batches()
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert len(sampler) == 3
    assert sorted(np.concatenate(first)) == list(range(10))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


def test_samplers_are_batch_samplers_of_torch():
    labels = np.arange(6).repeat(2)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.arange(12)),
        batch_sampler=RandomIdSampler(labels, 4, 2, num_iterations=5),
    )
    assert [len(batch) for (batch,) in loader] == [4] * 5


def triplet_input() -> dict:
    labels = np.array([0, 0, 1, 1, 2, 2])
    table = np.array([[j for j in range(6) if j != i] for i in range(6)])
    return {"labels": labels, "nn_inds": table, "batch_size": 6}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"batch_size": 7}, "batch_size is 7, expected a multiple of 3"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_candidates": 0}, "num_candidates is 0"),
        ({"nn_inds": np.zeros((5, 4), int)}, r"\(5, 4\), but there are 6 .*another split.*query_"),
        ({"nn_inds": triplet_input()["nn_inds"] + 1}, r"indices 1\.\.6, but there are 6 .*split"),
        ({"nn_inds": np.full((6, 4), -1)}, r"indices -1\.\.-1"),
        ({"labels": np.zeros(6, int)}, "no image has a second image of its identity and"),
        ({"labels": np.arange(6)}, "no image has a second image of its identity and"),
    ],
)
def test_bad_triplet_input_is_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        TripletSampler(**triplet_input() | change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"batch_size": 5}, "batch_size=5 is not divisible by the 2 images per identity"),
        ({"sample_per_id": 0}, "not divisible by the 0 images per identity"),
        ({"num_iterations": 0}, "num_iterations is 0, expected at least 1.*59551"),
        ({"batch_size": 8}, "only 3 of 3 identities have at least 2 images, but a batch of 8 need"),
        ({"sample_per_id": 3, "batch_size": 3}, "only 0 of 3 identities have at least 3"),
    ],
)
def test_bad_identity_input_is_refused(change, complaint):
    sizes = {"batch_size": 4, "sample_per_id": 2, "num_iterations": 1} | change
    with pytest.raises(ValueError, match=complaint):
        RandomIdSampler(np.arange(3).repeat(2), **sizes)


def test_positives_and_negatives_are_uniform():
    """Of 4 positives and 3 negatives each comes up in its share of 3,000 draws, within 5 sigma."""
    labels = np.array([0] * 5 + [1] * 3)
    nn_inds = np.tile(np.array([5, 0, 6, 7, 1]), (8, 1))
    sampler = TripletSampler(labels, nn_inds, 24)
    torch.manual_seed(0)
    random.seed(0)
    drawn = np.concatenate([sampler.draw_epoch() for _ in range(3000)])
    of_first = drawn[drawn[:, 0] == 0]
    for column, choices in ((1, [1, 2, 3, 4]), (2, [5, 6, 7])):
        counts = np.array([(of_first[:, column] == c).sum() for c in choices])
        assert counts.sum() == 3000
        share = 1 / len(choices)
        sigma = math.sqrt(3000 * share * (1 - share))
        assert np.abs(counts - 3000 * share).max() < 5 * sigma
