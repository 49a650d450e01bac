"""Photographs without files, and descriptors drawn by their names. Light: processes import it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from search.photographs import Photograph
from search.store import Described
from utils.descriptors import LocalFeatures


def make_photos(count: int, start: int = 0) -> list[Photograph]:
    """Photographs without files: stores never open them."""
    names = [f"p{i}.jpg" for i in range(start, start + count)]
    return [Photograph(name, Path(name), None, f"{name}|1|2|None") for name in names]


def make_described(photo: Photograph, width: int = 16, local_width: int = 8) -> Described:
    """Descriptors drawn by the photograph's name; p0 has no local features."""
    number = int(photo.path.stem[1:])
    rng = np.random.default_rng(number)
    count = 3 * number % 17
    rows = rng.standard_normal((count, local_width)).astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    features = LocalFeatures(
        rng.uniform(0, (60, 80), (count, 2)),
        rng.choice(np.array([0.5, 1, 2], np.float32), count),
        rows,
        np.sort(rng.uniform(0.1, 3, count))[::-1],
    )
    global_ = rng.standard_normal(width).astype(np.float32)
    return Described(global_ / np.linalg.norm(global_), features, (60, 80))


def describe(photos: Sequence[Photograph]) -> Iterator[Described]:
    yield from map(make_described, photos)
