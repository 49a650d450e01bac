"""Global descriptors on disk: memory-mapped arrays that are filled in shards and resumed."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.array_files import create_map, map_array
from utils.locks import Lock
from utils.paths import atomic_write
from utils.text_files import read_json_object
from vitgal.datasets.revisited_images import Photograph

logger = logging.getLogger(__name__)

REMEDY = "delete it or set overwrite=True"
SHARD = 16384  # images between two records of what is done

# (photographs, rows of the array that receive their descriptors)
Fill = Callable[[list[Photograph], np.ndarray], object]


def describe_files(photographs: Sequence[Photograph]) -> str:
    """Short digest of paths, boxes and file sizes: other pictures need other descriptors."""
    digest = hashlib.sha256()
    for path, box in photographs:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; data/README.md says where images come from"
            )
        digest.update(f"{path.name} {box} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def load_or_extract(
    folder: Path,
    name: str,
    photographs: list[Photograph],
    width: int,
    made_from: dict[str, Any],
    fill: Fill,
    overwrite: bool = False,
    shard: int = SHARD,
) -> np.ndarray:
    """(N, width) float32 memory map of the descriptors of `photographs`, extracted where missing.

    Lies in `<folder>/<name>_<digest>.npy`, where the digest is that of `made_from` (weights and
    settings) and of the pictures, so that descriptors of others are never read. After every shard
    `<file>.json` records how many rows are done; an interrupted extraction goes on there.
    """
    origin = {**made_from, "images": len(photographs), "files": describe_files(photographs)}
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{name}_{digest}.npy"
    note = path.with_suffix(".json")
    shape = (len(photographs), width)
    with Lock(path):  # another process that extracts the same is waited for
        done = 0 if overwrite else _rows_done(path, note, shape)
        if done == len(photographs):
            logger.info("%s holds the %d descriptors already and is kept", path, done)
        else:
            _extract_rest(path, note, photographs, shape, origin, done, fill, shard)
    return map_array(path, REMEDY)


def _rows_done(path: Path, note: Path, shape: tuple[int, int]) -> int:
    """Rows that the record vouches for; 0 without a record or with an array of another shape."""
    if not (path.is_file() and note.is_file()):
        return 0
    found = map_array(path, REMEDY)
    if found.shape != shape or found.dtype != np.float32:
        raise ValueError(
            f"{path} is {found.dtype} {found.shape}, expected float32 {shape}: it is damaged; "
            + REMEDY
        )
    done = read_json_object(note, REMEDY).get("done")
    if type(done) is not int or not 0 <= done <= shape[0]:
        raise ValueError(f"{note} says that {done!r} of {shape[0]} rows are done; {REMEDY}")
    return done


def _extract_rest(
    path: Path,
    note: Path,
    photographs: list[Photograph],
    shape: tuple[int, int],
    origin: dict[str, Any],
    done: int,
    fill: Fill,
    shard: int,
) -> None:
    if done == 0:
        note.unlink(missing_ok=True)
        array: np.ndarray = create_map(path, np.float32, shape)
    else:
        logger.info("%s holds %d of %d descriptors; going on there", path, done, shape[0])
        array = map_array(path, REMEDY, writable=True)
    assert isinstance(array, np.memmap)
    for start in range(done, shape[0], shard):
        stop = min(start + shard, shape[0])
        fill(photographs[start:stop], array[start:stop])
        array.flush()
        record = json.dumps({**origin, "done": stop}, indent=1) + "\n"
        atomic_write(note, record.encode())
