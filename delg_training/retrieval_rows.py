"""The rows that a retrieval ends with: measured, expected, difference, tolerance, protocol."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from delg_training.geometric_verification import Verification
from delg_training.retrieval import AFTER_GV, NUM_TO_RERANK
from delg_training.retrieval_metrics import Results, to_percent
from utils import results as tables
from utils.paths import REPO_ROOT
from utils.result_files import Record
from utils.result_files import finish as finish_run
from utils.results import Expected, Row, make_gain_row, make_intervals, make_rows

EXPECTED = REPO_ROOT / "delg_training" / "expected.csv"
LETTERS = {"medium": "M", "hard": "H"}  # of the metrics' names
GV = "_gv"  # suffix of a metric after geometric verification
PUBLISHED = Verification(descriptor_matching_threshold=1.0, ransac_residual_threshold=20.0)


def name_parts(name: str) -> tuple[str, str]:
    """Letter and suffix of the metrics of a result: "hard_after_gv" -> ("H", "_gv")."""
    return LETTERS[name.removesuffix(AFTER_GV)], GV if name.endswith(AFTER_GV) else ""


def to_metrics(results: Results, ks: Sequence[int]) -> dict[str, float]:
    """`M_map`, `M_mP@1`, ..., `H_mR@10`, verified `M_map_gv`, ...: percent with two decimals."""
    metrics = {}
    for name, values in results.items():
        letter, suffix = name_parts(name)
        metrics[f"{letter}_map{suffix}"] = float(to_percent(values["map"]))
        for short, key in (("mP", "mp"), ("mR", "mr")):
            for k, value in zip(ks, to_percent(values[key]), strict=True):
                metrics[f"{letter}_{short}@{k}{suffix}"] = float(value)
    return metrics


def map_values(results: Results) -> dict[str, np.ndarray]:
    """`M_map`, ..., `H_map_gv`: AP of each query (Q,), percent."""
    parts = {name: name_parts(name) for name in results}
    return {f"{parts[n][0]}_map{parts[n][1]}": 100 * results[n]["ap"] for n in results}


def load_row(row: str | None) -> dict[str, Expected]:
    """Expected values of a script; ValueError for a name that expected.csv does not have."""
    return tables.load_row(EXPECTED, row)


def is_tabled(settings: Verification, num_to_rerank: int) -> bool:
    """Whether verification was done as for the table, so that its expected values hold."""
    return settings == PUBLISHED and num_to_rerank == NUM_TO_RERANK


def choose_expected(
    row: str | None, settings: Verification, num_to_rerank: int
) -> dict[str, Expected]:
    """Expected values of the script `row`; those of verification only where it is the row's own.

    ValueError for a name that expected.csv does not have.
    """
    entries = load_row(row)
    if is_tabled(settings, num_to_rerank):
        return entries
    return {key: entry for key, entry in entries.items() if not key.endswith(GV)}


def make_gain_rows(values: Mapping[str, np.ndarray], protocol: str) -> list[Row]:
    """What verification adds to mAP, points, with a paired bootstrap interval over queries."""
    rows = [
        make_gain_row(letter, values[f"{letter}_map"], values[f"{letter}_map{GV}"], protocol)
        for letter in LETTERS.values()
        if f"{letter}_map{GV}" in values
    ]
    return [row for row in rows if row is not None]


def finish(
    run: Any,
    metrics: Mapping[str, float],
    record: Record,
    expected: Mapping[str, Expected],
    protocols: Mapping[str, str],
    script: str | None,
    strict: bool = False,
) -> None:
    """Print, log and keep the rows; with `strict`, exit code 3 outside a tolerance.

    Args:
        metrics: what `to_metrics` gives.
        record: its values by query give the mAP rows their bootstrap intervals.
        expected: what `choose_expected` gives.
        protocols: how was measured, in words, by suffix: "" and, after verification, "_gv".
        script: the row; None where the protocol is not the table's.
    """
    intervals, rows = make_intervals(record.values), []
    for suffix, protocol in protocols.items():
        mine = {key: m for key, m in metrics.items() if key.endswith(GV) == (suffix == GV)}
        targets = {key: entry for key, entry in expected.items() if key in mine}
        rows += make_rows(mine, targets, protocol, intervals)
    rows += make_gain_rows(record.values, "verified minus global")
    finish_run(run, rows, record, script, strict)
