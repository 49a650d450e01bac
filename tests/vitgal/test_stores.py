"""Local features on disk: published layout, compact store, damage."""

from pathlib import Path

import numpy as np
import pytest

from tests.golden_recipe import array
from tests.vitgal.golden_pairs import unit_rows
from vitgal.stores import (
    CompactStore,
    LocalFeatures,
    PublishedStore,
    feature_name,
    official_name,
    open_store,
)


def features(name: str, n: int = 20, width: int = 16) -> LocalFeatures:
    rows = unit_rows(array(f"vitgal/test/{name}", (n, width))) if n else np.zeros((0, width), "f4")
    return LocalFeatures(rows, np.abs(array(f"vitgal/test/{name}/yx", (n, 2), 200)).astype(int))


def published(root: Path, **options: bool) -> PublishedStore:
    return PublishedStore(root / "Descriptions", root / "Locations", root / "data", **options)


def test_official_names() -> None:
    path = "../test_datasets/roxford5k/jpg/all_souls_000013.jpg"
    assert official_name(path) == "test_datasets__roxford5k__jpg__all_souls_000013.jpg.npy"


def test_own_names_do_not_depend_on_where_the_data_lie(tmp_path: Path, monkeypatch) -> None:
    inside = tmp_path / "data/oxford5k/jpg/a.jpg"
    assert feature_name(str(inside), tmp_path / "data") == "oxford5k__jpg__a.jpg.npy"
    monkeypatch.chdir(tmp_path)
    assert feature_name("data/oxford5k/jpg/a.jpg", "data") == "oxford5k__jpg__a.jpg.npy"
    assert feature_name("../other/a.jpg", "data") == "other__a.jpg.npy"


