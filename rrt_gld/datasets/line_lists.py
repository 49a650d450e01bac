"""Line lists `path,label,width,height`: the images of one set, in order."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.paths import atomic_write
from utils.text_files import read_text


class LineList(NamedTuple):
    """Images of one set, in the order of its line list."""

    paths: list[str]  # relative to the data folder
    labels: np.ndarray  # (N,) int64, renumbered 0.. by sorted category id within the list
    sizes: np.ndarray  # (N, 2) int64, width and height in pixels


def load_line_list(path: str | Path) -> LineList:
    """Read a line list; FileNotFoundError when missing, ValueError with the line when malformed."""
    hint = "python -m rrt_gld.tools.prepare_data makes it (data.make_mini, for a generated set)"
    fields = [line.rsplit(",", 3) for line in read_text(path, hint).splitlines() if line]
    if not fields:
        raise ValueError(f"{path} is empty, expected lines 'path,label,width,height'")
    for number, field in enumerate(fields, start=1):
        if not _is_well_formed(field):
            raise ValueError(
                f"{path}, line {number}: {','.join(field)[:200]!r}, expected "
                "'path,label,width,height' with three whole numbers; remake it with "
                "python -m rrt_gld.tools.prepare_data"
            )
    numbers = np.array([[int(text) for text in field[1:]] for field in fields], dtype=np.int64)
    labels = np.unique(numbers[:, 0], return_inverse=True)[1].astype(np.int64)
    return LineList([field[0] for field in fields], labels, numbers[:, 1:])


WHOLE_NUMBER = re.compile(r"\s*-?[0-9]{1,18}\s*")  # within 64 bits


def _is_well_formed(field: list[str]) -> bool:
    """Whether it is a path, a label and two sizes that are not negative."""
    numbers = field[1:]
    whole = len(numbers) == 3 and all(WHOLE_NUMBER.fullmatch(text) for text in numbers)
    named = bool(field[0]) and "\0" not in field[0]
    return named and whole and min(int(text) for text in numbers[1:]) >= 0


def write_line_list(
    path: str | Path, paths: Sequence[str], labels: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> None:
    """Write a line list: `sizes` are (width, height); no newline after the last line."""
    rows = zip(paths, labels, sizes, strict=True)
    lines = (f"{name},{label},{width},{height}" for name, label, (width, height) in rows)
    atomic_write(path, "\n".join(lines).encode())
