"""The rows at the end of an evaluation: measured, expected, difference, tolerance, protocol."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.paths import REPO_ROOT
from utils.results import (
    Row,
    bootstrap_interval,
    enforce_tolerance,
    load_expected,
    log_rows,
    make_rows,
    paired_bootstrap,
    print_rows,
)
from utils.revisited import GroundTruth, evaluate_ranks

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


def make_intervals(aps: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """`<letter>_map` -> 95 % bootstrap interval, percent; none where no query has positives."""
    return {
        f"{key}_map": bootstrap_interval(100 * ap)
        for key, ap in aps.items()
        if not np.isnan(ap).all()
    }


def make_gain_rows(
    nn_inds: np.ndarray, gnd: GroundTruth, aps: Mapping[str, np.ndarray], protocol: str
) -> list[Row]:
    """What reranking adds to the global ranking `nn_inds` (Q, K), points of mAP.

    With the paired bootstrap interval over queries: above 0, the gain is more than the chance of
    which queries were asked. `aps`: M and H of the reranked lists, (Q,) fractions.
    """
    before = evaluate_ranks(nn_inds, gnd)
    rows = []
    for letter, key in (("M", "medium"), ("H", "hard")):
        first, second = 100 * before[key]["ap"], 100 * aps[letter]
        if np.isnan(first).all():
            continue
        gain = round(float(np.nanmean(second - first)), 2)
        interval = paired_bootstrap(first, second)
        rows.append(Row(f"{letter}_gain", gain, protocol=protocol, interval=interval))
    return rows


def finish(
    run: Any,
    metrics: Mapping[str, Any],
    aps: Mapping[str, np.ndarray],
    script: str | None,
    protocol: str,
    strict: bool = False,
    gains: Sequence[Row] = (),
) -> None:
    """Print and log the mAP rows; with `strict`, exit code 3 when one is outside its tolerance.

    Args:
        metrics: as tabulated, percent; the entries `<letter>_map` make the rows.
        aps: letter -> (Q,) average precision, fraction; gives the row its bootstrap interval.
        gains: rows of `make_gain_rows`, shown after the others.
        script: name in expected.csv; None: the protocol is not the table's, nothing is expected.
    """
    measured = {key: value for key, value in metrics.items() if key.endswith("_map")}
    table = load_expected(EXPECTED).get(script, {}) if script is not None else {}
    expected = {key: entry for key, entry in table.items() if key in measured}
    intervals = make_intervals(aps)
    rows = [*make_rows(measured, expected, protocol, intervals), *gains]
    log_rows(run, rows)
    print_rows(rows, script)
    enforce_tolerance(rows, strict)
