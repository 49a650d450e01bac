"""Extraction into memory or a file: order, resumption, files of another origin."""

import numpy as np
import pytest
import torch

from rrt_sop.features import Loading, extract
from utils.distributed import Ranks
from utils.row_store import Store

QUIET = Loading(batch_size=4, progress=False)


class Counting(torch.utils.data.Dataset):
    """Image i is filled with i; remembers who was read."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        self.read.append(index)
        return torch.full((3, 2, 2), float(index)), 0, index


def mean_twice(batch: torch.Tensor) -> torch.Tensor:
    mean = batch.mean(dim=(1, 2, 3))
    return torch.stack([mean, 2 * mean], dim=1)


EXPECTED = np.stack([np.arange(10), 2 * np.arange(10)], axis=1).astype(np.float32)


def test_rows_are_in_the_order_of_the_images():
    got = extract(mean_twice, Counting(10), Store((10, 2)), QUIET)
    np.testing.assert_array_equal(got, EXPECTED)


def test_interrupted_extraction_goes_on_where_it_stood(tmp_path, monkeypatch):
    monkeypatch.setattr("rrt_sop.features.SAVE_EVERY", 4)
    path, origin = tmp_path / "run" / "features.npy", {"weights": "a"}
    calls = []

    def interrupted(batch: torch.Tensor) -> torch.Tensor:
        calls.append(len(batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return mean_twice(batch)

    with pytest.raises(KeyboardInterrupt):
        extract(interrupted, Counting(10), Store((10, 2), path, origin), QUIET)
    rest = Counting(10)
    got = extract(mean_twice, rest, Store((10, 2), path, origin), QUIET)
    assert rest.read == [4, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(got, EXPECTED)
    complete = Counting(10)
    extract(mean_twice, complete, Store((10, 2), path, origin), QUIET)
    assert complete.read == []


@pytest.mark.parametrize("damage", ["origin", "shape", "mark", "file"])
def test_files_of_another_origin_or_damaged_ones_are_made_anew(tmp_path, damage):
    path = tmp_path / "features.npy"
    extract(mean_twice, Counting(10), Store((10, 2), path, {"weights": "a"}), QUIET)
    origin = {"weights": "b" if damage == "origin" else "a"}
    count = 8 if damage == "shape" else 10
    if damage == "mark":
        path.with_suffix(".json").write_text("{")
    if damage == "file":
        path.write_bytes(b"\x93NUMPY")
    images = Counting(count)
    extract(mean_twice, images, Store((count, 2), path, origin), QUIET)
    assert images.read == list(range(count))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"features of images 0\.\.3 are not finite"):
        extract(lambda b: mean_twice(b) * torch.nan, Counting(10), Store((10, 2)), QUIET)


def test_several_ranks_do_not_share_a_file(tmp_path):
    with pytest.raises(ValueError, match="several processes cannot share a file"):
        extract(mean_twice, Counting(4), Store((4, 2), tmp_path / "a.npy"), QUIET, Ranks(0, 2))
