"""The csv files of MSLS, read once: keys, positions and flags of each city's images."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.array_files import load_arrays
from utils.paths import atomic_path, require_file
from utils.text_files import read_csv

logger = logging.getLogger(__name__)

SIDES = ("query", "database")
STRAIGHT = ("Forward", "Backward")  # of view_direction; the third is Sideways
TRUTH = {"True": True, "False": False, "true": True, "false": False, "1": True, "0": False}
REMEDY = "fetch the metadata of the set again, see data/README.md"
PARTS = ("keys", "utm", "night", "sideways")  # of a side
VERSION = 1  # of the file that keeps a scan


@dataclass(frozen=True)
class CitySide:
    """Queries or database of one city, panoramas (and images outside the task) left out."""

    folder: str  # relative to the set: train_val/cph/query
    keys: np.ndarray  # (N,) bytes: names of the image files
    utm: np.ndarray  # (N, 2) float64; NaN in the test split
    night: np.ndarray  # (N,) bool
    sideways: np.ndarray  # (N,) bool


def load_scan(
    root: Path, split: str, cities: Sequence[str], cache_folder: Path, check_images: bool = True
) -> list[tuple[CitySide, CitySide]]:
    """(queries, database) of each city, from the kept scan while the csv files are the same."""
    folders = [
        f"{'test' if split == 'test' else 'train_val'}/{city}/{side}"
        for city in cities
        for side in SIDES
    ]
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; link or download MSLS, see data/README.md")
    origin = {"version": VERSION, "split": split, "files": _describe(root, split, folders)}
    path = cache_folder / f"r2former_scan_{split}.npz"
    sides = _load_kept(path, folders, json.dumps(origin))
    if sides is None:
        logger.info("scanning the csv files of %s, %d cities", root, len(cities))
        sides = [scan_side(root, folder, split) for folder in folders]
        if check_images:
            for side in sides:
                _require_images(root, side)
        _keep(path, sides, json.dumps(origin))
    return list(zip(sides[0::2], sides[1::2], strict=True))


def scan_side(root: Path, folder: str, split: str) -> CitySide:
    """One folder of csv files; ValueError where its files disagree."""
    place = root / folder
    names = _column(place / "seq_info.csv", "key")
    flagged = split != "train"
    shown = _flags(place / "subtask_index.csv", "all") if flagged else None
    if split == "test":
        assert shown is not None
        rows = np.flatnonzero(shown)
        rows = rows[rows < len(names)]
        empty = np.zeros(len(rows), bool)
        return CitySide(folder, names[rows], np.full((len(rows), 2), np.nan), empty, empty.copy())
    post = _read(place / "postprocessed.csv")
    keys = _pick(post, "key")
    raw = _read(place / "raw.csv")
    _same_rows(place, "raw.csv", keys, _pick(raw, "key"))
    _same_rows(place, "seq_info.csv", keys[: len(names)], names)
    keep = ~_truth(raw, "pano")
    if shown is not None:
        if len(shown) != len(keys):
            raise _disagreement(place, "subtask_index.csv", f"{len(shown)} rows", f"{len(keys)}")
        keep &= shown
    rows = np.flatnonzero(keep)
    missing = int((rows >= len(names)).sum())
    if missing:
        logger.warning("%s/seq_info.csv ends early: %d images are left out", place, missing)
    rows = rows[rows < len(names)]
    views = _pick(post, "view_direction")[rows]
    night = _truth(post, "night")[rows]
    return CitySide(
        folder, names[rows], _positions(post)[rows], night, ~np.isin(views, np.bytes_(STRAIGHT))
    )


@dataclass(frozen=True)
class Table:
    """A csv file: its rows in index order."""

    path: Path
    header: list[str]
    rows: list[list[str]]


def _read(path: Path) -> Table:
    """Rows by their leading index 0..n-1; ValueError for rows cut short or indices not in order."""
    header, *rows = [cells for _, cells in read_csv(path, REMEDY)] or [[]]
    for i, row in enumerate(rows):
        if len(row) != len(header) or row[0] != str(i):
            raise ValueError(
                f"{path}, row {i}: {','.join(row)!r}, expected the row index {i} and "
                f"{len(header)} fields; {REMEDY}"
            )
    return Table(path, header, rows)


def _pick(table: Table, column: str) -> np.ndarray:
    """(N,) bytes of one column."""
    if column not in table.header:
        raise ValueError(f"{table.path} has no column {column!r}; {REMEDY}")
    place = table.header.index(column)
    try:
        return np.array([row[place] for row in table.rows], dtype=np.bytes_)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{table.path}, column {column}: {str(error.object)[:80]!r} is not plain ASCII; "
            + REMEDY
        ) from error


def _column(path: Path, column: str) -> np.ndarray:
    return _pick(_read(path), column)


def _truth(table: Table, column: str) -> np.ndarray:
    texts, inverse = np.unique(_pick(table, column), return_inverse=True)
    strange = [text.decode() for text in texts if text.decode() not in TRUTH]
    if strange:
        raise ValueError(f"{table.path}, column {column}: {strange[0]!r}, expected True or False")
    return np.array([TRUTH[text.decode()] for text in texts], dtype=bool)[inverse]


def _flags(path: Path, column: str) -> np.ndarray:
    return _truth(_read(path), column)


def _positions(table: Table) -> np.ndarray:
    """(N, 2) float64 easting, northing."""
    try:
        parts = [_pick(table, name).astype(np.float64) for name in ("easting", "northing")]
    except ValueError as error:
        raise ValueError(f"{table.path}: a position is no number ({error}); {REMEDY}") from error
    positions = np.stack(parts, axis=1)
    if not np.isfinite(positions).all():
        row = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise ValueError(f"{table.path}, row {row}: the position is not finite; {REMEDY}")
    return positions


def _same_rows(place: Path, name: str, keys: np.ndarray, others: np.ndarray) -> None:
    """`others` must be `keys`, row by row."""
    if len(keys) != len(others):
        raise _disagreement(place, name, f"{len(others)} rows", f"{len(keys)}")
    differing = np.flatnonzero(keys != others)
    if len(differing):
        row = int(differing[0])
        found = f"key {others[row].decode()} in row {row}"
        raise _disagreement(place, name, found, keys[row].decode())


def _disagreement(place: Path, name: str, found: str, expected: str) -> ValueError:
    return ValueError(
        f"{place / name} has {found}, postprocessed.csv {expected}: the files must list the same "
        f"images in the same order; {REMEDY}"
    )


def _require_images(root: Path, side: CitySide) -> None:
    """Every image of the side lies in its folder, found by one listing of it."""
    folder = root / side.folder / "images"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; unpack the images of MSLS there")
    with os.scandir(folder) as entries:
        there = np.array([entry.name for entry in entries], dtype=np.bytes_)
    missing = side.keys[~np.isin(np.char.add(side.keys, b".jpg"), there)]
    if len(missing):
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {len(side.keys)} images, the first is "
            f"{missing[0].decode()}.jpg; unpack all parts of the set"
        )


def _describe(root: Path, split: str, folders: Sequence[str]) -> list[list[object]]:
    """Path, size and time of every csv file that a scan reads."""
    names = ["seq_info.csv"]
    names += ["subtask_index.csv"] if split != "train" else []
    names += ["raw.csv", "postprocessed.csv"] if split != "test" else []
    described: list[list[object]] = []
    for folder in folders:
        for name in names:
            facts = require_file(root / folder / name, REMEDY).stat()
            described.append([f"{folder}/{name}", facts.st_size, facts.st_mtime_ns])
    return described


def _keep(path: Path, sides: list[CitySide], origin: str) -> None:
    """Write the scan in one step."""
    arrays = {f"{i}_{part}": getattr(side, part) for i, side in enumerate(sides) for part in PARTS}
    with atomic_path(path) as temporary:
        np.savez(temporary, origin=np.array(origin), **arrays)


def _load_kept(path: Path, folders: Sequence[str], origin: str) -> list[CitySide] | None:
    """The kept scan; None where there is none, or of other files."""
    if not path.is_file():
        return None
    try:
        arrays = load_arrays(path, "")
        if str(arrays["origin"]) != origin:
            logger.info("%s is of other csv files: scanning anew", path)
            return None
        return [_kept_side(arrays, i, folder) for i, folder in enumerate(folders)]
    except (ValueError, KeyError) as error:
        logger.warning("%s cannot be read (%s): scanning anew", path, error)
        return None


def _kept_side(arrays: dict[str, np.ndarray], i: int, folder: str) -> CitySide:
    """Side `i` of a kept scan; ValueError unless its parts belong together."""
    keys, utm, night, sideways = (arrays[f"{i}_{part}"] for part in PARTS)
    n = len(keys) if keys.ndim else -1
    kinds = [keys.dtype.kind, utm.dtype.kind, night.dtype.kind, sideways.dtype.kind]
    shapes = [keys.shape, utm.shape, night.shape, sideways.shape]
    if kinds != ["S", "f", "b", "b"] or shapes != [(n,), (n, 2), (n,), (n,)]:
        raise ValueError(f"{folder} has parts of types {kinds} and shapes {shapes}")
    if (np.frombuffer(keys.tobytes(), np.uint8) >= 128).any():
        raise ValueError(f"{folder} has keys that are not plain ASCII")
    return CitySide(folder, keys, utm, night, sideways)
