"""Neighbour tables on disk: a plain pickled int64 array, and beside it what it was made from.

`<path>` can be read by anything that reads a pickled numpy array (the published code does);
`<path>.json` records the origin and the sha256 of the table file. Released tables have no record
and are checked by type, shape and range alone.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from utils.paths import atomic_path, hash_names, require_file
from utils.pickles import load_foreign

__all__ = [
    "hash_names",
    "load_block",
    "load_nn_inds",
    "record_path",
    "save_block",
    "save_nn_inds",
    "writing_array",
    "writing_nn_inds",
]

REMEDY = "make it again with overwrite=True, or give the table of this set"


def record_path(path: str | Path) -> Path:
    """Where the record of the table `path` lies: `<path>.json`."""
    path = Path(path)
    return path.with_name(path.name + ".json")


class ArrayWriter:
    """A pickled array (N, K) that is written some rows at a time, and never held as a whole."""

    def __init__(self, file: BinaryIO, shape: tuple[int, int], dtype: str) -> None:
        """`file`: open for writing; `dtype`: "int64" | "float32"."""
        self.file, self.shape = file, shape
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.rows, self.digest = 0, hashlib.sha256()
        head = _pickle_head(shape, self.dtype)
        self.offset = len(head)  # of the first number in the file
        self._write(head)

    def append(self, rows: np.ndarray) -> None:
        """The next rows (n, K); ValueError for others than there is room for."""
        if rows.ndim != 2 or rows.shape[1] != self.shape[1]:
            raise ValueError(f"rows are {rows.shape}, expected (n, {self.shape[1]})")
        self.rows += len(rows)
        self._write(np.ascontiguousarray(rows, self.dtype).data)

    def finish(self) -> None:
        """The end of the pickle; ValueError when rows are missing or there are too many."""
        if self.rows != self.shape[0]:
            raise ValueError(f"{self.rows} rows were written, expected {self.shape[0]}")
        self._write(b"tb.")  # tuple of the state, built into the array, stop

    def _write(self, data: bytes | memoryview) -> None:
        self.digest.update(data)
        self.file.write(data)


def _pickle_head(shape: tuple[int, int], dtype: np.dtype) -> bytes:
    """What pickle writes of an array (N, K), protocol 4, up to its numbers in C order.

    The names are those of every version of numpy, so that older ones can read it.
    """
    code = f"{dtype.kind}{dtype.itemsize}".encode()
    whole = [b"J" + struct.pack("<i", n) for n in shape]
    return b"".join(
        [
            b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n",
            b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R",  # of (ndarray, (0,), b"b")
            b"(K\x01", *whole, b"\x86",  # its state: version 1, shape,
            b"cnumpy\ndtype\n\x8c", bytes([len(code)]), code, b"\x89\x88\x87R",  # dtype,
            b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",  # its order,
            b"\x89\x8e", struct.pack("<Q", shape[0] * shape[1] * dtype.itemsize),  # C order, bytes
        ]
    )  # fmt: skip


@contextmanager
def _filled(path: Path, shape: tuple[int, int], dtype: str) -> Iterator[ArrayWriter]:
    with open(path, "wb") as file:
        writer = ArrayWriter(file, shape, dtype)
        yield writer
        writer.finish()


@contextmanager
def writing_array(path: str | Path, shape: tuple[int, int], dtype: str) -> Iterator[ArrayWriter]:
    """A pickled array that gets its name when all its rows are there."""
    with atomic_path(path) as temporary, _filled(temporary, shape, dtype) as writer:
        yield writer


@contextmanager
def writing_nn_inds(
    path: str | Path, shape: tuple[int, int], made_from: dict[str, Any]
) -> Iterator[ArrayWriter]:
    """A neighbour table (Q, K) and its record; an interrupt leaves the old pair or a refused one.

    `made_from`: set, descriptors, hash of names or vectors, ...: plain JSON values, compared on
    loading. Shape and sha256 of the table file are added.
    """
    record = {"made_from": made_from, "shape": list(shape)}
    json.dumps(record)  # a TypeError comes before the work
    with atomic_path(path) as table, atomic_path(record_path(path)) as note:
        with _filled(table, shape, "int64") as writer:
            yield writer
        record["sha256"] = writer.digest.hexdigest()
        note.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def save_nn_inds(path: str | Path, nn_inds: np.ndarray, made_from: dict[str, Any]) -> None:
    """Write the whole table (Q, K) and its record, as `writing_nn_inds`."""
    nn_inds = np.asarray(nn_inds)
    if nn_inds.ndim != 2 or nn_inds.dtype.kind not in "iu":
        raise ValueError(f"nn_inds is {nn_inds.dtype} {nn_inds.shape}, expected int64 (Q, K)")
    with writing_nn_inds(path, nn_inds.shape, made_from) as writer:
        writer.append(nn_inds)


def load_nn_inds(
    path: str | Path,
    expected: dict[str, Any] | None = None,
    n_queries: int | None = None,
    n_gallery: int | None = None,
    min_k: int | None = None,
) -> np.ndarray:
    """The table at `path`, (Q, K) int64, after checking that it is the right one.

    `n_queries`: rows it must have; `min_k`: columns it must have at least; `n_gallery`: indices
    must lie below. With a record, the file must be the recorded one and every entry of `expected`
    must be recorded with that very value. ValueError names both values, the file and the remedy.
    """
    path = require_file(path, "make the neighbour table first")
    note = record_path(path)
    if note.is_file():
        _check_record(path, note, expected or {})
    table = load_foreign(path)
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.dtype != np.int64:
        kind = f"{table.dtype} {table.shape}" if isinstance(table, np.ndarray) else type(table)
        raise ValueError(f"{path} holds {kind}, expected an int64 array (Q, K); {REMEDY}")
    rows, columns = table.shape
    if n_queries is not None and rows != n_queries:
        raise ValueError(f"{path} has {rows} rows, expected {n_queries} queries; {REMEDY}")
    if min_k is not None and columns < min_k:
        raise ValueError(f"{path} has {columns} columns, expected at least {min_k}; {REMEDY}")
    if table.size and (table.min() < 0 or (n_gallery is not None and table.max() >= n_gallery)):
        limit = "" if n_gallery is None else f" to {n_gallery - 1}"
        raise ValueError(
            f"{path} holds indices from {table.min()} to {table.max()}, expected 0{limit}; {REMEDY}"
        )
    return table


def _check_record(path: Path, note: Path, expected: dict[str, Any]) -> None:
    """ValueError unless `note` records the file at `path`, made from what is expected."""
    try:
        record = json.loads(note.read_text())
        made_from, recorded = dict(record["made_from"]), str(record["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{note} is not the record of a neighbour table ({error}); {REMEDY}"
        ) from error
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != recorded:
        raise ValueError(
            f"{path} has sha256 {found[:16]}..., its record {note.name} says {recorded[:16]}...: "
            f"the table is stale or damaged; {REMEDY}"
        )
    for key, value in json.loads(json.dumps(expected)).items():
        if key not in made_from or made_from[key] != value:
            raise ValueError(
                f"{path} was made from {key} = {made_from.get(key, 'nothing')!r}, "
                f"expected {value!r}; {REMEDY}"
            )


def save_block(path: Path, nn_inds: np.ndarray, origin: dict[str, Any], rows: slice) -> None:
    """Write the rows `rows` of a table which is being built."""
    save_nn_inds(path, nn_inds, {**origin, "rows": [rows.start, rows.stop]})


def load_block(
    path: Path, origin: dict[str, Any], rows: slice, k: int, n_gallery: int
) -> np.ndarray:
    """Rows of a table which is being built; ValueError when they are of another table.

    A block without a record is never trusted: nothing else would tell it from one of another set.
    """
    if not record_path(path).is_file():
        raise ValueError(f"{path} has no record {record_path(path).name}; delete it to go on")
    expected = {**origin, "rows": [rows.start, rows.stop]}
    block = load_nn_inds(path, expected, rows.stop - rows.start, n_gallery, k)
    if block.shape[1] != k:
        raise ValueError(f"{path} has {block.shape[1]} columns, expected {k}; {REMEDY}")
    return block
