"""Files of a store: written behind a mark, read back checked, one writer at a time."""

import fcntl
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from search.codec import KINDS
from utils.array_files import load_arrays, take_arrays
from utils.paths import atomic_path, atomic_write

logger = logging.getLogger(__name__)

VERSION = 1
FILES = ("global.bin", "local.bin", "images.jsonl")
PARTS = ("global", "local")
MARK, LEVELS, LOCK = "store.json", "levels.npz", "lock"
REMEDY = "remove the folder and let it be made again, or name another one"
WIDEST, MOST = 1 << 20, 1 << 31  # numbers of a row; local features, pixels
# what reading damaged files was seen to raise
UNREADABLE = (*(ValueError, KeyError, TypeError, OSError, RuntimeError, OverflowError),)

ImageLine = tuple[str, str, int, int, int]  # key, name, number of locals, height, width


@dataclass
class Mark:
    """What counts of a store, and what it was made from."""

    made_from: dict[str, Any]
    kinds: dict[str, str]  # of global and local rows
    widths: dict[str, int] = field(default_factory=dict)  # empty: nothing is stored yet
    scales: list[float] = field(default_factory=list)  # distinct ones; a feature has its index
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FILES, 0))  # bytes

    def require(self, made_from: dict[str, Any], kinds: dict[str, str], folder: Path) -> None:
        """ValueError, saying in what, when the store is another one."""
        pairs = [("descriptors", self.made_from, made_from), ("kind of", self.kinds, kinds)]
        differing = [
            f"{what} {name} {found.get(name)!r} instead of {wanted.get(name)!r}"
            for what, found, wanted in pairs
            for name in dict.fromkeys([*found, *wanted])
            if found.get(name) != wanted.get(name)
        ]
        if differing:
            raise ValueError(f"{folder} holds another store ({'; '.join(differing)}); {REMEDY}")


def read_mark(folder: Path) -> Mark | None:
    """The mark, None where there is no store; ValueError when it is damaged."""
    path = folder / MARK
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("version")
        mark = Mark(**content)
        good = version == VERSION and _is_sound(mark)
    except (*UNREADABLE, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}); {REMEDY}"
        ) from error
    if not good:
        raise ValueError(f"{path} is damaged, or of another version of this code; {REMEDY}")
    return mark


def _is_sound(mark: Mark) -> bool:
    """Whether all values are of their kinds."""
    return (
        set(mark.made_from) >= {"descriptor"}
        and sorted(mark.kinds) == sorted(mark.widths) == sorted(PARTS)
        and all(kind in KINDS for kind in mark.kinds.values())
        and all(type(width) is int and 0 <= width < WIDEST for width in mark.widths.values())
        and all(type(scale) is float and math.isfinite(scale) for scale in mark.scales)
        and len(mark.scales) <= 256
        and sorted(mark.sizes) == sorted(FILES)
        and all(type(size) is int and size >= 0 for size in mark.sizes.values())
    )


def write_mark(folder: Path, mark: Mark) -> None:
    """Replace the mark in one step."""
    text = json.dumps({"version": VERSION, **asdict(mark)}, indent=1)
    atomic_write(folder / MARK, (text + "\n").encode())


def write_behind(path: Path, size: int, data: bytes) -> int:
    """Write behind the first `size` bytes; what an interrupted writer left there is cut off.

    Returns the new size, when the data have reached the disk.
    """
    try:
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(size)
            file.seek(size)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} cannot be written: {error.strerror}; free space there or name another folder",
        ) from error
    return size + len(data)


def map_records(path: Path, size: int, dtype: np.dtype) -> np.ndarray:
    """The records of the first `size` bytes, memory-mapped."""
    _require_size(path, size)
    if not size or not dtype.itemsize:
        return np.empty(0, dtype)
    if size % dtype.itemsize:
        raise ValueError(f"{path} is damaged: no whole number of records; {REMEDY}")
    return np.memmap(path, dtype, "r", shape=(size // dtype.itemsize,))


def _require_size(path: Path, size: int) -> None:
    there = path.stat().st_size if path.is_file() else 0
    if there < size:
        raise ValueError(f"{path} has {there} bytes, its mark says {size}; {REMEDY}")


def write_levels(folder: Path, levels: dict[str, np.ndarray]) -> None:
    """Levels of the parts of one bit per number."""
    with atomic_path(folder / LEVELS) as temporary:
        np.savez(temporary, allow_pickle=False, **levels)


def read_levels(folder: Path, mark: Mark) -> dict[str, np.ndarray]:
    """(2, width) float32 for each part of one bit per number."""
    parts = [part for part, kind in mark.kinds.items() if kind == "1bit"]
    if not parts or not mark.widths:
        return {}
    path = folder / LEVELS
    if not path.is_file():
        raise ValueError(f"{path} is damaged: it is not there; {REMEDY}")
    arrays = load_arrays(path, REMEDY)
    levels = dict(
        zip(parts, take_arrays(path, arrays, dict.fromkeys(parts, "f 2"), REMEDY), strict=True)
    )
    for part, values in levels.items():
        if values.shape != (2, mark.widths[part]) or values.dtype != np.float32:
            raise ValueError(
                f"{path} is damaged: {part} is {values.dtype} {values.shape}; {REMEDY}"
            )
    return levels


def format_images(lines: Sequence[ImageLine]) -> bytes:
    """A line of JSON per image."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def read_images(path: Path, size: int) -> list[ImageLine]:
    """The lines of the first `size` bytes."""
    _require_size(path, size)
    if not size:
        return []
    with path.open("rb") as file:
        text = file.read(size)
    try:
        lines = [json.loads(line) for line in text.splitlines()]
    except (ValueError, RecursionError):
        lines = [None]
    if all(_is_image_line(line) for line in lines):
        return [(key, name, count, height, width) for key, name, count, height, width in lines]
    raise ValueError(f"{path} is damaged: no line of key, name and three numbers; {REMEDY}")


def _is_image_line(line: Any) -> bool:
    if not isinstance(line, list) or [type(value) for value in line] != [str, str, int, int, int]:
        return False
    return 0 <= line[2] < MOST and 0 < line[3] < MOST and 0 < line[4] < MOST


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time; the next one waits. The lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process adds to %s; waiting for it", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
