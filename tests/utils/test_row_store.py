"""Rows of features on disk: taken up by what they were made from, removed when all is done."""

import json
from functools import partial

import numpy as np
import pytest

from utils.row_store import Resumption, Store, hash_arrays


def test_removed_store_leaves_nothing(tmp_path):
    store = Store((3, 2), tmp_path / "a.npy", {})
    store.save_mark(2)
    assert json.loads((tmp_path / "a.json").read_text())["done"] == 2
    store.remove()
    assert list(tmp_path.iterdir()) == []


def test_features_of_other_weights_are_not_taken_up(tmp_path):
    store = Store((4, 2), tmp_path / "a.npy", {"weights": "x"})
    store.save_mark(3)
    assert Store((4, 2), tmp_path / "a.npy", {"weights": "x"}).done == 3
    for other in (
        partial(Store, (4, 2), origin={"weights": "y"}),
        partial(Store, (4, 3), origin={"weights": "x"}),
        partial(Store, (4, 2), origin={"weights": "x"}, dtype="float16"),
    ):
        assert other(path=tmp_path / "a.npy").done == 0
        Store((4, 2), tmp_path / "a.npy", {"weights": "x"}).save_mark(3)
    with pytest.raises(ValueError, match="stored as 'int8'"):
        Store((1,), dtype="int8")


def test_rows_go_on_where_they_stood(tmp_path):
    made = Resumption(tmp_path, {"weights": "x"}).store("scores", (3, 2), table="t")
    made.array[:2] = [[1, 2], [3, 4]]
    made.save_mark(2)
    again = Resumption(tmp_path, {"weights": "x"})
    store = again.store("scores", (3, 2), table="t")
    assert store.done == 2
    np.testing.assert_array_equal(store.array[:2], [[1, 2], [3, 4]])
    assert Resumption(tmp_path, {"weights": "x"}).store("scores", (3, 2), table="u").done == 0
    again.shared.append(tmp_path / "shared.npy")
    again.shared[0].touch()
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_digests_tell_arrays_apart():
    values = np.arange(6).reshape(2, 3)
    assert hash_arrays(values) == hash_arrays(values.copy()) != hash_arrays(values + 1)
    assert hash_arrays(values.T) == hash_arrays(np.ascontiguousarray(values.T))
    assert hash_arrays(values, values) != hash_arrays(values)


@pytest.mark.parametrize("done", [-1, 11, 2.0, "4", None, True])
def test_mark_that_cannot_be_begins_anew(tmp_path, done):
    path, origin = tmp_path / "features.npy", {"weights": "a"}
    Store((10, 2), path, origin).save_mark(4)
    mark = path.with_suffix(".json")
    assert Store((10, 2), path, origin).done == 4
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "done": done}))
    assert Store((10, 2), path, origin).done == 0
