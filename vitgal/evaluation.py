"""From a global ranking to rows of the table, before and after geometric reranking."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.paths import atomic_path, hash_file, require_file
from utils.result_files import Record, finish
from vitgal.datasets.revisited_lists import TestImages
from vitgal.geometric_verification import Verification
from vitgal.global_ranking import GlobalRanking
from vitgal.global_search import query_paths
from vitgal.pair_scoring import StoreOptions, score_heads
from vitgal.result_record import make_global_record
from vitgal.rows import (
    append_scores,
    is_tabled,
    make_gain_rows,
    make_map_rows,
    script_name,
    to_percent,
)

logger = logging.getLogger(__name__)

UNTRAINED = "untrained"  # how a record names random weights


@dataclass(frozen=True)
class Outcome:
    """A global ranking and how it came about."""

    test: TestImages
    ranking: GlobalRanking
    model_name: str | None
    origin: Mapping[str, Any]  # record of the ranking; empty for a released file without one

    @property
    def is_untrained(self) -> bool:
        """Whether the ranking was made with random weights."""
        return str(self.origin.get("weights", "")).startswith(UNTRAINED)

    @property
    def protocol(self) -> str:
        """In words, for the rows."""
        if "weights" not in self.origin:
            return f"{self.model_name}, ranking without a record of its origin"
        size = self.origin["imsize"]
        shape = f"longer side {size}" if self.origin["keep_aspect"] else f"{size} x {size}"
        scales = "7 scales" if self.origin["multiscale"] else "single scale"
        weights = "UNTRAINED" if self.is_untrained else f"weights {self.origin['weights']}"
        return f"{self.model_name}, {weights}, {shape}, {scales}"

    @property
    def is_tabled(self) -> bool:
        """Whether the ranking was made as for the table (or, without a record, may have been)."""
        return not (self.origin.get("multiscale") or self.origin.get("keep_aspect"))


class Reranked(NamedTuple):
    """Heads of the lists in their new order."""

    ranking: GlobalRanking
    scores: np.ndarray  # (Q, R) int64 inliers, in the order of the global ranking


def describe_weights(weight_path: str | None, seed: int) -> str:
    """What a record says about the weights: digest of their file, or that they are random."""
    return f"{UNTRAINED}, seed {seed}" if weight_path is None else fingerprint_file(weight_path)


def pick_device(use_cuda: bool) -> torch.device:
    """The GPU, where there is one and it is wanted."""
    return torch.device("cuda" if use_cuda and torch.cuda.is_available() else "cpu")


def fingerprint_file(path: str | Path) -> str:
    """Short digest of a file of weights."""
    path = require_file(path, "give the path of a checkpoint; vitgal/README.md says which")
    return hash_file(path)[:16]


def rerank(
    outcome: Outcome,
    heads: list[list[str]],
    stored: StoreOptions,
    settings: Verification,
    num_processes: int | None,
    rank_path: Path,
) -> Reranked:
    """Verify the heads (paths), reorder them, and keep the scores beside the ranking.

    `rerank_counts.npz`: inliers (Q, R), the images they belong to, and how they were counted. No
    ground truth is used: junk images are verified like all others.
    """
    queries = query_paths(outcome.test)
    scores = score_heads(queries, heads, stored, settings, num_processes)
    with atomic_path(rank_path.with_name("rerank_counts.npz")) as path, path.open("wb") as file:
        head = outcome.ranking.head[:, : scores.shape[1]]
        np.savez_compressed(file, inliers=scores, head=head, verification=str(settings))
    return Reranked(outcome.ranking.reorder_head(scores), scores)


def finish_global(
    run: Any, outcome: Outcome, device: torch.device, save_rank: str | None, strict: bool
) -> dict:
    """Print, log and keep the rows of the global ranking; returns the metrics, percent."""
    measured = outcome.ranking.measure(outcome.test.ground_truth)
    stage = "untrained" if outcome.is_untrained else "global"
    script = script_name(outcome.model_name, outcome.test.name, stage)
    rows = make_map_rows(measured, script if outcome.is_tabled else None, outcome.protocol)
    if save_rank is not None:
        append_scores(save_rank, f"{outcome.test.name}, global: {outcome.protocol}", measured)
    record = make_global_record(outcome.test, outcome.origin, measured, device)
    finish(run, rows, record, script, strict)
    return to_percent(measured)


def finish_reranked(
    run: Any,
    outcome: Outcome,
    reranked: Reranked,
    settings: Verification,
    num_rerank: int,
    save_rank: str | None,
    strict: bool,
    record: Record,
) -> dict:
    """Print, log and keep the rows after reranking and the gain; returns the metrics, percent.

    The metrics before reranking end in `_global`.
    """
    gnd = outcome.test.ground_truth
    before, after = outcome.ranking.measure(gnd), reranked.ranking.measure(gnd)
    script = script_name(outcome.model_name, outcome.test.name, "rerank")
    as_tabled = outcome.is_tabled and not outcome.is_untrained
    tabled = as_tabled and is_tabled(outcome.model_name, num_rerank, settings)
    protocol = f"top {num_rerank} by inliers: {settings}"
    rows = [
        *make_map_rows(after, script if tabled else None, protocol),
        *make_gain_rows(before, after, "reranked minus global"),
    ]
    run.info["verification"] = str(settings)
    if save_rank is not None:
        append_scores(save_rank, f"{outcome.test.name}, global: {outcome.protocol}", before)
        append_scores(save_rank, f"{outcome.test.name}, reranked: {protocol}", after)
    finish(run, rows, record, script, strict)
    return {
        **to_percent(after),
        **to_percent(before, "_global"),
        "num_rerank": num_rerank,
        "verification": str(settings),
    }
