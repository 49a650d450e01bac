"""The rows at the end of an evaluation: recall and what is expected, gain of reranking."""

import numpy as np

from r2former.datasets.place_set import PlaceSet
from r2former.evaluation import Evaluation, Ranking, Settings
from r2former.retrieval import average_precisions
from utils import results
from utils.paths import REPO_ROOT
from utils.result_files import BEFORE
from utils.results import Expected, Row, make_gain_row, make_intervals, make_rows

EXPECTED = REPO_ROOT / "r2former" / "expected.csv"


def hits_at(ranking: Ranking, k: int) -> np.ndarray:
    """(Q,) 100 where a positive is among the first k, else 0: their mean is R@k in percent."""
    assert ranking.first_hits is not None
    return 100.0 * (ranking.first_hits < min(k, ranking.nn_inds.shape[1]))


def load_row(script: str | None) -> dict[str, Expected]:
    """Expected values of a script; ValueError for a name that expected.csv does not have."""
    return results.load_row(EXPECTED, script)


def make_gain_rows(found: Evaluation, protocol: str) -> list[Row]:
    """What reranking adds to each recall, in points, with a paired bootstrap interval.

    Cutoffs at or beyond the depth cannot gain and are left out.
    """
    assert found.after is not None
    depth = found.after.nn_inds.shape[1]
    cutoffs = [int(name.removeprefix("R@")) for name in found.recalls_global]
    rows = [
        make_gain_row(f"R@{k}", hits_at(found.before, k), hits_at(found.after, k), protocol)
        for k in cutoffs
        if k < depth
    ]
    return [row for row in rows if row is not None]


def stage_values(ranking: Ranking, counts: np.ndarray, suffix: str = "") -> dict[str, np.ndarray]:
    """R@k and mAP@k of each query, percent; `counts` (Q,): positives of each query.

    Without a positive a query counts as missed for R@k, and has no mAP@k (NaN).
    """
    values = {}
    for name in ranking.metrics:
        k = int(name.partition("@")[2])
        if name.startswith("R@"):
            values[f"{name}{suffix}"] = hits_at(ranking, k)
        else:
            assert ranking.hits is not None
            values[f"{name}{suffix}"] = 100 * average_precisions(ranking.hits, counts, k)
    return values


def query_values(found: Evaluation, places: PlaceSet, settings: Settings) -> dict[str, np.ndarray]:
    """Every metric by query, those before reranking with "_global"; none without positions."""
    if not found.metrics:
        return {}
    counts = places.positives(settings.radius).counts
    if found.after is None:
        return stage_values(found.before, counts)
    before = stage_values(found.before, counts, BEFORE)
    return {**stage_values(found.after, counts), **before}


def make_recall_rows(
    found: Evaluation, values: dict[str, np.ndarray], script: str | None, weights: str
) -> list[Row]:
    """Rows with bootstrap intervals, then the gain of reranking; none where positions are unknown.

    `values`: what `query_values` gives. `script`: name in expected.csv; None: the protocol is not
    the table's, nothing is expected.
    """
    if not found.metrics:
        return []
    protocol = f"{weights}; {found.protocol}"
    expected = {key: entry for key, entry in load_row(script).items() if key in found.metrics}
    rows = make_rows(found.metrics, expected, protocol, make_intervals(values))
    return rows if found.after is None else [*rows, *make_gain_rows(found, protocol)]
