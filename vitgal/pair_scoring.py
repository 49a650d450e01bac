"""Scores of (query, gallery image) pairs by geometric verification, on all cores.

Each worker process opens the features itself and gets nothing but names; the scores are the same
for any number of processes.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from utils.worker_pool import run_tasks
from vitgal.geometric_verification import Verification, count_inliers
from vitgal.stores import FeatureStore, open_store

IMAGES_PER_TASK = 20
SHOWN = 5  # images without features that an error names


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
    with tqdm(total=scores.size, desc="pairs", unit="pair", disable=not progress) as bar:
        for task, counts in run_tasks(_Scorer, (stored, settings), tasks, num_processes):
            scores[task.row, task.column : task.column + len(counts)] = counts
            bar.update(len(counts))
    return scores


class _Scorer:
    """Carries tasks out; keeps the features of the last query."""

    def __init__(self, stored: StoreOptions, settings: Verification) -> None:
        self.store, self.settings = stored.open(), settings
        self.load_query = lru_cache(maxsize=1)(self.store.load)

    def __call__(self, task: Task) -> np.ndarray:
        images = [self.store.load(path) for path in task.images]
        return count_inliers(self.load_query(task.query), images, self.settings)
