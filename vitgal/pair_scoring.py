"""Scores of (query, gallery image) pairs by geometric verification, on all cores.

Each worker process opens the features itself and gets nothing but names; the scores are the same
for any number of processes.
"""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from vitgal.geometric_verification import Verification, count_inliers
from vitgal.stores import FeatureStore, open_store

IMAGES_PER_TASK = 20
SHOWN = 5  # images without features that an error names
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class StoreOptions(NamedTuple):
    """Where local features lie; arguments of `open_store`."""

    descriptor_output_dir: str
    location_output_dir: str
    data_path: str
    compact_store: str | None = None
    compact_kind: str | None = None
    official_names: bool = False

    @property
    def folder(self) -> Path:
        """That with the record of the extraction."""
        return Path(self.compact_store or self.descriptor_output_dir)

    def open(self) -> FeatureStore:
        return open_store(*self)


class Task(NamedTuple):
    """One query with some images of its list; `row`, `column`: where the first score belongs."""

    row: int
    column: int
    query: str
    images: list[str]


def require_features(store: FeatureStore, paths: Sequence[str]) -> None:
    """FileNotFoundError that counts and names images without local features."""
    missing = [path for path in dict.fromkeys(paths) if not store.has(path)]
    if missing:
        names = "".join(f"\n  {path}" for path in missing[:SHOWN])
        more = "\n  ..." if len(missing) > SHOWN else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(set(paths))} images have no local features; run "
            "vitgal.extract_local_features with the rerank_path.txt of this ranking first. "
            f"Missing:{names}{more}"
        )


def score_heads(
    queries: Sequence[str],
    heads: Sequence[Sequence[str]],
    stored: StoreOptions,
    settings: Verification,
    num_processes: int | None = None,
    progress: bool = True,
) -> np.ndarray:
    """(Q, R) int64 inliers of each query with the R images of its head (paths).

    `num_processes` None: one per core. Every image has to be in the store: checked first.
    """
    lengths = {len(head) for head in heads}
    if len(heads) != len(queries) or len(lengths) != 1:
        raise ValueError(f"{len(queries)} queries, heads of lengths {sorted(lengths)}: not a table")
    require_features(stored.open(), [*queries, *(path for head in heads for path in head)])
    scores = np.zeros((len(queries), lengths.pop()), np.int64)
    tasks = [
        Task(row, column, query, list(head[column : column + IMAGES_PER_TASK]))
        for row, (query, head) in enumerate(zip(queries, heads, strict=True))
        for column in range(0, len(head), IMAGES_PER_TASK)
    ]
    count = min(num_processes or os.cpu_count() or 1, len(tasks))
    with tqdm(total=scores.size, desc="pairs", unit="pair", disable=not progress) as bar:
        for task, counts in _run(tasks, (stored, settings), count):
            scores[task.row, task.column : task.column + len(counts)] = counts
            bar.update(len(counts))
    return scores


def _run(
    tasks: list[Task], state: tuple[StoreOptions, Verification], count: int
) -> Iterator[tuple[Task, np.ndarray]]:
    if count <= 1:
        scorer = _Scorer(*state)
        yield from ((task, scorer(task)) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), context.Pool(count, _start_worker, state) as pool:
        yield from pool.imap_unordered(_work, tasks)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside have one BLAS thread: they are as many as there are cores."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Scorer:
    """Carries tasks out; keeps the features of the last query."""

    def __init__(self, stored: StoreOptions, settings: Verification) -> None:
        self.store, self.settings = stored.open(), settings
        self.load_query = lru_cache(maxsize=1)(self.store.load)

    def __call__(self, task: Task) -> np.ndarray:
        images = [self.store.load(path) for path in task.images]
        return count_inliers(self.load_query(task.query), images, self.settings)


_worker: dict[str, Any] = {}  # of this process, where it is a worker


def _start_worker(stored: StoreOptions, settings: Verification) -> None:
    cv2.setNumThreads(1)
    _worker["scorer"] = _Scorer(stored, settings)


def _work(task: Task) -> tuple[Task, np.ndarray]:
    return task, _worker["scorer"](task)
