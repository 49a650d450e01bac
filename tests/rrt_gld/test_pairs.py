"""Padded batches: from files and from memory they are the same; memory is bounded."""

import numpy as np
import pytest
import torch

from rrt_gld.datasets.image_set import ImageSet
from rrt_gld.datasets.pairs import (
    CachedImages,
    FileImages,
    TripletBatches,
    collate,
    keep_random_locals,
    make_batches,
)
from tests.rrt_gld.data_folders import write_random_set

DIMS = (24, 16)


@pytest.fixture
def images(tmp_path) -> ImageSet:
    write_random_set(tmp_path, np.arange(8) % 3, "i", "list.txt", DIMS)
    images = ImageSet(tmp_path, "list.txt", "feat", max_sequence_len=7, local_dim=DIMS[1])
    images.local_path(5).write_bytes(b"")
    return images


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5, 6, 7], [3, 3, 5, 0], [5]])
def test_cached_batches_equal_those_from_files(images, rows):
    rows = np.array(rows)
    cached = CachedImages(images, budget_gib=1, progress=False).load_batch(rows)
    from_files = FileImages(images).load_batch(rows)
    for got, expected in zip(cached, from_files, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_batch_is_padded_to_its_longest_image_alone(images):
    batch = FileImages(images).load_batch(np.arange(8))
    counts = [images.count_local(i) for i in range(8)]
    assert batch.local.shape == (8, max(counts), DIMS[1])
    np.testing.assert_array_equal((~batch.mask).sum(1), counts)
    assert not batch.local[batch.mask].any()
    assert not batch.scales[batch.mask].any()
    for i, n in enumerate(counts):
        np.testing.assert_array_equal(batch.local[i, :n], images.load_item(i).local)


def test_collate_keeps_a_given_length(images):
    batch = collate([images.load_item(5), images.load_item(0)], length=11)
    assert batch.mask.shape == (2, 11)
    assert batch.mask[0].all(), "an image without features is all padding"


def test_random_locals_are_kept_in_order_and_padding_only_where_needed(images):
    batch = FileImages(images).load_batch(np.arange(8))
    torch.manual_seed(0)
    kept = keep_random_locals(batch, 3)
    seen = set()
    for i in range(8):
        n = int((~kept.mask[i]).sum())
        assert n == min(3, images.count_local(i)), "features are kept before padding"
        rows = [int((batch.local[i] == row).all(1).nonzero()[0, 0]) for row in kept.local[i, :n]]
        assert rows == sorted(set(rows)), "in their order, none twice"
        assert torch.equal(kept.scales[i, :n], batch.scales[i, rows])
        assert torch.equal(kept.positions[i, :n], batch.positions[i, rows])
        seen |= set(rows)
    assert max(seen) >= 3, "not only the strongest"
    assert keep_random_locals(batch, batch.mask.shape[1]) is batch


def test_triplets_become_anchors_and_partners(images):
    triplets = np.array([[0, 3, 1], [1, 4, 2]])
    batch = TripletBatches(FileImages(images))[triplets]
    expected = [[images.load_item(i).global_ for i in rows] for rows in ([0, 1], [3, 4, 1, 2])]
    np.testing.assert_array_equal(batch.anchors.global_, expected[0])
    np.testing.assert_array_equal(batch.partners.global_, expected[1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_keeps_order_and_leaves_the_random_stream_alone(images, num_workers):
    batches = [np.array([[i, 3, 1]]) for i in range(5)]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded = list(make_batches(FileImages(images), batches, num_workers))
    torch.testing.assert_close(torch.get_rng_state(), before)
    got = torch.cat([batch.anchors.global_ for batch in loaded])
    np.testing.assert_array_equal(got, images.global_descriptors()[:5])


def test_cache_reads_each_file_once(images, monkeypatch):
    read: list[int] = []
    load = ImageSet.load_local

    def counted(self, i):
        read.append(i)
        return load(self, i)

    monkeypatch.setattr(ImageSet, "load_local", counted)
    cached = CachedImages(images, budget_gib=1, progress=False)
    cached.load_batch(np.arange(8))
    cached.load_batch(np.arange(8))
    assert read == list(range(8))


def test_cache_refuses_more_than_its_budget(images):
    total = sum(images.count_local(i) for i in range(8))
    with pytest.raises(MemoryError, match=rf"{total} local descriptors.*cache_budget_gib=1e-06"):
        CachedImages(images, budget_gib=1e-6, progress=False)
