"""numpy's files: read as numpy does, refused where header and content do not agree."""

import errno
import os
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.array_files import (
    create_map,
    load_array,
    load_arrays,
    map_array,
    save_array,
    take_arrays,
)  # fmt: skip

ARRAYS = [
    np.arange(6, dtype=np.int64).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.zeros((0, 4), np.float32),
    np.array(7, np.uint8),
    np.array(["a", "ü"]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=str)
def test_arrays_come_back_as_they_were(tmp_path: Path, array: np.ndarray) -> None:
    save_array(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    np.savez_compressed(tmp_path / "a.npz", array=array, more=array)
    found = load_arrays(tmp_path / "a.npz", "")
    assert list(found) == ["array", "more"]
    for part in (
        load_array(tmp_path / "a.npy", ""),
        map_array(tmp_path / "a.npy", ""),
        found["more"],
    ):
        assert part.dtype == array.dtype
        np.testing.assert_array_equal(part, array)


def change_header(old: bytes, new: bytes) -> Any:
    return lambda data: data.replace(old, new + b" " * (len(old) - len(new)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "no whole numpy array"),
        (lambda data: data[:-1], "takes 48 bytes, 47 are there"),
        (lambda data: data + b"x", "takes 48 bytes, 49 are there"),
        (change_header(b"(2, 3), }", b"(9**9,),}"), "no whole numpy array"),
        (change_header(b"(2, 3), }       ", b"(2, 30000000)}"), "takes 480000000 bytes"),
        (change_header(b"(2, 3), }", b"(-2, -3)}"), r"shape is \(-2, -3\)"),
        (change_header(b"<i8", b"|O "), "no whole numpy array"),
        (change_header(b"'<i8'", b"'|O'"), "Python objects"),
        (lambda data: data[:6] + b"\x09" + data[7:], r"version \(9, 0\)"),
    ],
)  # fmt: skip
def test_damage_is_named_before_memory_is_taken(tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "a.npy"
    np.save(path, ARRAYS[0])
    path.write_bytes(damage(path.read_bytes()))
    for read in (load_array, map_array):
        with pytest.raises(ValueError, match=rf"a\.npy .*{message}.*; make it again"):
            read(path, "make it again")


def test_archives_of_other_content_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for content in (b"", b"hello", b"PK\3\4"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz is no whole file of arrays.*; again"):
            load_arrays(path, "again")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "x")
    with pytest.raises(ValueError, match=r"notes\.txt is no array"):
        load_arrays(path, "again")
    np.savez(path, a=np.array([None], object))
    with pytest.raises(ValueError, match="Python objects"):
        load_arrays(path, "again")


def test_kinds_of_arrays_are_required_by_name() -> None:
    arrays = {"head": np.zeros((2, 2)), "odd": np.array([np.nan])}
    assert take_arrays("f", arrays, {"head": "f 2"}, "")[0] is arrays["head"]
    for kinds, message in (
        ({"tail": "f 2"}, "nothing as 'tail'"), ({"head": "iu 2"}, "float64"),
        ({"head": "f 1"}, "1 dimensions"), ({"odd": "f 1"}, "NaN or infinity in 'odd'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^f holds .*{message}.*; again"):
            take_arrays("f", arrays, kinds, "again")


def test_space_of_a_map_is_reserved_when_it_is_made(tmp_path: Path, monkeypatch) -> None:
    array = create_map(tmp_path / "deep/a.npy", "float32", (5, 3))
    array[:] = 2
    array.flush()
    np.testing.assert_array_equal(load_array(tmp_path / "deep/a.npy", ""), np.full((5, 3), 2, "f4"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"b\.npy cannot be written: No space.*4,000 bytes.*free"):
        create_map(tmp_path / "b.npy", np.float32, (1000,))
    assert not (tmp_path / "b.npy").exists()


def test_full_disk_is_noticed_for_the_last_bytes_of_an_array(tmp_path: Path) -> None:
    """numpy's own `save` ends well here, and leaves a file that is cut off."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
    try:
        with pytest.raises(OSError, match=r"a\.npy cannot be written"):
            save_array(tmp_path / "a.npy", np.arange(9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
