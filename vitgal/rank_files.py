"""Global rankings and lists of images to extract, on disk.

Published: `global_rank.npy`, int64 (n_database, Q), column q the whole ranking of query q; and
`rerank_path.txt` beside it. Own: the same name ending in `.npz` keeps what is needed of a ranking
(`GlobalRanking`), 2 MB instead of 560 MB with a million distractors. Beside a file that we wrote,
`<file>.json` tells which images it ranks.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.array_files import create_map, load_arrays, map_array, take_arrays
from utils.paths import atomic_path, atomic_write, require_file
from utils.text_files import read_json_object, read_text
from vitgal.global_ranking import HEAD, GlobalRanking

logger = logging.getLogger(__name__)

BLOCK = 65536  # rows of a published ranking that are read at once
PIXEL = re.compile(r"-?[0-9]{1,9}")
NO_BOX = (-1, -1, -1, -1)
RERANK_LIST = "rerank_path.txt"
REMEDY = (
    "it was made for another set; give the ranking of this set, or make it again with "
    "load_precomputed_global_rank=False overwrite=True"
)


class ListedImage(NamedTuple):
    """A line of rerank_path.txt."""

    path: str  # as it is used for loading
    box: tuple[int, int, int, int] | None  # x1, y1, x2, y2 of a query; None: the whole image


class SetSize(NamedTuple):
    """What a ranking must fit."""

    n_queries: int
    n_benchmark: int
    n_database: int


def hash_paths(paths: Sequence[str]) -> str:
    """Short digest of names in their order: by it a ranking of another set is recognised."""
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------- rankings


def check_rank_path(path: Path) -> Path:
    """The path, if its suffix tells a format."""
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(
            f"save_global_rank is {path}, expected a name ending in .npy (published, whole "
            "rankings) or .npz (what scoring and reranking need)"
        )
    return path


@contextmanager
def full_rank_file(path: Path, n_database: int, n_queries: int) -> Iterator[np.ndarray | None]:
    """For a `.npy` path the mapped int64 (n_database, Q) array that becomes it, else None."""
    if check_rank_path(path).suffix == ".npz":
        yield None
        return
    with atomic_path(path) as temporary:
        shape = (n_database, n_queries)
        array = create_map(temporary, np.int64, shape)
        yield array
        array.flush()
        del array


def save_ranking(path: Path, ranking: GlobalRanking, made_from: dict[str, Any]) -> None:
    """Write the record, and for `.npz` the ranking (a `.npy` is written while it is searched)."""
    if path.suffix == ".npz":
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                head=ranking.head,
                positions=ranking.positions,
                n_database=ranking.n_database,
            )
    record = json.dumps(made_from, indent=1, sort_keys=True) + "\n"
    atomic_write(record_path(path), record.encode())


def record_path(path: Path) -> Path:
    """Where the record of a ranking lies."""
    return path.with_name(path.name + ".json")


def read_record(path: Path) -> dict[str, Any]:
    """What the ranking was made from; empty for one without a record."""
    note = record_path(path)
    if not note.is_file():
        return {}
    return read_json_object(note, "make the ranking again")


def load_ranking(
    path: Path, size: SetSize, made_from: dict[str, Any] | None = None, head: int = HEAD
) -> GlobalRanking:
    """A ranking in either format, checked to be one of this set; ValueError says what differs.

    `made_from`: entries that a record beside the file must have with these values. A file without
    a record (a released one) is checked by its content alone. Keeps up to `head` entries per list.
    """
    require_file(
        check_rank_path(path), "run the global row's script (scripts/eval_*_global.sh) first"
    )
    record = read_record(path)
    if record and made_from is not None:
        other = {k: (record.get(k), v) for k, v in made_from.items() if record.get(k) != v}
        if other:
            text = ", ".join(
                f"{k} {found!r} instead of {want!r}" for k, (found, want) in other.items()
            )
            raise ValueError(f"{path} was made from {text}: {REMEDY}")
    read = _read_compact if path.suffix == ".npz" else _read_published
    ranking = read(path, size, head)
    _check_ranking(path, ranking, size)
    return ranking


def _read_compact(path: Path, size: SetSize, head: int) -> GlobalRanking:
    remedy = "it is no ranking of this code: make it again"
    arrays = load_arrays(path, remedy)
    kinds = {"head": "iu 2", "positions": "iu 2", "n_database": "iu 0"}
    best, positions, n_database = take_arrays(path, arrays, kinds, remedy)
    if positions.size and positions.max() >= size.n_database:
        raise ValueError(f"{path} places images behind the {size.n_database} of the set: {REMEDY}")
    return GlobalRanking(best[:, :head], positions.astype(np.int32), int(n_database))


def _read_published(path: Path, size: SetSize, head: int) -> GlobalRanking:
    """Block of rows after block, so that a ranking of a million images takes little memory."""
    ranks = map_array(path, "make it again")
    if ranks.dtype.kind not in "iu" or ranks.shape != (size.n_database, size.n_queries):
        raise ValueError(
            f"{path} holds {ranks.dtype} {ranks.shape}, expected integers "
            f"({size.n_database}, {size.n_queries}): a row per gallery image, a column per query. "
            f"Either the distractors are switched on for one and off for the other, or {REMEDY}"
        )
    positions = np.full((size.n_queries, size.n_benchmark), -1, np.int32)
    seen = np.zeros(size.n_queries, np.int64)
    for start in range(0, len(ranks), BLOCK):
        block = np.asarray(ranks[start : start + BLOCK]).astype(np.int64, copy=False)
        if block.min(initial=0) < 0 or block.max(initial=0) >= size.n_database:
            raise ValueError(f"{path} names images outside 0..{size.n_database - 1}: {REMEDY}")
        seen += block.sum(axis=0)
        rows, columns = np.nonzero(block < size.n_benchmark)
        positions[columns, block[rows, columns]] = start + rows
    if (positions < 0).any() or (seen != size.n_database * (size.n_database - 1) // 2).any():
        raise ValueError(f"{path} does not name every gallery image once: {REMEDY}")
    return GlobalRanking(
        np.ascontiguousarray(ranks[:head].T.astype(np.int64)), positions, size.n_database
    )


def _check_ranking(path: Path, ranking: GlobalRanking, size: SetSize) -> None:
    found = SetSize(len(ranking.positions), ranking.n_benchmark, ranking.n_database)
    if found != size or len(ranking.head) != size.n_queries:
        raise ValueError(f"{path} ranks {found}, expected {size}: {REMEDY}")
    outside = (ranking.head < 0) | (ranking.head >= size.n_database)
    placed = ranking.positions
    wrong = outside.any() or placed.min() < 0 or placed.max() >= size.n_database
    if wrong or any(len(np.unique(row)) < len(row) for row in (*ranking.head, *placed)):
        raise ValueError(f"{path} names an image twice or none of this set: {REMEDY}")


# ---------------------------------------------------------------------------- images to extract


def make_rerank_list(
    queries: Sequence[str], boxes: np.ndarray, heads: Sequence[Sequence[str]]
) -> list[ListedImage]:
    """Each query with its box, followed by its best gallery images."""
    listed = []
    for query, box, best in zip(queries, boxes.tolist(), heads, strict=True):
        listed.append(ListedImage(query, tuple(box)))
        listed += [ListedImage(path, None) for path in best]
    return listed


def write_rerank_list(path: Path, images: Sequence[ListedImage]) -> None:
    """`<path> <x1> <y1> <x2> <y2>` a line; -1 four times for the whole image."""
    lines = (f"{image.path} {' '.join(map(str, image.box or NO_BOX))}\n" for image in images)
    atomic_write(path, "".join(lines).encode())


def read_rerank_list(path: Path) -> list[ListedImage]:
    """Distinct images of the list, sorted by path; ValueError names a bad line.

    Features are kept by path: an image that is listed with two boxes is refused.
    """
    require_file(path, "run the global row's script (scripts/eval_*_global.sh) first")
    boxes: dict[str, tuple[int, int, int, int]] = {}
    text = read_text(path, "make it again by a global row's script")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, *numbers = line.rsplit(" ", 4)
        if len(numbers) != 4 or not all(PIXEL.fullmatch(text) for text in numbers) or "\0" in name:
            raise ValueError(
                f"{path}, line {number}: expected 'path x1 y1 x2 y2', found {line[:200]!r}"
            )
        x1, y1, x2, y2 = map(int, numbers)
        if boxes.setdefault(name, (x1, y1, x2, y2)) != (x1, y1, x2, y2):
            raise ValueError(
                f"{path}, line {number}: {name} is listed with boxes {boxes[name]} and "
                f"{(x1, y1, x2, y2)}, but has one file of features; give the query another path"
            )
    if not boxes:
        raise ValueError(f"{path} lists no image; make it again by a global row's script")
    return [
        ListedImage(name, None if box == NO_BOX else box) for name, box in sorted(boxes.items())
    ]
