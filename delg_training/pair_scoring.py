"""Inliers of (query, index image) pairs on all cores, kept on disk while they are counted.

Each worker process opens the features itself and gets nothing but names; the counts are the same
for any number of processes. A run that was interrupted goes on with the pairs that are left.
"""

import json
import logging
import multiprocessing.resource_tracker
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from delg_training.geometric_verification import Verification, verify
from utils.array_files import load_arrays, take_arrays
from utils.descriptors import read_local
from utils.paths import atomic_path, require_files
from utils.worker_pool import run_tasks

logger = logging.getLogger(__name__)

PAIRS_PER_TASK = 32
QUERIES_HELD = 128  # features of queries that a worker keeps: about 70 MB of 1000 x 128
SAVE_SECONDS = 60.0
NOT_YET = -1
REMEDY = "replace it with overwrite=True, or choose another output_dir"


class LocalFiles(NamedTuple):
    """Files of local features of both sides, in the order of the ground truth."""

    queries: Sequence[Path]
    gallery: Sequence[Path]


def load_counts(path: Path, origin: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) pairs and (P,) inliers that an earlier run has counted; none without a file.

    ValueError when the file was made from something else than `origin`.
    """
    if not path.is_file():
        return np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    arrays = load_arrays(path, f"it is no table of inliers: {REMEDY}")
    kinds = {"origin": "U 0", "pairs": "iu 2", "inliers": "iu 1"}
    note, pairs, inliers = take_arrays(path, arrays, kinds, REMEDY)
    try:
        found = dict(json.loads(str(note)))
        if pairs.shape != (len(inliers), 2):
            raise ValueError(f"pairs {pairs.shape}, inliers {inliers.shape}")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no table of inliers ({error}); {REMEDY}") from error
    differing = [key for key in {**found, **origin} if found.get(key) != origin.get(key)]
    if differing:
        details = "; ".join(f"{k}: {found.get(k)!r}, now {origin.get(k)!r}" for k in differing)
        raise ValueError(f"{path} was made from something else ({details}); {REMEDY}")
    return pairs, inliers


def save_counts(path: Path, origin: dict[str, Any], pairs: np.ndarray, inliers: np.ndarray) -> None:
    """Write the counted pairs, in one step."""
    done = inliers != NOT_YET
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, pairs=pairs[done], inliers=inliers[done], origin=np.array(json.dumps(origin))
        )


def count_all(
    pairs: np.ndarray,
    files: LocalFiles,
    settings: Verification,
    table: Path,
    origin: dict[str, Any],
    num_processes: int | None = None,
    progress: bool = True,
) -> np.ndarray:
    """(P,) int64 inliers of `pairs` (P, 2): positions of query and index image.

    `table`: .npz file that keeps the counts, pairs of earlier runs included; `origin`: what it is
    made from, plain JSON values. `num_processes` None: one per core. FileNotFoundError counts and
    names the images without features before anything is counted.
    """
    known_pairs, known = load_counts(table, origin)
    keys, known_keys = (_keys(part, len(files.gallery)) for part in (pairs, known_pairs))
    inliers = np.full(len(pairs), NOT_YET, np.int64)
    order = np.argsort(known_keys)
    if len(known):
        at = np.searchsorted(known_keys, keys, sorter=order).clip(max=len(known) - 1)
        inliers = np.where(known_keys[order[at]] == keys, known[order[at]], NOT_YET)
        logger.info("%s has %d of %d pairs", table, (inliers != NOT_YET).sum(), len(pairs))
    _require_features(pairs[inliers == NOT_YET], files)
    others = ~np.isin(known_keys, keys)

    def save() -> None:
        every = np.concatenate([pairs, known_pairs[others]])
        save_counts(table, origin, every, np.concatenate([inliers, known[others]]))

    try:
        _count_missing(pairs, inliers, files, settings, num_processes, progress, save)
    finally:
        save()
    return inliers


def _keys(pairs: np.ndarray, num_index: int) -> np.ndarray:
    """One number per pair."""
    return pairs[:, 0] * num_index + pairs[:, 1]


def _require_features(pairs: np.ndarray, files: LocalFiles) -> None:
    wanted = [files.queries[q] for q in np.unique(pairs[:, 0])]
    wanted += [files.gallery[i] for i in np.unique(pairs[:, 1])]
    require_files(wanted, "extract the local features of these images first")


def _count_missing(
    pairs: np.ndarray,
    inliers: np.ndarray,
    files: LocalFiles,
    settings: Verification,
    num_processes: int | None,
    progress: bool,
    save: Any,
) -> None:
    """Fill in `inliers` where it is NOT_YET; `save` is called every minute."""
    missing = np.flatnonzero(inliers == NOT_YET)
    missing = missing[np.lexsort((pairs[missing, 0], pairs[missing, 1]))]  # by index image
    cuts = range(PAIRS_PER_TASK, len(missing), PAIRS_PER_TASK)
    tasks = [(rows, pairs[rows]) for rows in np.array_split(missing, cuts)]
    saved = time.monotonic()
    with tqdm(total=len(missing), desc="pairs", unit="pair", disable=not progress) as bar:
        for (rows, _), found in run_tasks(_Scorer, (files, settings), tasks, num_processes):
            inliers[rows] = found
            bar.update(len(rows))
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
                saved = time.monotonic()


def start_tracker_early(options: dict[str, Any]) -> None:
    """For sacred's `option_hook`: start the process that multiprocessing keeps until the end.

    Started later it would hold on to the output that sacred captures, which sacred then waits for.
    """
    multiprocessing.resource_tracker.ensure_running()


class _Scorer:
    """Carries tasks out. Tasks come by index image: each of its files is read about once."""

    def __init__(self, files: LocalFiles, settings: Verification) -> None:
        self.files, self.settings = files, settings
        self.load_query = lru_cache(QUERIES_HELD)(lambda q: read_local(files.queries[q]))
        self.load_index = lru_cache(1)(lambda i: read_local(files.gallery[i]))

    def __call__(self, task: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """(n,) int64 inliers; `task`: (n,) rows of the list of pairs, their pairs (n, 2)."""
        return np.array([self._count(int(q), int(i)) for q, i in task[1]], np.int64)

    def _count(self, q: int, i: int) -> int:
        try:
            return len(verify(self.load_query(q), self.load_index(i), self.settings))
        except ValueError as error:
            names = f"{self.files.queries[q]} and {self.files.gallery[i]}"
            raise ValueError(f"{names} cannot be matched: {error}") from error
