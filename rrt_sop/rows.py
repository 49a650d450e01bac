"""The rows at the end of an evaluation: recall and what is expected, gain of reranking."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rrt_sop.evaluation import Evaluation
from utils.paths import REPO_ROOT
from utils.results import (
    Expected,
    Row,
    bootstrap_interval,
    load_expected,
    log_rows,
    make_rows,
    paired_bootstrap,
    print_rows,
)

EXPECTED = REPO_ROOT / "rrt_sop" / "expected.csv"


def cutoff(metric: str) -> int:
    """ "R@10" -> 10."""
    return int(metric.removeprefix("R@"))


def hits_at(first_hits: np.ndarray, k: int) -> np.ndarray:
    """(Q,) 100 where a right image is among the first k, else 0: their mean is R@k in percent."""
    return 100.0 * (first_hits < k)


def hits_within(found: Evaluation, k: int) -> np.ndarray:
    """`hits_at` for a list of K columns, which stands for all k beyond K."""
    return hits_at(found.first_hits, min(k, found.nn_inds.shape[1]))


def make_gain_rows(
    before: np.ndarray, found: Evaluation, ks: tuple[int, ...], protocol: str
) -> list[Row]:
    """What reranking adds to the global ranking, points of recall; paired bootstrap interval.

    `before` (Q,): first right column of the global ranking. An interval above 0: the gain is more
    than the chance of which queries were asked. Cutoffs at or beyond the depth cannot gain.
    """
    depth = found.nn_inds.shape[1]
    rows = []
    for k in ks:
        if k >= depth:
            continue
        first, second = hits_at(before, k), hits_at(found.first_hits, k)
        gain = round(float((second - first).mean()), 2)
        interval = paired_bootstrap(first, second)
        rows.append(Row(f"R@{k}_gain", gain, protocol=protocol, interval=interval))
    return rows


def load_row(script: str | None) -> dict[str, Expected]:
    """Expected values of a script; ValueError for a name that expected.csv does not have."""
    if script is None:
        return {}
    table = load_expected(EXPECTED)
    if script not in table:
        raise ValueError(f"row is {script!r}, but {EXPECTED} knows {list(table)}")
    return table[script]


def show_rows(
    run: Any,
    found: Evaluation,
    script: str | None,
    protocol: str,
    gains: Sequence[Row] = (),
) -> list[Row]:
    """Print and log the rows and return them.

    `script`: name in expected.csv; None: the protocol is not the table's, nothing is expected.
    """
    expected = {key: entry for key, entry in load_row(script).items() if key in found.metrics}
    intervals = {key: bootstrap_interval(hits_within(found, cutoff(key))) for key in found.metrics}
    rows = [*make_rows(found.metrics, expected, protocol, intervals), *gains]
    log_rows(run, rows)
    print_rows(rows, script)
    return rows
