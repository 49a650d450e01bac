"""List files `path,class_id`: the images of one split, in order, and what they are made from."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.paths import atomic_write
from utils.text_files import read_text

REMEDY = "make it with python -m rrt_sop.prepare_data"
SHOWN = 10  # names that an error message lists


class Listing(NamedTuple):
    """Images of one split, in the order of its list file."""

    paths: list[str]  # relative to the data folder
    class_ids: np.ndarray  # (N,) int64, as in the file


def load_list_file(path: str | Path) -> Listing:
    """Read lines `path,class_id`; FileNotFoundError when missing, ValueError when malformed."""
    path = Path(path)
    lines = read_text(path, REMEDY).splitlines()
    fields = [line.rsplit(",", 1) for line in lines if line]
    if not fields:
        raise ValueError(f"{path} is empty, expected lines 'path,class_id'; {REMEDY}")
    for number, line in enumerate(lines, 1):
        if line and not _well_formed(line):
            raise ValueError(
                f"{path}, line {number}: {line[:200]!r}, expected 'path,class_id' with a whole "
                f"number; {REMEDY}"
            )
    class_ids = np.array([int(class_id) for _, class_id in fields], dtype=np.int64)
    paths = [name for name, _ in fields]
    _refuse_repeated(path, paths)
    return Listing(paths, class_ids)


WHOLE_NUMBER = re.compile(r"\s*-?[0-9]{1,18}\s*")  # within 64 bits


def _well_formed(line: str) -> bool:
    name, comma, class_id = line.rpartition(",")
    named = bool(name and comma) and "\0" not in name
    return named and WHOLE_NUMBER.fullmatch(class_id) is not None


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


CLASS_ID = re.compile(r"0*[1-9][0-9]{0,17}")  # from 1, within 64 bits


def load_class_list(path: str | Path) -> Listing:
    """Read a list of the official archive: a header, then `image_id class_id super_class_id path`.

    Class ids there count from 1; here, as in list files, from 0.
    """
    path = Path(path)
    text = read_text(path, "unpack the official archive again")
    header, *lines = text.splitlines() or [""]
    if header.split()[-1:] != ["path"]:
        raise ValueError(
            f"{path} begins with {header[:80]!r}, expected the header 'image_id class_id "
            "super_class_id path'; unpack the official archive again"
        )
    fields = [line.split(maxsplit=3) for line in lines if line.strip()]
    for number, field in enumerate(fields, 2):
        if len(field) != 4 or not CLASS_ID.fullmatch(field[1]) or "\0" in field[3]:
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
