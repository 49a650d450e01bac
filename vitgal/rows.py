"""The rows at the end of an evaluation: measured, expected, difference, tolerance, protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.paths import REPO_ROOT
from utils.results import Row, load_expected, make_gain_row, make_intervals, make_rows
from vitgal.geometric_verification import Verification

EXPECTED = REPO_ROOT / "vitgal" / "expected.csv"
PROTOCOLS = (("M", "medium"), ("H", "hard"))  # Easy is not reported
KS = (1, 5, 10)  # of mP@k
NUM_RERANK = 100
VARIANTS = {
    "xcit_retrievalv2_small_12_p16": "s12",
    "xcit_retrievalv2_small_24_p16": "s24",
    "xcit_retrievalv2_mini": "mini",
}
SETS = {"roxford5k": "roxf", "rparis6k": "rpar"}
MINI_SET = "landmarks_mini"
# what the expected values of reranking were measured with; the mini pictures are smaller
TABLED = {
    "s12": Verification(),
    "s24": Verification(max_distance=0.79),
    "mini": Verification(max_reprojection_error=8.0),
}

Measured = Mapping[str, Mapping[str, Any]]  # what `evaluate_ranks` gives


def script_name(model_name: str | None, set_name: str, stage: str) -> str | None:
    """Script whose expected values a result is held against; None where there is no such row.

    `stage`: global, rerank or untrained (a row of the generated set alone):
    ("xcit_retrievalv2_small_12_p16", "roxford5k_1m", "rerank") -> "eval_s12_roxf_1m_rerank".
    """
    variant = VARIANTS.get(str(model_name))
    if variant == "mini" and set_name == MINI_SET:
        return f"eval_{stage}_xcit_mini"
    short = SETS.get(set_name.removesuffix("_1m"))
    if variant not in ("s12", "s24") or short is None or stage == "untrained":
        return None
    distractors = "_1m" if set_name.endswith("_1m") else ""
    return f"eval_{variant}_{short}{distractors}_{stage}"


def is_tabled(model_name: str | None, num_rerank: int, settings: Verification) -> bool:
    """Whether reranking was done as for the table, so that its expected values hold."""
    tabled = TABLED.get(VARIANTS.get(str(model_name), ""))
    return num_rerank == NUM_RERANK and settings == tabled


def to_percent(measured: Measured, suffix: str = "") -> dict[str, Any]:
    """`M_map`, `H_map`, `M_mp`, `H_mp`, each with `suffix`; percent with two decimals."""
    metrics: dict[str, Any] = {}
    for letter, key in PROTOCOLS:
        metrics[f"{letter}_map{suffix}"] = round(100 * float(measured[key]["map"]), 2)
    for letter, key in PROTOCOLS:
        values = measured[key]["mp"]
        metrics[f"{letter}_mp{suffix}"] = [round(100 * float(value), 2) for value in values]
    return metrics


def map_values(measured: Measured, suffix: str = "") -> dict[str, np.ndarray]:
    """`M_map`, `H_map`, each with `suffix`: AP of each query (Q,), percent."""
    return {f"{letter}_map{suffix}": 100 * measured[key]["ap"] for letter, key in PROTOCOLS}


def make_map_rows(measured: Measured, script: str | None, protocol: str) -> list[Row]:
    """mAP rows with their bootstrap intervals over queries; `script` None: nothing is expected."""
    intervals = make_intervals(map_values(measured))
    maps = {
        f"{letter}_map": round(100 * float(measured[key]["map"]), 2)
        for letter, key in PROTOCOLS
        if f"{letter}_map" in intervals
    }
    table = load_expected(EXPECTED).get(script, {}) if script is not None else {}
    expected = {key: entry for key, entry in table.items() if key in maps}
    return make_rows(maps, expected, protocol, intervals)


def make_gain_rows(before: Measured, after: Measured, protocol: str) -> list[Row]:
    """What reranking adds, points of mAP, with the paired bootstrap interval over queries."""
    rows = [
        make_gain_row(letter, 100 * before[key]["ap"], 100 * after[key]["ap"], protocol)
        for letter, key in PROTOCOLS
    ]
    return [row for row in rows if row is not None]


def append_scores(path: str | Path, title: str, measured: Measured) -> None:
    """Add the scores to the text file of the option save_rank, percent with two decimals."""
    lines = [title]
    for letter, key in PROTOCOLS:
        precisions = ", ".join(
            f"mP@{k} {100 * value:.2f}" for k, value in zip(KS, measured[key]["mp"], strict=True)
        )
        lines.append(f"{letter}: mAP {100 * measured[key]['map']:.2f}, {precisions}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
