"""Neighbour tables on disk come with their origin, and nothing but whole ones is trusted."""

import pickle

import numpy as np
import pytest

from utils.nn_tables import hash_names, load_nn_inds, record_path, save_nn_inds

TABLE = np.arange(12).reshape(3, 4)
MADE_FROM = {"set": "roxford5k", "descriptors": "r50_gldv1", "names": hash_names(["a", "b"])}


def test_table_is_a_plain_pickle_with_a_record(tmp_path):
    path = tmp_path / "nn_inds.pkl"
    save_nn_inds(path, TABLE, MADE_FROM)
    with open(path, "rb") as file:
        plain = pickle.load(file)
    assert plain.dtype == np.int64
    np.testing.assert_array_equal(plain, TABLE)
    assert b"numpy._core" not in path.read_bytes()  # which numpy 1 does not have
    loaded = load_nn_inds(path, MADE_FROM, n_queries=3, n_gallery=12, min_k=4)
    np.testing.assert_array_equal(loaded, TABLE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nn_inds.pkl", "nn_inds.pkl.json"]


def test_released_table_without_record_is_checked_by_shape_and_range(tmp_path):
    path = tmp_path / "nn_inds.pkl"
    path.write_bytes(pickle.dumps(TABLE, protocol=2))
    np.testing.assert_array_equal(load_nn_inds(path, MADE_FROM, 3, 12, 4), TABLE)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"n_queries": 4}, "has 3 rows, expected 4 queries"),
        ({"n_gallery": 11}, "holds indices from 0 to 11, expected 0 to 10"),
        ({"min_k": 5}, "has 4 columns, expected at least 5"),
    ],
)
def test_table_of_another_size_is_refused(sizes, message, tmp_path):
    path = tmp_path / "nn_inds.pkl"
    save_nn_inds(path, TABLE, MADE_FROM)
    with pytest.raises(ValueError, match=f"nn_inds.pkl {message}.*overwrite=True"):
        load_nn_inds(path, MADE_FROM, **sizes)


def test_table_of_another_set_names_both_values(tmp_path):
    path = tmp_path / "nn_inds.pkl"
    save_nn_inds(path, TABLE, MADE_FROM)
    with pytest.raises(ValueError, match=r"set = 'roxford5k', expected 'rparis6k'.*overwrite"):
        load_nn_inds(path, {**MADE_FROM, "set": "rparis6k"})
    with pytest.raises(ValueError, match=r"metric = 'nothing', expected 'l2'"):
        load_nn_inds(path, {"metric": "l2"})


@pytest.mark.parametrize("content", [TABLE.astype(np.float32), TABLE[0], [[1, 2]], -1 - TABLE])
def test_content_of_another_kind_is_refused(content, tmp_path):
    path = tmp_path / "nn_inds.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"nn_inds.pkl holds"):
        load_nn_inds(path)


def test_changed_table_or_record_is_stale(tmp_path):
    path = tmp_path / "nn_inds.pkl"
    save_nn_inds(path, TABLE, MADE_FROM)
    path.write_bytes(pickle.dumps(TABLE + 1))
    with pytest.raises(ValueError, match="stale or damaged"):
        load_nn_inds(path)
    record_path(path).write_text("{}")
    with pytest.raises(ValueError, match="not the record of a neighbour table"):
        load_nn_inds(path)


def test_missing_table_and_unwritable_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="make the neighbour table first"):
        load_nn_inds(tmp_path / "nn_inds.pkl")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        save_nn_inds(tmp_path / "file" / "nn_inds.pkl", TABLE, {})
    with pytest.raises(ValueError, match="expected int64"):
        save_nn_inds(tmp_path / "nn_inds.pkl", TABLE[0], {})


def test_failed_write_keeps_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "nn_inds.pkl"
    save_nn_inds(path, TABLE, MADE_FROM)
    with pytest.raises(TypeError):
        save_nn_inds(path, TABLE + 1, {"not": object()})  # no JSON value
    np.testing.assert_array_equal(load_nn_inds(path, MADE_FROM), TABLE)
    assert len(list(tmp_path.iterdir())) == 2
