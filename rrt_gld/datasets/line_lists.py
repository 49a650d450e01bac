"""Line lists `path,label,width,height`: the images of one set, in order."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.paths import atomic_write, require_file


class LineList(NamedTuple):
    """Images of one set, in the order of its line list."""

    paths: list[str]  # relative to the data folder
    labels: np.ndarray  # (N,) int64, renumbered 0.. by sorted category id within the list
    sizes: np.ndarray  # (N, 2) int64, width and height in pixels


def load_line_list(path: str | Path) -> LineList:
    """Read a line list; FileNotFoundError when missing, ValueError with the line when malformed."""
    hint = "python -m rrt_gld.tools.prepare_data makes it (data.make_mini, for a generated set)"
    path = require_file(path, hint)
    fields = [line.rsplit(",", 3) for line in path.read_text().splitlines() if line]
    if not fields:
        raise ValueError(f"{path} is empty, expected lines 'path,label,width,height'")
    try:
        numbers = np.array([[int(text) for text in field[1:]] for field in fields], dtype=np.int64)
        if numbers.shape[1] != 3:
            raise ValueError("too few fields")
    except ValueError:
        number, field = next((i, f) for i, f in enumerate(fields) if not _is_well_formed(f))
        raise ValueError(
            f"{path}, line {number + 1}: {','.join(field)!r}, expected 'path,label,width,height' "
            "with three whole numbers; remake it with python -m rrt_gld.tools.prepare_data"
        ) from None
    labels = np.unique(numbers[:, 0], return_inverse=True)[1].astype(np.int64)
    return LineList([field[0] for field in fields], labels, numbers[:, 1:])


def _is_well_formed(field: list[str]) -> bool:
    return len(field) == 4 and all(text.strip().lstrip("-").isdigit() for text in field[1:])


def write_line_list(
    path: str | Path, paths: Sequence[str], labels: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> None:
    """Write a line list: `sizes` are (width, height); no newline after the last line."""
    rows = zip(paths, labels, sizes, strict=True)
    lines = (f"{name},{label},{width},{height}" for name, label, (width, height) in rows)
    atomic_write(path, "\n".join(lines).encode())
