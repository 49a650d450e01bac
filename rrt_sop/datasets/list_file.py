"""List files `path,class_id`: the images of one split, in order, and what they are made from."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.paths import atomic_write, require_file

REMEDY = "make it with python -m rrt_sop.prepare_data"
SHOWN = 10  # names that an error message lists


class Listing(NamedTuple):
    """Images of one split, in the order of its list file."""

    paths: list[str]  # relative to the data folder
    class_ids: np.ndarray  # (N,) int64, as in the file


def load_list_file(path: str | Path) -> Listing:
    """Read lines `path,class_id`; FileNotFoundError when missing, ValueError when malformed."""
    path = require_file(path, REMEDY)
    lines = path.read_text(encoding="utf-8").splitlines()
    fields = [line.rsplit(",", 1) for line in lines if line]
    if not fields:
        raise ValueError(f"{path} is empty, expected lines 'path,class_id'; {REMEDY}")
    try:
        class_ids = np.array([int(class_id) for _, class_id in fields], dtype=np.int64)
    except (ValueError, OverflowError):
        number, line = next((i, x) for i, x in enumerate(lines, 1) if x and not _well_formed(x))
        raise ValueError(
            f"{path}, line {number}: {line!r}, expected 'path,class_id' with a whole number; "
            f"{REMEDY}"
        ) from None
    paths = [name for name, _ in fields]
    _refuse_repeated(path, paths)
    return Listing(paths, class_ids)


def _well_formed(line: str) -> bool:
    name, comma, class_id = line.rpartition(",")
    return bool(name and comma) and class_id.strip().lstrip("-").isdigit() and len(class_id) < 19


def _refuse_repeated(path: Path, paths: list[str]) -> None:
    """An image listed twice would be its own nearest neighbour at distance 0."""
    if len(set(paths)) == len(paths):
        return
    names, counts = np.unique(paths, return_counts=True)
    repeated = names[counts > 1]
    raise ValueError(
        f"{path} lists {len(repeated)} images more than once, expected each once: "
        f"{', '.join(repeated[:SHOWN])}; {REMEDY}"
    )


def renumber(class_ids: np.ndarray) -> np.ndarray:
    """(N,) int64 labels 0.. by sorted class id."""
    return np.unique(class_ids, return_inverse=True)[1].astype(np.int64).reshape(-1)


def load_class_list(path: str | Path) -> Listing:
    """Read a list of the official archive: a header, then `image_id class_id super_class_id path`.

    Class ids there count from 1; here, as in list files, from 0.
    """
    path = require_file(path, "unpack the official archive again")
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if header.split()[-1:] != ["path"]:
        raise ValueError(
            f"{path} begins with {header[:80]!r}, expected the header 'image_id class_id "
            "super_class_id path'; unpack the official archive again"
        )
    fields = [line.split(maxsplit=3) for line in lines if line.strip()]
    for number, field in enumerate(fields, 2):
        if len(field) != 4 or not field[1].isdigit() or int(field[1]) < 1:
            raise ValueError(
                f"{path}, line {number}: {' '.join(field)!r}, expected 'image_id class_id "
                "super_class_id path' with class ids from 1; unpack the official archive again"
            )
    paths = [field[3].strip() for field in fields]
    _refuse_repeated(path, paths)
    return Listing(paths, np.array([int(field[1]) - 1 for field in fields], dtype=np.int64))


def write_list_file(path: str | Path, paths: Sequence[str], class_ids: Sequence[int]) -> None:
    """Write a list file; no newline after the last line, as published."""
    lines = (f"{name},{class_id}" for name, class_id in zip(paths, class_ids, strict=True))
    atomic_write(path, "\n".join(lines).encode())
