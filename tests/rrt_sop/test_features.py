"""Extraction into memory or a file: order, resumption, files of another origin."""

import json

import numpy as np
import pytest
import torch

from rrt_sop.features import Loading, Store, extract, fingerprint, fingerprint_of, share_rows
from utils.distributed import Ranks

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


def test_removed_store_leaves_nothing(tmp_path):
    store = Store((3, 2), tmp_path / "a.npy", {})
    store.save_mark(2)
    assert json.loads((tmp_path / "a.json").read_text())["done"] == 2
    store.remove()
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"features of images 0\.\.3 are not finite"):
        extract(lambda b: mean_twice(b) * torch.nan, Counting(10), Store((10, 2)), QUIET)


def test_several_ranks_do_not_share_a_file(tmp_path):
    with pytest.raises(ValueError, match="several processes cannot share a file"):
        extract(mean_twice, Counting(4), Store((4, 2), tmp_path / "a.npy"), QUIET, Ranks(0, 2))


def test_shares_of_ranks_add_up(monkeypatch):
    """Rank 1 of 2 has rows 1, 3, 5; the sum over ranks, played here, brings those of rank 0."""
    full = np.arange(12, dtype=np.float32).reshape(6, 2)
    mine = np.where(np.arange(6)[:, None] % 2 == 1, full, np.float32(99))  # 99: never written

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        others = torch.from_numpy(full.copy())
        others[1::2] = 0
        return tensor + others

    monkeypatch.setattr(Ranks, "sum_", sum_)
    share_rows(mine, Ranks(1, 2))
    np.testing.assert_array_equal(mine, full)


def test_fingerprints_tell_weights_and_tables_apart():
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert fingerprint(first) != fingerprint(second)
    second.load_state_dict(first.state_dict())
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint_of(np.arange(3)) != fingerprint_of(np.arange(1, 4))


@pytest.mark.parametrize("done", [-1, 11, 2.0, "4", None, True])
def test_mark_that_cannot_be_begins_anew(tmp_path, done):
    path, origin = tmp_path / "features.npy", {"weights": "a"}
    Store((10, 2), path, origin).save_mark(4)
    mark = path.with_suffix(".json")
    assert Store((10, 2), path, origin).done == 4
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "done": done}))
    assert Store((10, 2), path, origin).done == 0
