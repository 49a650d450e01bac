"""Images of a training set, and which of them a process sees in an epoch."""

from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from utils.distributed import Ranks
from vitgal.datasets.gldv2 import LandmarkImages, read_image
from vitgal.datasets.samplers import EpochBatches, make_loader, make_val_batches
from vitgal.datasets.transforms import Augmentation, normalise, resize


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(7):
        picture = rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"{i}.png"), picture)
    return root


def make_images(folder: Path, count: int = 7, augmented: bool = True, **options) -> LandmarkImages:
    paths = np.array([f"{i}.png".encode() for i in range(count)])
    augmentation = Augmentation(input_size=16) if augmented else None
    return LandmarkImages(folder, paths, np.arange(count), 16, augmentation, **options)


def batches_of(images: LandmarkImages, epoch: int, workers: int) -> list[tuple]:
    return list(make_loader(images, [[3, 1], [0, 6, 2]], epoch, workers, False))


def test_image_depends_on_seed_epoch_and_index_alone(folder):
    images = make_images(folder)
    in_process, by_workers = (batches_of(images, 4, workers) for workers in (0, 2))
    for (first, labels), (second, again) in zip(in_process, by_workers, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(labels, again)
    assert torch.equal(in_process[0][0][1], images[4, 1][0])
    assert in_process[1][1].tolist() == [0, 6, 2]
    assert not torch.equal(images[4, 1][0], images[5, 1][0])
    assert not torch.equal(images[4, 1][0], make_images(folder, seed=1)[4, 1][0])


def test_validation_images_are_squashed_and_nothing_else(folder):
    image, label = make_images(folder, augmented=False)[9, 2]
    picture = cv2.cvtColor(cv2.imread(str(folder / "2.png")), cv2.COLOR_BGR2RGB)
    assert torch.equal(image, torch.from_numpy(normalise(resize(picture, 16, 16))))
    assert label == 2


def test_missing_and_unreadable_images_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"2 of 9 files do not exist.*\n.*7\.png"):
        make_images(folder, 9)
    (tmp_path / "0.png").write_bytes(b"no picture")
    images = make_images(tmp_path, 1)
    with pytest.raises(ValueError, match=r"0\.png is no readable image; fetch it again"):
        images[0, 0]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_image(tmp_path / "1.png")


@pytest.mark.parametrize(("num_images", "world"), [(23, 1), (23, 2), (24, 3)])
def test_order_is_that_of_the_distributed_sampler(num_images, world):
    for rank in range(world):
        batches = EpochBatches(num_images, 3, Ranks(rank, world))
        theirs = DistributedSampler(range(num_images), world, rank, shuffle=True, seed=0)
        for epoch in (0, 5):
            theirs.set_epoch(epoch)
            mine = batches.draw(epoch)
            assert list(chain.from_iterable(mine)) == list(theirs)[: 3 * len(batches)]
            assert {len(batch) for batch in mine} == {3}


def test_processes_share_the_validation_images():
    shares = [make_val_batches(11, 4, Ranks(rank, 2)) for rank in range(2)]
    assert sorted(chain.from_iterable(chain.from_iterable(shares))) == list(range(11))
    assert [len(batch) for batch in shares[0]] == [4, 2]


@pytest.mark.parametrize(("batch_size", "world"), [(8, 1), (5, 2)])
def test_fewer_images_than_a_batch_are_refused(batch_size, world):
    with pytest.raises(ValueError, match=r"7 images shared by .* lower dataset\.batch_size"):
        EpochBatches(7, batch_size, Ranks(0, world))
    with pytest.raises(ValueError, match="batch_size is 0"):
        EpochBatches(7, 0, Ranks())
