"""The rows at the end of an evaluation: recall and what is expected, gain of reranking."""

from typing import Any

import numpy as np

from r2former.evaluation import Evaluation, Ranking
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

EXPECTED = REPO_ROOT / "r2former" / "expected.csv"
GLOBAL = "_global"  # suffix of metrics before reranking


def hits_at(ranking: Ranking, k: int) -> np.ndarray:
    """(Q,) 100 where a positive is among the first k, else 0: their mean is R@k in percent."""
    assert ranking.first_hits is not None
    return 100.0 * (ranking.first_hits < min(k, ranking.nn_inds.shape[1]))


def load_row(script: str | None) -> dict[str, Expected]:
    """Expected values of a script; ValueError for a name that expected.csv does not have."""
    if script is None:
        return {}
    table = load_expected(EXPECTED)
    if script not in table:
        raise ValueError(f"row is {script!r}, but {EXPECTED} knows {list(table)}")
    return table[script]


def make_gain_rows(found: Evaluation, protocol: str) -> list[Row]:
    """What reranking adds to each recall, in points, with a paired bootstrap interval.

    An interval above 0: the gain is more than the chance of which queries were asked. Cutoffs at or
    beyond the depth cannot gain and are left out.
    """
    assert found.after is not None
    rows = []
    for name in found.recalls_global:
        k = int(name.removeprefix("R@"))
        if k >= found.after.nn_inds.shape[1]:
            continue
        first, second = hits_at(found.before, k), hits_at(found.after, k)
        gain, interval = round(float((second - first).mean()), 2), paired_bootstrap(first, second)
        rows.append(Row(f"{name}_gain", gain, protocol=protocol, interval=interval))
    return rows


def make_intervals(found: Evaluation) -> dict[str, tuple[float, float]]:
    """Bootstrap interval of every recall, by the name of its row."""
    stages = [(found.before, GLOBAL if found.after is not None else "")]
    if found.after is not None:
        stages.append((found.after, ""))
    return {
        f"{name}{suffix}": bootstrap_interval(hits_at(ranking, int(name.removeprefix("R@"))))
        for ranking, suffix in stages
        for name in ranking.metrics
        if name.startswith("R@")
    }


def show_rows(run: Any, found: Evaluation, script: str | None, weights: str) -> list[Row]:
    """Print and log the rows and return them; none where positions are unknown.

    `script`: name in expected.csv; None: the protocol is not the table's, nothing is expected.
    """
    if not found.metrics:
        return []
    protocol = f"{weights}; {found.protocol}"
    expected = {key: entry for key, entry in load_row(script).items() if key in found.metrics}
    rows = make_rows(found.metrics, expected, protocol, make_intervals(found))
    if found.after is not None:
        rows += make_gain_rows(found, protocol)
    log_rows(run, rows)
    print_rows(rows, script)
    return rows
