"""ImageSet: items of the reference answers, the scale map, missing and damaged files."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from rrt_gld.datasets.image_set import (
    ImageSet,
    compute_nearest_scale_inds,
    compute_published_scale_inds,
)
from rrt_gld.datasets.line_lists import load_line_list, write_line_list
from tests.golden_recipe import cases_of_kind, load_manifest, load_outputs
from tests.rrt_gld.data_folders import SCALES, write_random_set
from utils.descriptors import LocalFeatures, read_local, write_global, write_local

SYSTEM = "rrt_gld"
FILE_CASES = cases_of_kind(SYSTEM, "descriptor files and dataset item")
OUTPUTS = load_outputs(SYSTEM)
DIMS = (24, 16)


def make_set(folder: Path, n: int = 6, **options) -> ImageSet:
    if not (folder / "list.txt").exists():
        write_random_set(folder, np.arange(n) % 3, "i", "list.txt", DIMS)
    return ImageSet(folder, "list.txt", "feat", **{"local_dim": DIMS[1], **options})


@pytest.mark.parametrize("case", FILE_CASES)
def test_item_equals_reference(case, tmp_path, golden_dir):
    entry = load_manifest(SYSTEM)["cases"][case]
    descriptors = tmp_path / "delg_feat"
    descriptors.mkdir()
    for name in entry["files"]:
        source = golden_dir / SYSTEM / name
        shutil.copy(source, descriptors / f"image{source.suffix}")
    (tmp_path / "list.txt").write_text(f"jpg/image.jpg,3,{entry['width']},{entry['height']}")
    images = ImageSet(tmp_path, "list.txt", "feat", entry["max_sequence_len"])
    item = images.load_item(0)
    expected = {key.split("/")[-1]: v for key, v in OUTPUTS.items() if key.startswith(f"{case}/")}
    n = int((~expected["item_mask"]).sum())
    assert len(item.local) == len(item.scales) == len(item.positions) == n
    assert not expected["item_mask"][:n].any(), "padding comes last"
    np.testing.assert_array_equal(item.global_, expected["read_global"])
    np.testing.assert_array_equal(item.scales, expected["item_scale_inds"][:n])
    np.testing.assert_array_equal(item.positions, expected["item_positions"][:n])
    np.testing.assert_allclose(
        item.local.astype(np.float64).sum(1), expected["item_local_sum"][:n], atol=1e-6
    )


def test_scale_map_is_the_published_one():
    # the extractor's float32 values, smallest pyramid scale first; each inexact one falls short
    np.testing.assert_array_equal(compute_published_scale_inds(SCALES), [6, 4, 4, 2, 2, 0, 0])
    beyond = np.array([0.1, 0.49999, 0.5, 3.9999, 4.0, 100.0], dtype=np.float32)
    np.testing.assert_array_equal(compute_published_scale_inds(beyond), [0, 0, 0, 5, 6, 6])


def test_nearest_scale_map_uses_all_rows(tmp_path):
    np.testing.assert_array_equal(compute_nearest_scale_inds(SCALES), [6, 5, 4, 3, 2, 1, 0])
    images = make_set(tmp_path, scale_map="nearest")
    stored = read_local(images.local_path(0)).scales
    np.testing.assert_array_equal(images.load_item(0).scales, compute_nearest_scale_inds(stored))
    with pytest.raises(ValueError, match=r"scale_map is 'nearer'.*published.*nearest"):
        make_set(tmp_path, scale_map="nearer")


def test_empty_local_file_is_an_image_without_features(tmp_path):
    images = make_set(tmp_path)
    images.local_path(2).write_bytes(b"")
    item = images.load_item(2)
    assert item.local.shape == (0, DIMS[1])
    assert item.scales.shape == (0,)
    assert item.positions.shape == (0, 2)
    assert images.count_local(2) == 0


def test_only_the_first_features_are_used(tmp_path):
    longest = max(range(6), key=make_set(tmp_path).count_local)
    images, cut = make_set(tmp_path), make_set(tmp_path, max_sequence_len=2)
    assert cut.count_local(longest) == 2
    np.testing.assert_array_equal(cut.load_item(longest).local, images.load_item(longest).local[:2])


def test_local_mean_is_taken_off_and_rows_normalised(tmp_path):
    mean = np.arange(DIMS[1], dtype=np.float32) / 8
    np.savez(tmp_path / "mean.npz", mean=mean)
    raw = make_set(tmp_path).load_item(0).local - mean
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    got = make_set(tmp_path, local_mean=tmp_path / "mean.npz").load_item(0).local
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.savez(tmp_path / "wide.npz", mean=np.zeros(5))
    with pytest.raises(ValueError, match=r"wide\.npz.*\(5,\).*expected.*\(16,\)"):
        make_set(tmp_path, local_mean=tmp_path / "wide.npz")


def test_positions_of_unknown_sizes_are_zero(tmp_path):
    make_set(tmp_path, n=1)
    (tmp_path / "list.txt").write_text("jpg/i000.jpg,0,0,0")
    np.testing.assert_array_equal(make_set(tmp_path).load_item(0).positions, 0)


def test_missing_files_are_counted_and_ten_named(tmp_path):
    images = make_set(tmp_path, n=20)
    for i in range(12):
        images.local_path(i).unlink()
    with pytest.raises(FileNotFoundError, match=r"12 of the 40 .*extract") as error:
        make_set(tmp_path)
    named = [i for i in range(20) if f"i{i:03d}.delg_local" in str(error.value)]
    assert named == list(range(10))
    shutil.rmtree(tmp_path / "delg_feat")
    with pytest.raises(FileNotFoundError, match="40 of the 40"):
        make_set(tmp_path)


def test_globals_alone_need_no_local_files(tmp_path):
    images = make_set(tmp_path)
    for i in range(6):
        images.local_path(i).unlink()
    vectors = make_set(tmp_path, with_locals=False).global_descriptors()
    assert vectors.shape == (6, DIMS[0])
    assert vectors.dtype == np.float32


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def damage_nan(path: Path) -> None:
    features = read_local(path)
    data = bytearray(path.read_bytes())
    bad = features.descriptors[0].tobytes()
    at = data.find(bad)
    data[at : at + 4] = np.float32("nan").tobytes()
    path.write_bytes(bytes(data))


def damage_width(path: Path) -> None:
    zeros = np.zeros(3)
    write_local(path, LocalFeatures(np.zeros((3, 2)), zeros, np.ones((3, 8)), zeros, zeros))


def damage_oversized(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\xff" * 4000)


@pytest.mark.parametrize(
    "damage",
    [damage_truncate, damage_nan, damage_width, damage_oversized],
    ids=lambda f: f.__name__,
)
def test_damaged_local_file_is_named(tmp_path, damage):
    images = make_set(tmp_path)
    damage(images.local_path(1))
    with pytest.raises(ValueError, match=r"i001\.delg_local"):
        images.load_item(1)


def test_global_of_another_width_is_named(tmp_path):
    images = make_set(tmp_path)
    write_global(images.global_path(4), np.ones(7, dtype=np.float32))
    with pytest.raises(ValueError, match=r"i004\.delg_global"):
        images.global_descriptors()
    with pytest.raises(ValueError, match=r"i000\.delg_global"):
        make_set(tmp_path, global_dim=32).load_item(0)


def test_line_list_round_trip_and_labels(tmp_path):
    path = tmp_path / "list.txt"
    write_line_list(path, ["a,b.jpg", "c.jpg", "d.jpg"], [70, 5, 70], [(1, 2), (3, 4), (5, 6)])
    assert path.read_bytes() == b"a,b.jpg,70,1,2\nc.jpg,5,3,4\nd.jpg,70,5,6"
    lines = load_line_list(path)
    assert lines.paths == ["a,b.jpg", "c.jpg", "d.jpg"]
    np.testing.assert_array_equal(lines.labels, [1, 0, 1])  # 5 -> 0, 70 -> 1
    np.testing.assert_array_equal(lines.sizes, [[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a.jpg,1,2,3\nb.jpg,1,2", "line 2"),
        ("a.jpg,one,2,3", "line 1"),
        ("", "is empty"),
        ("a.jpg,1,2,3\nnothing", "line 2: 'nothing'"),
    ],
)
def test_malformed_line_list_is_refused(tmp_path, text, complaint):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        load_line_list(tmp_path / "list.txt")
