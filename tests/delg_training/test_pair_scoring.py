"""Inliers of many pairs: any number of processes, interruption and resumption, bad files."""

import numpy as np
import pytest

from delg_training import pair_scoring
from delg_training.geometric_verification import Verification, verify
from delg_training.pair_scoring import count_all, load_counts
from tests.delg_training.feature_folders import NUM_GALLERY, NUM_QUERIES, make_folder
from tests.delg_training.golden_pairs import random_pair
from utils.descriptors import LocalFeatures, read_local, write_local

SETTINGS = Verification(1.0, 10.0)
ORIGIN = {"set": "small"}


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "set")


def all_pairs() -> np.ndarray:
    return np.array([(q, i) for q in range(NUM_QUERIES) for i in range(NUM_GALLERY)])


def plain_counts(folder, pairs: np.ndarray) -> np.ndarray:
    files = folder.local_files
    counts = [
        len(verify(read_local(files.queries[q]), read_local(files.gallery[i]), SETTINGS))
        for q, i in pairs
    ]
    return np.array(counts)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_counts_are_those_of_a_plain_loop_for_any_number_of_processes(
    folder, tmp_path, monkeypatch, num_processes
):
    monkeypatch.setattr(pair_scoring, "PAIRS_PER_TASK", 5)
    pairs = np.random.default_rng(0).permutation(all_pairs())
    table = tmp_path / "inliers.npz"
    found = count_all(pairs, folder.local_files, SETTINGS, table, ORIGIN, num_processes, False)
    np.testing.assert_array_equal(found, plain_counts(folder, pairs))
    assert found.max() >= 25
    saved_pairs, saved = load_counts(table, ORIGIN)
    np.testing.assert_array_equal(saved_pairs, pairs)
    np.testing.assert_array_equal(saved, found)


def test_interrupted_run_goes_on_with_the_pairs_that_are_left(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pair_scoring, "PAIRS_PER_TASK", 4)
    monkeypatch.setattr(pair_scoring, "SAVE_SECONDS", 0.0)
    pairs, table, calls = all_pairs(), tmp_path / "inliers.npz", []

    def counted_verify(*arguments):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return verify(*arguments)

    monkeypatch.setattr(pair_scoring, "verify", counted_verify)
    with pytest.raises(KeyboardInterrupt):
        count_all(pairs, folder.local_files, SETTINGS, table, ORIGIN, 1, False)
    kept = len(load_counts(table, ORIGIN)[0])
    assert kept == 8, "two whole tasks"
    calls[:] = [1] * 100
    found = count_all(pairs, folder.local_files, SETTINGS, table, ORIGIN, 1, False)
    assert len(calls) == 100 + len(pairs) - kept
    np.testing.assert_array_equal(found, plain_counts(folder, pairs))


def test_counts_of_other_pairs_stay_in_the_table(folder, tmp_path):
    table, pairs = tmp_path / "inliers.npz", all_pairs()
    for part in (pairs[:10], pairs[5:12], pairs[30:]):
        count_all(part, folder.local_files, SETTINGS, table, ORIGIN, 1, False)
    found, _ = load_counts(table, ORIGIN)
    expected = np.concatenate([pairs[:12], pairs[30:]])
    np.testing.assert_array_equal(np.unique(found, axis=0), expected)
    assert len(found) == len(expected)


def test_finished_table_needs_no_features(folder, tmp_path):
    table, pairs = tmp_path / "inliers.npz", all_pairs()[:6]
    first = count_all(pairs, folder.local_files, SETTINGS, table, ORIGIN, 1, False)
    folder.local_files.queries[0].unlink()
    again = count_all(pairs, folder.local_files, SETTINGS, table, ORIGIN, 1, False)
    np.testing.assert_array_equal(again, first)


def test_table_of_something_else_is_refused(folder, tmp_path):
    table, pairs = tmp_path / "inliers.npz", all_pairs()[:2]
    count_all(pairs, folder.local_files, SETTINGS, table, ORIGIN, 1, False)
    with pytest.raises(ValueError, match=r"inliers.npz .*set: 'small', now 'large'.*overwrite"):
        count_all(pairs, folder.local_files, SETTINGS, table, {"set": "large"}, 1, False)
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"inliers.npz .*no table of inliers"):
        count_all(pairs, folder.local_files, SETTINGS, table, ORIGIN, 1, False)


def test_missing_features_are_counted_before_anything_is_done(folder, tmp_path):
    files = folder.local_files
    for path in (files.queries[1], files.gallery[3], files.gallery[4]):
        path.unlink()
    table = tmp_path / "inliers.npz"
    with pytest.raises(FileNotFoundError, match=r"3 of 17 files do not exist; extract"):
        count_all(all_pairs(), files, SETTINGS, table, ORIGIN, 1, False)
    assert not table.exists()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_descriptors_of_two_models_name_both_files(folder, tmp_path, monkeypatch, num_processes):
    monkeypatch.setattr(pair_scoring, "PAIRS_PER_TASK", 5)
    good = random_pair(10, 0)[0]
    narrow = LocalFeatures(good.locations, good.scales, good.descriptors[:, :7], good.attention)
    write_local(folder.local_files.gallery[5], narrow)
    table = tmp_path / "inliers.npz"
    with pytest.raises(ValueError, match=r"q\d.delg_local and .*i5.delg_local.*\(10, 7\)"):
        count_all(all_pairs(), folder.local_files, SETTINGS, table, ORIGIN, num_processes, False)
