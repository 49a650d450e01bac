"""The store: what is read is what was written, whatever interrupted the writing."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from search import store as store_module
from search import store_files
from search.codec import KINDS
from search.store import Described, Store, copy_store
from search.store_files import FILES, LEVELS, MARK
from tests.search.made_up import describe, make_described, make_photos
from utils.descriptors import LocalFeatures

MADE_FROM = {"descriptor": "made up", "size": [1, 2]}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (*FILES, "store.json")}


def fill(folder: Path, count: int = 20, kind: str = "float32") -> Store:
    store = Store(folder, MADE_FROM, kind, kind)
    store.extend(make_photos(count), describe, progress=False)
    return store


def test_float32_gives_back_what_was_stored(tmp_path):
    photos = make_photos(20)
    fill(tmp_path)
    store = Store(tmp_path, MADE_FROM)
    rows = store.rows_of(photos)
    for photo, row in zip(photos, rows, strict=True):
        wanted = make_described(photo)
        np.testing.assert_array_equal(store.global_descriptors(row[None])[0], wanted.global_)
        found = store.load_local(int(row))
        assert store.count_local(row[None])[0] == len(wanted.local)
        if len(found):
            np.testing.assert_array_equal(found.descriptors, wanted.local.descriptors)
            np.testing.assert_array_equal(found.locations, wanted.local.locations)
            np.testing.assert_array_equal(found.scales, wanted.local.scales)
            relative = wanted.local.attention / wanted.local.attention.max()
            np.testing.assert_allclose(found.attention, relative, rtol=1e-6)
        np.testing.assert_array_equal(store.frames[row], wanted.frame)
    assert len(store.load_local(int(rows[5]), 4)) == 4, "the best four"


@pytest.mark.parametrize("kind", KINDS[1:])
def test_compact_kinds_keep_places_and_scales(tmp_path, kind):
    photos = make_photos(20)
    store = fill(tmp_path, kind=kind)
    for row, photo in enumerate(photos[1:], start=1):
        wanted, found = make_described(photo).local, store.load_local(row)
        np.testing.assert_array_equal(found.scales, wanted.scales)
        np.testing.assert_allclose(found.locations, wanted.locations, atol=80 / 65535)
    exact = fill(tmp_path / "exact")
    assert sum(store.count_bytes().values()) < sum(exact.count_bytes().values())


def test_an_extension_describes_new_photographs_alone(tmp_path):
    fill(tmp_path, 5)
    asked = []

    def watch(photos):
        asked.extend(photo.name for photo in photos)
        yield from describe(photos)

    store = Store(tmp_path, MADE_FROM)
    changed = make_photos(1)[0]._replace(key="p0.jpg|1|3|None")
    photos = [changed, *make_photos(8)[1:], changed]
    assert store.extend(photos, watch, progress=False) == 4
    assert asked == ["p0.jpg", "p5.jpg", "p6.jpg", "p7.jpg"]
    assert store.rows_of(photos).tolist() == [5, 1, 2, 3, 4, 6, 7, 8, 5]
    assert store.extend(photos, watch, progress=False) == 0
    whole = fill(tmp_path / "whole", 8)
    for photo in make_photos(8)[1:]:
        (a,), (b,) = store.rows_of([photo]), whole.rows_of([photo])
        np.testing.assert_array_equal(
            store.load_local(int(a)).descriptors, whole.load_local(int(b)).descriptors
        )


def test_what_was_described_before_an_error_is_kept(tmp_path):
    def stop_at_seven(photos):
        for photo in photos:
            if photo.name == "p7.jpg":
                raise ValueError("p7.jpg is no picture")
            yield make_described(photo)

    store = Store(tmp_path, MADE_FROM)
    with pytest.raises(ValueError, match=r"p7\.jpg is no picture"):
        store.extend(make_photos(20), stop_at_seven, progress=False)
    store = Store(tmp_path, MADE_FROM)
    assert len(store) == 7
    assert store.extend(make_photos(20), describe, progress=False) == 13
    assert contents(tmp_path) == contents(fill(tmp_path / "whole").folder)


@pytest.mark.parametrize("stop", range(9))
def test_a_process_that_ends_between_any_two_writes_leaves_a_whole_store(
    tmp_path, monkeypatch, stop
):
    """Chunks of five images, four writes each; the write before the end is cut in half."""
    monkeypatch.setattr(store_module, "CHUNK", 5)
    whole = contents(fill(tmp_path / "whole").folder)
    write, mark, calls = store_files.write_behind, store_files.atomic_write, []

    class EndError(BaseException):
        pass

    def count(name):
        if len(calls) == stop:
            raise EndError
        calls.append(name)

    def cut(path, size, data):
        write(path, size, data[: len(data) // 2])
        count(path.name)
        return write(path, size, data)

    def replace(path, data):
        count(path.name)
        mark(path, data)

    monkeypatch.setattr(store_files, "write_behind", cut)
    monkeypatch.setattr(store_files, "atomic_write", replace)
    with pytest.raises(EndError):
        fill(tmp_path / "cut")
    monkeypatch.setattr(store_files, "write_behind", write)
    monkeypatch.setattr(store_files, "atomic_write", mark)
    store = Store(tmp_path / "cut", MADE_FROM)
    assert len(store) == 5 * (stop // 4), "the chunks that have their mark"
    store.extend(make_photos(20), describe, progress=False)
    assert contents(tmp_path / "cut") == whole


def slowly(photos):
    for photo in photos:
        time.sleep(0.01)
        yield make_described(photo)


def fill_slowly(folder: Path) -> None:
    store_module.CHUNK = 5
    Store(folder, MADE_FROM).extend(make_photos(60), slowly, progress=False)


def test_a_killed_process_leaves_a_store_that_goes_on(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=fill_slowly, args=(tmp_path,))
    process.start()
    while not (tmp_path / "store.json").is_file():
        assert process.is_alive()
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    store = Store(tmp_path, MADE_FROM)
    assert 0 < len(store) < 60
    store.extend(make_photos(60), describe, progress=False)
    assert contents(tmp_path) == contents(fill(tmp_path / "whole", 60).folder)


def test_two_writers_take_turns_and_describe_nothing_twice(tmp_path):
    described = []

    def watch(photos):
        for photo in photos:
            described.append(photo.name)
            time.sleep(0.005)
            yield make_described(photo)

    def work():
        Store(tmp_path, MADE_FROM).extend(make_photos(20), watch, progress=False)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(described) == sorted(photo.name for photo in make_photos(20))
    assert contents(tmp_path) == contents(fill(tmp_path / "whole").folder)


@pytest.mark.parametrize(
    ("made_from", "kind", "complaint"),
    [
        (
            {**MADE_FROM, "size": [1, 3]},
            "float32",
            r"descriptors size \[1, 2\] instead of \[1, 3\]",
        ),
        (MADE_FROM, "int8", "kind of local 'float32' instead of 'int8'.*remove the folder"),
    ],
)
def test_another_store_is_not_added_to(tmp_path, made_from, kind, complaint):
    fill(tmp_path)
    with pytest.raises(ValueError, match=complaint):
        Store(tmp_path, made_from, "float32", kind)


def cut_file(name: str):
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return damage


def garble_images(folder: Path) -> None:
    path = folder / "images.jsonl"
    path.write_bytes(b"x" * path.stat().st_size)


def miscount(folder: Path) -> None:
    mark = json.loads((folder / "store.json").read_text())
    mark["sizes"]["local.bin"] -= 1
    (folder / "store.json").write_text(json.dumps(mark))


@pytest.mark.parametrize(
    "damage", [*map(cut_file, (*FILES, "store.json")), garble_images, miscount]
)
def test_a_damaged_store_is_named(tmp_path, damage):
    fill(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path.name}.*remove the folder"):
        Store(tmp_path, MADE_FROM)


def test_levels_of_one_bit_that_got_lost_are_named(tmp_path):
    fill(tmp_path, kind="1bit")
    (tmp_path / "levels.npz").unlink()
    with pytest.raises(ValueError, match=r"levels\.npz is damaged.*remove the folder"):
        Store(tmp_path, MADE_FROM, "1bit", "1bit")


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (make_described(make_photos(2)[1], width=17), r"p1\.jpg gives .*'global': 17"),
        (make_described(make_photos(2)[1], local_width=9), r"p1\.jpg gives .*'local': 9"),
        (make_described(make_photos(2)[1])._replace(global_=np.full(16, np.nan)), "not finite"),
    ],
)
def test_descriptors_that_do_not_fit_the_others_are_refused(tmp_path, entry, complaint):
    fill(tmp_path, 1)
    store = Store(tmp_path, MADE_FROM)
    with pytest.raises(ValueError, match=complaint):
        store.extend(make_photos(2), lambda photos: iter([entry]), progress=False)
    assert len(Store(tmp_path, MADE_FROM)) == 1


def test_more_scales_than_a_byte_tells_are_refused(tmp_path):
    features = LocalFeatures(np.zeros((300, 2)), np.arange(1, 301), np.ones((300, 8)), np.ones(300))
    entry = Described(np.ones(16, np.float32), features, (60, 80))
    with pytest.raises(ValueError, match="more than 256 different scales"):
        Store(tmp_path, MADE_FROM).extend(make_photos(1), lambda p: iter([entry]), progress=False)


def test_a_copy_has_fewer_locals_and_another_kind(tmp_path):
    source = fill(tmp_path / "source")
    photos = make_photos(20)
    small = copy_store(source, tmp_path / "copy", photos, "int8", 4)
    counts = np.minimum(source.count_local(np.arange(20)), 4)
    np.testing.assert_array_equal(small.count_local(np.arange(20)), counts)
    first, second = source.load_local(5, 4), small.load_local(5)
    assert ((first.descriptors * second.descriptors).sum(axis=1) > 0.999).all()
    np.testing.assert_allclose(first.locations, second.locations, atol=80 / 65535)


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_files.os, "fsync", fail)
    with pytest.raises(OSError, match=r"global\.bin cannot be written: No space left.*free space"):
        fill(tmp_path)


def read_all(folder: Path) -> None:
    """All that a search reads."""
    store = Store(folder, MADE_FROM, "1bit", "1bit")
    rows = np.arange(len(store))
    store.global_descriptors(rows)
    for row in rows:
        store.load_local(int(row))


def test_mutated_files_are_read_or_named_and_never_crash(tmp_path):
    """Hundreds of stores with some bytes of one file changed, cut off or put in."""
    fill(tmp_path, kind="1bit")
    rng = np.random.default_rng(0)
    refused = 0
    for name in (*FILES, MARK, LEVELS):
        whole = (tmp_path / name).read_bytes()
        for _ in range(100):
            (tmp_path / name).write_bytes(mutate(whole, rng))
            refused += is_refused(tmp_path)
        (tmp_path / name).write_bytes(whole)
    read_all(tmp_path)
    assert refused > 150


def is_refused(folder: Path) -> bool:
    """Whether reading ends with an error that names the folder; any other error fails the test."""
    try:
        read_all(folder)
    except ValueError as error:
        return folder.name in str(error) or pytest.fail(f"no file is named: {error}")
    return False


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
    new = rng.integers(0, 256, length).astype(np.uint8).tobytes()
    kind = rng.integers(4)
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:start] + new + data[start:]
    if kind == 2:
        return data[:start] + data[start + length :]
    return data[:start] + new + data[start + length :]
