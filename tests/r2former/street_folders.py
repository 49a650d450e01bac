"""Small place recognition sets on disk: MSLS's csv layout, and files named by position."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_files(root: Path, files: Mapping[str, str]) -> None:
    """Write texts by relative path."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 32)) -> None:
    """A coarse random picture of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def write_vg_images(
    folder: Path, positions: Sequence[tuple[float, float]], notes: Sequence[str] = ()
) -> None:
    """Images @easting@northing@...@note@.jpg; the picture depends on the position."""
    for i, (easting, northing) in enumerate(positions):
        note = notes[i] if notes else ""
        name = f"@{easting:010.2f}@{northing:010.2f}@17@T@{i:03d}@{note}@.jpg"
        write_image(folder / name, int(easting * 1000 + northing) % 2**31)


def write_vg_split(
    root: Path,
    split: str,
    database: Sequence[tuple[float, float]],
    queries: Sequence[tuple[float, float]],
) -> None:
    """images/<split>/{database,queries} below `root`."""
    write_vg_images(root / "images" / split / "database", database)
    write_vg_images(root / "images" / split / "queries", queries)


def line_of_places(
    count: int, spacing: float, shift: float = 0.0, start: float = 0.0
) -> list[tuple[float, float]]:
    """Positions along a street, `spacing` metres apart."""
    return [(5000.0 + start + shift + spacing * i, 7000.0) for i in range(count)]


def write_msls_side(
    folder: Path, keys: Sequence[str], utm: Sequence[tuple[float, float]], **columns: Sequence[str]
) -> None:
    """csv files and pictures of the queries or the database of one city."""
    n = len(keys)

    def column(name: str, default: str) -> Sequence[str]:
        return columns.get(name, [default] * n)

    tables: dict[str, dict[str, Sequence[Any]]] = {
        "seq_info": {"key": keys, "sequence_key": ["s"] * n, "frame_number": list(range(n))},
        "subtask_index": {"key": keys, "all": column("all", "True")},
        "raw": {"key": keys, "pano": column("pano", "False")},
        "postprocessed": {
            "key": keys,
            "easting": [x for x, _ in utm],
            "northing": [y for _, y in utm],
            "night": column("night", "False"),
            "view_direction": column("view_direction", "Forward"),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["", *table])
            writer.writerows([i, *row] for i, row in enumerate(zip(*table.values(), strict=True)))
    for i, key in enumerate(keys):
        write_image(folder / "images" / f"{key}.jpg", i)
