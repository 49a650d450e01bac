"""The rows that a retrieval ends with: measured, expected, difference, tolerance, protocol."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from delg_training.geometric_verification import Verification
from delg_training.retrieval import AFTER_GV, NUM_TO_RERANK
from delg_training.retrieval_metrics import to_percent
from utils.paths import REPO_ROOT
from utils.results import (
    Expected,
    Row,
    bootstrap_interval,
    enforce_tolerance,
    load_expected,
    log_rows,
    make_rows,
    paired_bootstrap,
    print_rows,
)

EXPECTED = REPO_ROOT / "delg_training" / "expected.csv"
LETTERS = {"medium": "M", "hard": "H"}  # of the metrics' names
GV = "_gv"  # suffix of a metric after geometric verification
PUBLISHED = Verification(descriptor_matching_threshold=1.0, ransac_residual_threshold=20.0)
# settings of a row that differ from the published ones, by the script's name
TABLED: dict[str, Verification] = {}

Results = Mapping[str, Mapping[str, Any]]  # what `delg_training.retrieval.measure` gives


def to_metrics(results: Results, ks: Sequence[int]) -> dict[str, float]:
    """`M_map`, `M_mP@1`, ..., `H_mR@10`, verified `M_map_gv`, ...: percent with two decimals."""
    metrics = {}
    for name, values in results.items():
        letter = LETTERS[name.removesuffix(AFTER_GV)]
        suffix = GV if name.endswith(AFTER_GV) else ""
        metrics[f"{letter}_map{suffix}"] = float(to_percent(values["map"]))
        for short, key in (("mP", "mp"), ("mR", "mr")):
            for k, value in zip(ks, to_percent(values[key]), strict=True):
                metrics[f"{letter}_{short}@{k}{suffix}"] = float(value)
    return metrics


def load_row(row: str | None) -> dict[str, Expected]:
    """Expected values of a script; ValueError for a name that expected.csv does not have."""
    if row is None:
        return {}
    table = load_expected(EXPECTED)
    if row not in table:
        raise ValueError(f"row is {row!r}, but {EXPECTED} knows {list(table)}")
    return table[row]


def choose_expected(
    row: str | None, settings: Verification, num_to_rerank: int
) -> dict[str, Expected]:
    """Expected values of the script `row`; those of verification only where it is the row's own.

    ValueError for a name that expected.csv does not have.
    """
    entries = load_row(row)
    tabled = TABLED.get(str(row), PUBLISHED)
    if settings == tabled and num_to_rerank == NUM_TO_RERANK:
        return entries
    return {key: entry for key, entry in entries.items() if not key.endswith(GV)}


def _intervals(results: Results) -> dict[str, tuple[float, float]]:
    found = {}
    for name, values in results.items():
        letter = LETTERS[name.removesuffix(AFTER_GV)]
        if not np.isnan(values["ap"]).all():
            key = f"{letter}_map{GV if name.endswith(AFTER_GV) else ''}"
            found[key] = bootstrap_interval(100 * values["ap"])
    return found


def _gains(results: Results, protocol: str) -> list[Row]:
    """What verification adds to mAP, points, with a paired bootstrap interval over queries."""
    rows = []
    for name, letter in LETTERS.items():
        if f"{name}{AFTER_GV}" not in results or np.isnan(results[name]["ap"]).all():
            continue
        before, after = (100 * results[key]["ap"] for key in (name, f"{name}{AFTER_GV}"))
        gain = round(float(np.nanmean(after - before)), 2)
        interval = paired_bootstrap(before, after)
        rows.append(Row(f"{letter}_gain", gain, protocol=protocol, interval=interval))
    return rows


def finish(
    run: Any,
    results: Results,
    ks: Sequence[int],
    expected: Mapping[str, Expected],
    protocols: Mapping[str, str],
    strict: bool = False,
    title: str | None = None,
) -> dict[str, float]:
    """Print and log the rows; returns the metrics. With `strict`, exit code 3 outside a tolerance.

    `protocols`: how was measured, in words, by suffix: "" and, after verification, "_gv".
    """
    metrics, intervals, rows = to_metrics(results, ks), _intervals(results), []
    for suffix, protocol in protocols.items():
        mine = {key: m for key, m in metrics.items() if key.endswith(GV) == (suffix == GV)}
        targets = {key: entry for key, entry in expected.items() if key in mine}
        bounds = {key: value for key, value in intervals.items() if key in mine}
        rows += make_rows(mine, targets, protocol, bounds)
    rows += _gains(results, "verified minus global")
    log_rows(run, rows)
    print_rows(rows, title)
    enforce_tolerance(rows, strict)
    return metrics
