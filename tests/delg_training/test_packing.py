"""Lists, labels, splits and shards of a packed set; what they hold."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delg_training import build_image_dataset
from delg_training.datasets.packing import (
    find_images,
    list_all,
    list_clean,
    relabel,
    shard_boundaries,
    split_by_label,
    write_relabeling,
)
from delg_training.datasets.record_writing import make_example, write_split
from delg_training.packing_run import PackingOptions, pack
from tests.delg_training.golden_models import SYSTEM, image
from tests.delg_training.tiny_sets import draw_jpegs, tiny_listing
from tests.golden_recipe import load_manifest


def misc(key: str) -> list[dict[str, object]]:
    return load_manifest(SYSTEM, "misc.json")[key]


@pytest.mark.parametrize("case", misc("splits"), ids=lambda case: str(case["seed"]))
def test_split_equals_the_reference(case: dict[str, object]) -> None:
    share, seed = case["validation_split_size"], case["seed"]
    validation, train = split_by_label(case["labels"], share, seed)  # type: ignore[arg-type]
    for name, rows in (("validation", validation), ("train", train)):
        assert [case["file_ids"][i] for i in rows] == case[f"{name}_file_ids"]  # type: ignore[index]
        assert [case["labels"][i] for i in rows] == case[f"{name}_labels"]  # type: ignore[index]


@pytest.mark.parametrize("case", misc("shards"), ids=lambda case: str(case["items"]))
def test_shards_equal_the_reference(case: dict[str, object]) -> None:
    ours = shard_boundaries(case["items"], case["num_shards"])  # type: ignore[arg-type]
    assert ours.tolist() == case["boundaries"]


def test_relabeling_file_equals_the_reference(golden_dir: Path, tmp_path: Path) -> None:
    write_relabeling(tmp_path / "relabeling.csv", [3, 17, 204])
    expected = (golden_dir / SYSTEM / "relabeling.csv").read_bytes()
    assert (tmp_path / "relabeling.csv").read_bytes() == expected


def features(record: bytes) -> dict[str, list[object]]:
    """Every feature of a serialised example."""
    example = tf.train.Example.FromString(record)
    found = {}
    for name, feature in example.features.feature.items():
        values = getattr(feature, feature.WhichOneof("kind")).value
        found[name] = list(values)
    return found


def test_records_equal_the_reference(golden_dir: Path, tmp_path: Path) -> None:
    """Packed from the JPEG files that the reference shards hold."""
    described = load_manifest(SYSTEM, "records.json")["tfrecord"]
    shards = [str(golden_dir / SYSTEM / name) for name in described["files"]]
    reference = [features(r.numpy()) for r in tf.data.TFRecordDataset(shards)]
    paths = []
    for i, record in enumerate(reference):
        path = tmp_path / f"{record['image/id'][0].decode()}.jpg"  # type: ignore[attr-defined]
        path.write_bytes(record["image/encoded"][0])  # type: ignore[arg-type]
        paths.append(path)
        picture = described["pictures"][i]
        decoded = tf.io.decode_jpeg(path.read_bytes()).numpy().astype(int)
        drawn = image(picture["array"], picture["height"], picture["width"]).astype(int)
        assert np.abs(decoded - drawn).mean() < 25  # quality 90, at the edges of the blocks
    ours = [
        features(make_example(str(path), path.stem, label))
        for path, label in zip(paths, described["labels"], strict=True)
    ]
    assert ours == reference
    for record, expected in zip(reference, described["examples_in_order"], strict=True):
        assert set(record) == set(expected)


def write_rows(path: Path, *rows: tuple[object, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """Six images in a/ and b/, train.csv and a clean list of four of them."""
    for folder in ("a", "b"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    for i, path in enumerate(draw_jpegs(tmp_path / "all", 6)):
        Path(path).rename(tmp_path / "train" / "ab"[i % 2] / Path(path).name)
    ids = [f"{i:016x}" for i in range(6)]
    write_rows(tmp_path / "train.csv", ("id", "url", "landmark_id"), *((i, "", 7) for i in ids))
    write_rows(
        tmp_path / "train_clean.csv",
        ("landmark_id", "images"),
        (50, f"{ids[4]} {ids[1]}"),
        (9, f"{ids[0]} {ids[4]}"),
        (30, ids[3]),
    )
    return tmp_path


def test_all_images_come_in_the_order_of_their_paths(small_set: Path) -> None:
    listing = list_all(find_images(f"{small_set}/train/*/"), small_set / "train.csv")
    assert [int(i, 16) for i in listing.ids] == [0, 2, 4, 1, 3, 5]
    assert listing.labels == [7] * 6


def test_clean_list_fixes_order_and_a_repeated_id_keeps_its_last_label(small_set: Path) -> None:
    listing, absent = list_clean(
        find_images(f"{small_set}/train/*/"), small_set / "train_clean.csv"
    )
    assert [int(i, 16) for i in listing.ids] == [4, 1, 0, 3]
    assert listing.labels == [9, 50, 9, 30]
    assert absent == 0
    renumbered, old = relabel(listing)
    assert (renumbered.labels, old) == ([0, 2, 0, 1], [9, 30, 50])


def test_absent_image_of_the_clean_list_is_named_or_skipped_on_request(small_set: Path) -> None:
    gone = f"{1:016x}"
    (small_set / "train" / "b" / f"{gone}.jpg").unlink()
    images = find_images(f"{small_set}/train/*/")
    with pytest.raises(FileNotFoundError, match=rf"1 of 4 images .* {gone}.*skip_missing=True"):
        list_clean(images, small_set / "train_clean.csv")
    listing, absent = list_clean(images, small_set / "train_clean.csv", skip_missing=True)
    assert (len(listing), absent) == (3, 1)


def test_image_without_a_label_is_named(small_set: Path) -> None:
    draw_jpegs(small_set / "train" / "c", 7)
    images = find_images(f"{small_set}/train/*/")
    with pytest.raises(ValueError, match=rf"1 of 7 images are not in .*{6:016x}"):
        list_all(images, small_set / "train.csv")


def test_wrong_csv_files_are_named(small_set: Path) -> None:
    images = find_images(f"{small_set}/train/*/")
    with pytest.raises(ValueError, match=r"train\.csv: columns are .*expected .*'images'"):
        list_clean(images, small_set / "train.csv")
    with pytest.raises(FileNotFoundError, match=r"absent\.csv does not exist"):
        list_all(images, small_set / "absent.csv")
    write_rows(small_set / "bad.csv", ("id", "landmark_id"), (f"{0:016x}", "seven"))
    with pytest.raises(ValueError, match="landmark_id is no integer"):
        list_all(images, small_set / "bad.csv")
    with pytest.raises(FileNotFoundError, match="no image matches"):
        find_images(f"{small_set}/nowhere/")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_shards": 0}, "num_shards is 0"),
        (
            {"generate_train_validation_splits": True, "validation_split_size": 1.0},
            "validation_split_size is 1.0",
        ),
        ({"test_csv_path": "test.csv"}, "give test_directory too"),
    ],
)
def test_wrong_options_of_packing_are_refused(changes: dict[str, object], complaint: str) -> None:
    options = PackingOptions("x/", "y", "z.csv", **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=complaint):
        pack(options)


def test_damaged_and_empty_pictures_are_named(tmp_path: Path) -> None:
    path = Path(draw_jpegs(tmp_path, 1)[0])
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=rf"{path.name} is no whole JPEG image"):
        make_example(str(path), path.stem, 0)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is no JPEG image"):
        make_example(str(path), path.stem, 0)
    Image.new("RGB", (8, 8)).save(path, "PNG")
    with pytest.raises(ValueError, match="is no JPEG image; convert it"):
        make_example(str(path), path.stem, 0)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_pictures_are_packed_as_they_are(tmp_path: Path, mode: str) -> None:
    path = Path(draw_jpegs(tmp_path, 1, mode=mode)[0])
    record = features(make_example(str(path), path.stem, 2))
    assert record["image/encoded"] == [path.read_bytes()]
    assert (record["image/height"], record["image/width"]) == ([40], [48])


def run_packing(small_set: Path, **changes: object) -> dict[str, int]:
    config = {
        "train_directory": f"{small_set}/train/*/",
        "train_clean_csv_path": str(small_set / "train_clean.csv"),
        "output_directory": str(small_set / "packed"),
        "num_shards": 2,
        "workers": 2,
        "generate_train_validation_splits": True,
        "test_directory": f"{small_set}/train/a/",
        "test_csv_path": "unread.csv",
        **changes,
    }
    return build_image_dataset.ex.run(config_updates=config).result


def test_entry_point_packs_all_splits(small_set: Path) -> None:
    """Labels 9, 30, 50 have 2, 1, 1 images: one of each validates, one is left to train on."""
    assert run_packing(small_set) == {"validation": 3, "train": 1, "test": 3, "classes": 3}
    folder = small_set / "packed"
    names = [f"{s}-0000{i}-of-00002" for s in ("test", "train", "validation") for i in (0, 1)]
    assert sorted(p.name for p in folder.glob("*-of-*")) == names
    rows = (folder / "relabeling.csv").read_text().split()
    assert rows == ["new_label,old_label", "0,9", "1,30", "2,50"]
    shards = [str(path) for path in sorted(folder.glob("test*"))]
    records = [features(r.numpy()) for r in tf.data.TFRecordDataset(shards)]
    assert len(records) == 3
    assert all("image/class/label" not in record for record in records)


def test_packing_again_keeps_whole_shards_and_makes_others(small_set: Path) -> None:
    run_packing(small_set)
    kept, lost = (small_set / "packed" / f"validation-0000{i}-of-00002" for i in (0, 1))
    content, before = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    run_packing(small_set)
    assert lost.read_bytes() == content
    assert kept.stat().st_mtime_ns == before


def test_packing_of_other_images_replaces_all_shards(small_set: Path) -> None:
    run_packing(small_set)
    first = small_set / "packed" / "validation-00000-of-00002"
    before = first.stat().st_mtime_ns
    run_packing(small_set, seed=1)
    assert first.stat().st_mtime_ns != before
    assert set(json.loads((small_set / "packed" / "packing.json").read_text())["images"]) == {
        "validation",
        "train",
        "test",
    }


def test_failure_leaves_no_shard_behind(tmp_path: Path) -> None:
    listing = tiny_listing(tmp_path / "jpg", 4)
    Path(listing.paths[3]).write_bytes(b"no picture")
    with pytest.raises(ValueError, match="is no JPEG image"):
        write_split(tmp_path / "out", "train", listing, 2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train-00000-of-00002"]
