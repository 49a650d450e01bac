"""The rows at the end of an evaluation: measured, expected, difference, tolerance, protocol."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from utils.paths import REPO_ROOT
from utils.result_files import BEFORE, Record
from utils.result_files import finish as finish_run
from utils.results import Row, load_expected, make_gain_row, make_intervals, make_rows

EXPECTED = REPO_ROOT / "rrt_gld" / "expected.csv"
PUBLISHED_TOP_K = 100  # the expected values of reranking hold for this head
MINI_ROWS = {"sift": "eval_mini", "mini": "eval_mini_delg"}  # by the descriptors
SHORT = {"oxford5k": "roxf", "paris6k": "rpar", "roxford": "roxf", "rparis": "rpar"}


def script_name(kind: str, set_name: str, desc_name: str) -> str:
    """Script whose expected values a result is held against.

    `kind`: global, rerank, geometric or train; `set_name`: oxford5k, roxford_r50_gldv1, ...:
    ("rerank", "roxford_r50_gldv1", "r50_gldv1") -> "eval_r50_gldv1_roxf_rerank".
    """
    stem = set_name.removesuffix(f"_{desc_name}")
    if kind == "train":
        return "train_mini" if stem == "gldv2_mini" else f"train_{desc_name}"
    if stem == "mini_landmarks":
        return f"{MINI_ROWS.get(desc_name, f'eval_mini_{desc_name}')}_{kind}"
    return f"eval_{desc_name}_{SHORT.get(stem, stem)}_{kind}"


def to_percent(values: Mapping[str, Any], letter: str) -> dict[str, Any]:
    """One protocol of `evaluate_ranks` as tabulated: `<letter>_map`, `<letter>_mp`, 2 decimals."""
    return {
        f"{letter}_map": round(100 * float(values["map"]), 2),
        f"{letter}_mp": [round(100 * float(value), 2) for value in values["mp"]],
    }


def make_gain_rows(values: Mapping[str, np.ndarray], protocol: str) -> list[Row]:
    """What reranking adds to each metric that has values (Q,) before it, points of mAP."""
    rows = [
        make_gain_row(metric.removesuffix("_map"), values[f"{metric}{BEFORE}"], after, protocol)
        for metric, after in values.items()
        if f"{metric}{BEFORE}" in values
    ]
    return [row for row in rows if row is not None]


def finish(
    run: Any,
    metrics: Mapping[str, Any],
    record: Record,
    script: str | None,
    protocol: str,
    strict: bool = False,
) -> None:
    """Print, log and keep the mAP rows; with `strict`, exit code 3 when one is outside.

    Args:
        metrics: as tabulated, percent; the entries `<letter>_map` make the rows.
        record: its values by query give each row its bootstrap interval; where it has values
            before reranking, rows of the gain follow.
        script: name in expected.csv; None: the protocol is not the table's, nothing is expected.
    """
    measured = {key: value for key, value in metrics.items() if key.endswith("_map")}
    table = load_expected(EXPECTED).get(script, {}) if script is not None else {}
    expected = {key: entry for key, entry in table.items() if key in measured}
    rows = make_rows(measured, expected, protocol, make_intervals(record.values))
    rows += make_gain_rows(record.values, "reranked minus global")
    finish_run(run, rows, record, script, strict)
