"""The lists of MSLS: the reference's on a toy tree, the kept scan, and what is refused."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r2former.datasets import msls_scan
from r2former.datasets.msls import load_msls, load_msls_test_set, load_msls_train_set
from r2former.datasets.vg_folder import compute_weights
from tests.golden_recipe import load_manifest
from tests.r2former.street_folders import line_of_places, write_files, write_msls_side

TOY = "msls_toy.json"
SPLITS = ("train", "val", "test")
RADII = {"pIdx": None, "nonNegIdx": 25, "nonNegIdx_hard": 50}  # None: the radius of the split


@pytest.fixture(scope="module")
def toy() -> dict[str, Any]:
    return load_manifest("r2former", TOY)


@pytest.fixture
def toy_root(tmp_path: Path, toy: dict[str, Any]) -> Path:
    write_files(tmp_path / "msls", toy["files"])
    return tmp_path


def load_toy(root: Path, toy: dict[str, Any], split: str) -> Any:
    return load_msls(root, "msls", split, toy["cities"][split], check_images=False)


@pytest.mark.parametrize("split", SPLITS)
def test_image_lists_are_those_of_the_reference(toy_root, toy, split):
    places = load_toy(toy_root, toy, split).places
    expected = toy["results"][split]
    start = len(f"{toy_root}/msls/")
    assert [p[start:] for p in places.database_paths] == expected["dbImages"]
    assert [p[start:] for p in places.query_paths] == expected["qImages"]


@pytest.mark.parametrize("split", SPLITS)
def test_positives_and_unmatched_queries_are_those_of_the_reference(toy_root, toy, split):
    places = load_toy(toy_root, toy, split).places
    expected = toy["results"][split]
    if split == "test":
        assert not places.has_positions
        assert len(places.query_paths) == len(expected["qIdx"])
        return
    radius = toy["radius"][split]
    kept = np.flatnonzero(places.positives(radius).counts)
    assert kept.tolist() == expected["qIdx"]
    unmatched = np.flatnonzero(places.positives(radius).counts == 0)
    names = places.keys([places.query_paths[q] for q in unmatched])
    assert sorted(names) == sorted(expected["query_keys_with_no_match"])
    for name, given in RADII.items():
        if name in expected:
            found = places.with_positives_only(radius).positives(given or radius)
            assert [row.tolist() for row in found] == expected[name], name


def test_sampling_weights_are_those_of_the_reference(toy_root, toy):
    expected = toy["results"]["train"]
    scanned = load_toy(toy_root, toy, "train")
    kept = expected["qIdx"]
    night, sideways = scanned.night[kept], scanned.sideways[kept]
    assert np.flatnonzero(night).tolist() == expected["night"]
    assert np.flatnonzero(sideways).tolist() == expected["sideways"]
    np.testing.assert_allclose(compute_weights(night, sideways), expected["weights"], rtol=1e-12)


def write_city(root: Path, city: str, part: str = "train_val", **columns: Any) -> Path:
    folder = root / "msls" / part / city
    database, queries = line_of_places(6, 20.0), line_of_places(3, 20.0, shift=3.0)
    write_msls_side(folder / "database", [f"{city}_d{i}" for i in range(6)], database)
    write_msls_side(folder / "query", [f"{city}_q{i}" for i in range(3)], queries, **columns)
    return folder


def test_equal_positions_of_different_cities_are_no_positives(tmp_path):
    write_city(tmp_path, "cph")
    write_city(tmp_path, "sf")
    places = load_msls_test_set(tmp_path, "msls", "val", 25)
    # query i at 20 i + 3 m: places i and i + 1 (17 m), and i - 1 (23 m), of its own city
    assert [row.tolist() for row in places.positives(25)] == [
        [0, 1], [0, 1, 2], [1, 2, 3], [6, 7], [6, 7, 8], [7, 8, 9],
    ]  # fmt: skip


def test_protocols_differ_in_the_queries_without_positives_alone(tmp_path):
    folder = write_city(tmp_path, "cph")
    far = [(5003.0, 7000.0), (5023.0, 9999.0), (5043.0, 7000.0)]
    write_msls_side(folder / "query", ["q0", "q1", "q2"], far)
    official, every = (
        load_msls_test_set(tmp_path, "msls", "val", 25, protocol, ["cph"])
        for protocol in ("official", "all_queries")
    )
    assert official.keys(official.query_paths) == ["q0", "q2"]
    assert every.keys(every.query_paths) == ["q0", "q1", "q2"]
    assert "official" in official.protocol
    assert "all queries" in every.protocol


def test_val_leaves_out_images_outside_the_task_and_train_does_not(tmp_path):
    for city in ("cph", "goa"):
        write_city(tmp_path, city, all=["True", "False", "True"])
    assert len(load_msls(tmp_path, "msls", "val", ["cph"]).places.query_paths) == 2
    assert len(load_msls(tmp_path, "msls", "train", ["goa"]).places.query_paths) == 3


def test_training_weights_follow_night_and_side_views(tmp_path):
    write_city(tmp_path, "goa", night=["True", "False", "False"])
    places = load_msls_train_set(tmp_path, "msls", 10, ["goa"])
    # 1 + 3/1 for the one at night, 1 for the others: 4/6, 1/6, 1/6
    np.testing.assert_allclose(places.query_weights, [4 / 6, 1 / 6, 1 / 6])


def test_a_kept_scan_is_used_until_a_csv_file_changes(tmp_path, monkeypatch):
    folder = write_city(tmp_path, "cph")
    first = load_msls(tmp_path, "msls", "val", ["cph"]).places
    reads = []
    scan = msls_scan.scan_side
    monkeypatch.setattr(msls_scan, "scan_side", lambda *args: (reads.append(args), scan(*args))[1])
    again = load_msls(tmp_path, "msls", "val", ["cph"]).places
    assert not reads
    assert again.query_paths == first.query_paths
    np.testing.assert_array_equal(again.query_utm, first.query_utm)
    changed = folder / "query" / "raw.csv"
    changed.write_text(changed.read_text().replace("cph_q1,False", "cph_q1,True"))
    os.utime(changed, ns=(1, 1))
    fewer = load_msls(tmp_path, "msls", "val", ["cph"]).places
    assert reads
    assert len(fewer.query_paths) == len(first.query_paths) - 1


def test_a_damaged_scan_is_made_anew(tmp_path):
    write_city(tmp_path, "cph")
    first = load_msls(tmp_path, "msls", "val", ["cph"]).places
    kept = tmp_path / "msls" / "r2former_scan_val.npz"
    kept.write_bytes(kept.read_bytes()[:200])
    assert load_msls(tmp_path, "msls", "val", ["cph"]).places.query_paths == first.query_paths


def test_the_scan_can_be_kept_elsewhere(tmp_path):
    write_city(tmp_path, "cph")
    load_msls(tmp_path, "msls", "val", ["cph"], tmp_path / "kept")
    assert (tmp_path / "kept" / "r2former_scan_val.npz").is_file()
    assert not (tmp_path / "msls" / "r2former_scan_val.npz").exists()


@pytest.mark.parametrize(
    "name, old, new, told",
    [
        ("raw.csv", "cph_q1", "cph_q7", "raw.csv has key cph_q7 in row 1"),
        ("seq_info.csv", "cph_q1", "cph_q7", "seq_info.csv has key cph_q7 in row 1"),
        ("postprocessed.csv", "\r\n1,cph_q1", "\r\n5,cph_q1", "row index 1"),
        ("postprocessed.csv", "easting", "east", "no column 'easting'"),
        ("postprocessed.csv", "5003.0", "here", "no number"),
        ("postprocessed.csv", "5003.0", "nan", "not finite"),
        ("raw.csv", "False", "perhaps", "expected True or False"),
    ],
)
def test_csv_files_that_disagree_are_refused(tmp_path, name, old, new, told):
    path = write_city(tmp_path, "cph") / "query" / name
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(ValueError, match=told):
        load_msls(tmp_path, "msls", "val", ["cph"])


def test_missing_rows_are_refused(tmp_path):
    path = write_city(tmp_path, "cph") / "query" / "subtask_index.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"subtask_index\.csv has 2 rows"):
        load_msls(tmp_path, "msls", "val", ["cph"])


def test_rows_beyond_the_end_of_seq_info_are_left_out(tmp_path):
    path = write_city(tmp_path, "cph") / "query" / "seq_info.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert len(load_msls(tmp_path, "msls", "val", ["cph"]).places.query_paths) == 2


def test_missing_images_are_counted_at_the_first_scan(tmp_path):
    folder = write_city(tmp_path, "cph")
    (folder / "database" / "images" / "cph_d3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 6 images, the first is cph_d3\.jpg"):
        load_msls(tmp_path, "msls", "val", ["cph"])


def test_missing_folders_and_unknown_names_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="link or download MSLS"):
        load_msls(tmp_path, "msls", "val")
    write_city(tmp_path, "cph")
    with pytest.raises(FileNotFoundError, match=r"sf/query/seq_info\.csv"):
        load_msls(tmp_path, "msls", "val")
    with pytest.raises(ValueError, match="split is 'all'"):
        load_msls(tmp_path, "msls", "all")
    with pytest.raises(ValueError, match="protocol is 'mine'"):
        load_msls_test_set(tmp_path, "msls", "val", 25, "mine", ["cph"])


def test_keys_beyond_ascii_are_named_in_a_csv_file_and_scanned_anew_in_a_kept_scan(tmp_path):
    utm = line_of_places(3, 10.0)
    for side in ("query", "database"):
        write_msls_side(tmp_path / "msls/train_val/cph" / side, ["a", "b", "c"], utm)

    def load() -> Any:
        return load_msls(tmp_path, "msls", "val", ("cph",), tmp_path, check_images=False).places

    expected = load().query_paths
    kept = tmp_path / "r2former_scan_val.npz"
    with np.load(kept) as file:
        arrays = dict(file)
    np.savez(kept, **{**arrays, "0_keys": np.array([b"a", b"\x80", b"c"])})
    assert load().query_paths == expected
    raw = tmp_path / "msls/train_val/cph/query/raw.csv"
    raw.write_text(raw.read_text().replace(",b,", ",\u0663,"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"raw\.csv, column key: .*not plain ASCII; fetch"):
        load()
