"""Global retrieval: exact nearest neighbours of the global features, and tables of them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rrt_sop.datasets.image_list import ImageList
from utils.knn import Found, search_blocks
from utils.nn_tables import ArrayWriter, record_path, writing_array, writing_nn_inds
from utils.paths import atomic_path


class Tables(NamedTuple):
    """Ranked lists of all queries."""

    values: np.ndarray  # (Q, K) float32: squared distances ascending, or logits descending
    nn_inds: np.ndarray  # (Q, K) int64 gallery indices, best first


class TableFiles(NamedTuple):
    """Where `nn_dists.pkl` and `nn_inds.pkl` go, and what the record of the latter says."""

    folder: str | Path
    origin: dict[str, Any]
    copy: str | Path | None = None  # of the table and its record


def normalize(features: np.ndarray) -> np.ndarray:
    """(N, D) float32 rows divided by their L2 norms (at least 1e-12)."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norms, np.float32(1e-12))


def find_neighbours(
    queries: np.ndarray, gallery: np.ndarray | None, depth: int, **options: Any
) -> tuple[int, Iterator[Found]]:
    """K = min(depth, what there is), and blocks of queries with their K neighbours.

    A block: first query, last + 1, squared L2 distances (n, K), ascending, gallery indices (n, K);
    arrays are good until the next block. Features are normalised (again). Without a gallery the
    queries are searched in themselves, and each one's first neighbour is dropped without a look,
    as published: it is taken to be the query itself. `options` go to `utils.knn.search_blocks`.
    """
    queries = normalize(queries)
    if gallery is not None:
        depth = min(depth, len(gallery))
        return depth, search_blocks(queries, normalize(gallery), depth, "l2", **options)
    depth = min(depth, len(queries) - 1)
    if depth < 1:
        raise ValueError(f"{len(queries)} image cannot be matched against itself")
    blocks = search_blocks(queries, queries, depth + 1, "l2", **options)
    return depth, ((start, stop, dists[:, 1:], inds[:, 1:]) for start, stop, dists, inds in blocks)


def neighbour_origin(queries: ImageList, gallery: ImageList | None = None) -> dict[str, Any]:
    """What a global neighbour table of these images is made from, for its record."""
    origin = {**queries.origin(), "ranking": "global"}
    return origin if gallery is None else {**origin, "gallery": gallery.origin()}


class KeptTables:
    """Ranked lists in memory, filled some queries at a time."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.values, self.nn_inds = np.empty(shape, np.float32), np.empty(shape, np.int64)
        self.rows = 0

    def append(self, values: np.ndarray, nn_inds: np.ndarray) -> None:
        part = slice(self.rows, self.rows + len(values))
        self.values[part], self.nn_inds[part] = values, nn_inds
        self.rows = part.stop

    def tables(self) -> Tables:
        return Tables(self.values, self.nn_inds)


class WrittenTables:
    """The same in files, which are never held as a whole."""

    def __init__(self, folder: Path, values: ArrayWriter, nn_inds: ArrayWriter) -> None:
        self.writers = {folder / "nn_dists.pkl": values, folder / "nn_inds.pkl": nn_inds}

    def append(self, values: np.ndarray, nn_inds: np.ndarray) -> None:
        for writer, rows in zip(self.writers.values(), (values, nn_inds), strict=True):
            writer.append(rows)

    def tables(self) -> Tables:
        """Read-only memory maps, once the files have their names."""
        maps = [
            np.memmap(path, x.dtype, "r", x.offset, x.shape) for path, x in self.writers.items()
        ]
        return Tables(*maps)


@contextmanager
def writing_tables(files: TableFiles, shape: tuple[int, int]) -> Iterator[WrittenTables]:
    """nn_dists.pkl (float32) and nn_inds.pkl (int64) of `shape` (Q, K), filled in the block."""
    folder = Path(files.folder)
    table = folder / "nn_inds.pkl"
    with (
        writing_array(folder / "nn_dists.pkl", shape, "float32") as values,
        writing_nn_inds(table, shape, files.origin) as nn_inds,
    ):
        yield WrittenTables(folder, values, nn_inds)
    if files.copy is not None:
        with atomic_path(files.copy) as copy, atomic_path(record_path(files.copy)) as note:
            shutil.copyfile(table, copy)
            shutil.copyfile(record_path(table), note)


def save_tables(files: TableFiles, tables: Tables) -> None:
    """Write whole tables."""
    with writing_tables(files, tables.nn_inds.shape) as written:
        written.append(*tables)
