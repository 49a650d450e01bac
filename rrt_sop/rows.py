"""The rows at the end of an evaluation: recall and what is expected, gain of reranking."""

import numpy as np

from rrt_sop.evaluation import Evaluation
from utils import results
from utils.paths import REPO_ROOT
from utils.results import Expected, Row, make_gain_row, make_intervals, make_rows

EXPECTED = REPO_ROOT / "rrt_sop" / "expected.csv"


def cutoff(metric: str) -> int:
    """ "R@10" -> 10."""
    return int(metric.removeprefix("R@"))


def hits_at(first_hits: np.ndarray, k: int) -> np.ndarray:
    """(Q,) 100 where a right image is among the first k, else 0: their mean is R@k in percent."""
    return 100.0 * (first_hits < k)


def recall_values(found: Evaluation, suffix: str = "") -> dict[str, np.ndarray]:
    """ "R@k" -> `hits_at` k; a list of K columns stands for all k beyond K."""
    depth = found.nn_inds.shape[1]
    return {
        f"{name}{suffix}": hits_at(found.first_hits, min(cutoff(name), depth))
        for name in found.metrics
    }


def make_gain_rows(
    before: np.ndarray, found: Evaluation, ks: tuple[int, ...], protocol: str
) -> list[Row]:
    """What reranking adds to the global ranking, points of recall; paired bootstrap interval.

    `before` (Q,): first right column of the global ranking. Cutoffs at or beyond the depth cannot
    gain.
    """
    shown = [k for k in ks if k < found.nn_inds.shape[1]]
    rows = [
        make_gain_row(f"R@{k}", hits_at(before, k), hits_at(found.first_hits, k), protocol)
        for k in shown
    ]
    return [row for row in rows if row is not None]


def load_row(script: str | None) -> dict[str, Expected]:
    """Expected values of a script; ValueError for a name that expected.csv does not have."""
    return results.load_row(EXPECTED, script)


def make_recall_rows(found: Evaluation, script: str | None, protocol: str) -> list[Row]:
    """Recall with its bootstrap interval over queries.

    `script`: name in expected.csv; None: the protocol is not the table's, nothing is expected.
    """
    expected = {key: entry for key, entry in load_row(script).items() if key in found.metrics}
    return make_rows(found.metrics, expected, protocol, make_intervals(recall_values(found)))