@pytest.mark.parametrize("official", [False, True])
def test_published_layout(tmp_path: Path, monkeypatch, official: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path, written = "data/oxford5k/jpg/a.jpg", features("a")
    store = PublishedStore("D", "L", "data", official_names=official)
    assert not store.has(path)
    store.save(path, written)
    name = "data__oxford5k__jpg__a.jpg.npy" if official else "oxford5k__jpg__a.jpg.npy"
    descriptors, locations = np.load(Path("D") / name), np.load(Path("L") / name)
    assert (descriptors.dtype, locations.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(descriptors, written.descriptors)
    np.testing.assert_array_equal(locations, written.locations)
    for reader in (PublishedStore("D", "L", "data"), PublishedStore("D", "L", "data", True)):
        assert reader.has(path), "either name is read"
        np.testing.assert_array_equal(reader.load(path).descriptors, written.descriptors)


def test_missing_features_name_the_image_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"b.jpg has no local features.*extract_local_feat"):
        published(tmp_path).load(str(tmp_path / "data/b.jpg"))
    half = published(tmp_path)
    half.save(str(tmp_path / "data/b.jpg"), features("b"))
    (tmp_path / "Locations/b.jpg.npy").unlink()
    assert not half.has(str(tmp_path / "data/b.jpg"))


@pytest.mark.parametrize(
    ("descriptors", "locations", "message"),
    [
        (np.zeros((3, 4), np.float32), np.zeros((2, 2), np.int64), r"expected floats \(K, D\)"),
        (np.zeros((3, 4), np.float32), np.zeros((3, 2)), "integers"),
        (np.full((1, 4), np.nan, np.float32), np.zeros((1, 2), np.int64), "unit length"),
        (np.ones((1, 4), np.float32), np.zeros((1, 2), np.int64), "unit length"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, descriptors, locations, message: str) -> None:
    for folder, part in (("Descriptions", descriptors), ("Locations", locations)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "c.jpg.npy", part)
    with pytest.raises(ValueError, match=rf"c.jpg.*{message}|{message}.*c.jpg"):
        published(tmp_path).load(str(tmp_path / "data/c.jpg"))


def test_damaged_file_is_named(tmp_path: Path) -> None:
    store, path = published(tmp_path), str(tmp_path / "data/d.jpg")
    store.save(path, features("d"))
    (tmp_path / "Descriptions/d.jpg.npy").write_bytes(b"\x93NUMPY cut")
    with pytest.raises(ValueError, match=r"d.jpg.npy is no whole numpy array.*overwrite=True"):
        store.load(path)


# what rounding costs: half a step of 2^-11 of an entry; half of 1/127 of a row's largest entry
ERRORS = {"float16": 2.0**-12, "int8": 0.5 / 127}


@pytest.mark.parametrize("kind", ERRORS)
def test_compact_store_is_smaller_and_near(tmp_path: Path, kind: str) -> None:
    store = CompactStore(tmp_path / "c", "data", kind)
    images = {f"data/{name}.jpg": features(name, n) for name, n in (("a", 50), ("b", 0), ("c", 7))}
    for path, written in images.items():
        store.save(path, written)
    for reader in (store, CompactStore(tmp_path / "c", "data")):
        for path, written in images.items():
            found = reader.load(path)
            np.testing.assert_array_equal(found.locations, written.locations)
            assert (found.descriptors.dtype, found.locations.dtype) == (np.float32, np.int64)
            largest = np.abs(written.descriptors).max(initial=1e-9)
            error = np.abs(found.descriptors - written.descriptors).max(initial=0)
            assert error <= 1.5 * ERRORS[kind] * largest  # and what unit length adds to it
            np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-6)
    size = (tmp_path / "c/descriptors.bin").stat().st_size
    assert size == 57 * 16 * (2 if kind == "float16" else 1)


@pytest.mark.parametrize("kind", ERRORS)
def test_interrupted_compact_store_goes_on_at_the_last_whole_image(tmp_path: Path, kind) -> None:
    folder = tmp_path / "c"
    store = CompactStore(folder, "data", kind)
    store.save("data/a.jpg", features("a"))
    with (folder / "descriptors.bin").open("ab") as file:
        file.write(b"half an image")
    with (folder / "index.jsonl").open("a") as file:
        file.write('["b.jpg.npy", 20, ')
    again = CompactStore(folder, "data", kind)
    assert again.has("data/a.jpg")
    assert not again.has("data/b.jpg")
    again.save("data/b.jpg", features("b", 5))
    whole = CompactStore(folder, "data")
    for name, n in (("a", 20), ("b", 5)):
        np.testing.assert_array_equal(
            whole.load(f"data/{name}.jpg").locations, features(name, n).locations
        )


def test_compact_store_is_read_while_it_grows(tmp_path: Path) -> None:
    store = CompactStore(tmp_path / "c", "data", "int8")
    for name in ("a", "b"):
        store.save(f"data/{name}.jpg", features(name))
        found = store.load(f"data/{name}.jpg")
        np.testing.assert_array_equal(found.locations, features(name).locations)


def test_compact_store_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'int4', expected one of"):
        CompactStore(tmp_path / "c", "data", "int4")
    with pytest.raises(FileNotFoundError, match="compact_store="):
        CompactStore(tmp_path / "c", "data")
    store = CompactStore(tmp_path / "c", "data", "int8")
    store.save("data/a.jpg", features("a"))
    with pytest.raises(ValueError, match=r"width 8, but .* holds width 16"):
        store.save("data/b.jpg", features("b", width=8))
    far = LocalFeatures(features("b", 1).descriptors, np.array([[0, 40000]]))
    with pytest.raises(ValueError, match="beyond 32767"):
        store.save("data/b.jpg", far)
    with pytest.raises(FileNotFoundError, match=r"z.jpg has no local features.*1 images"):
        store.load("data/z.jpg")
    with pytest.raises(ValueError, match="is a compact store of int8, asked for is float16"):
        CompactStore(tmp_path / "c", "data", "float16")


def test_damaged_compact_store_is_named(tmp_path: Path) -> None:
    store = CompactStore(tmp_path / "c", "data", "int8")
    store.save("data/a.jpg", features("a"))
    (tmp_path / "c/descriptors.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"descriptors.bin has 5 bytes.*index needs 320"):
        CompactStore(tmp_path / "c", "data").load("data/a.jpg")
    (tmp_path / "c/index.jsonl").write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"index.jsonl is damaged.*extract again"):
        CompactStore(tmp_path / "c", "data")


def test_option_chooses_the_store(tmp_path: Path) -> None:
    assert isinstance(open_store("d", "l", "data"), PublishedStore)
    compact = open_store("d", "l", "data", str(tmp_path / "c"), "float16")
    assert isinstance(compact, CompactStore)


def test_damaged_index_and_rows_of_a_compact_store_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "data/a.jpg")
    CompactStore(tmp_path / "c", "data", "int8").save(path, features("a"))
    index = tmp_path / "c/index.jsonl"
    whole = index.read_text()
    for old, new in (("int8", "int9"), (" 20]", " -1]"), (" 0, ", " 3, "), ("16", '"16"')):
        index.write_text(whole.replace(old, new))
        with pytest.raises(ValueError, match=r"index\.jsonl is damaged .*delete .*extract again"):
            CompactStore(tmp_path / "c", "data")
    index.write_text(whole)
    scales = tmp_path / "c/scales.bin"
    scales.write_bytes(np.full(20, 1e30, np.float32).tobytes())
    with pytest.raises(ValueError, match=r"a\.jpg that have not unit length"):
        CompactStore(tmp_path / "c", "data").load(path)


def test_a_compact_store_has_one_writer(tmp_path: Path) -> None:
    first, second = (CompactStore(tmp_path / "c", "data", "int8") for _ in range(2))
    first.save("data/a.jpg", features("a"))
    with pytest.raises(RuntimeError, match=r"another process has added images to .*run this"):
        second.save("data/b.jpg", features("b"))
