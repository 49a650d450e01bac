"""Paired tests on cases known by hand or by scipy; the comparison of two runs."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.utils.test_result_files import protocol, record, run_experiment
from utils import report
from utils.paired_tests import permutation_test, sign_test
from utils.report_compare import align_queries, compare, compare_metric
from utils.result_files import StoredResult, load_result
from utils.results import Row


def test_permutation_test_of_three_queries_by_hand() -> None:
    # signs of (1, 2, 3): sums +-6, +-4, +-2, 0, 0; at least as far from 0 as 6: two of eight
    assert permutation_test(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert permutation_test(np.array([1.0, 2.0, -3.0])) == 1.0
    assert permutation_test(np.array([0.0, 0.0])) == 1.0
    assert permutation_test(np.array([0.0, 1.0, 0.0, 2.0, 3.0])) == 2 / 8, (
        "equal queries say nothing"
    )


def test_permutation_test_counts_all_signs() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, 10)
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=10)]
    expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9)
    assert permutation_test(differences) == pytest.approx(expected)


def test_drawn_signs_agree_with_the_normal_approximation(monkeypatch: pytest.MonkeyPatch) -> None:
    # sum of n signs times 1: variance n; 60 of 100 up: sum 20, z = 19 / 10 with continuity
    differences = np.repeat([1.0, -1.0], [60, 40])
    expected = 2 * stats.norm.sf(1.9)
    assert permutation_test(differences, n=20_000) == pytest.approx(expected, abs=0.008)
    first = permutation_test(differences, n=1000)
    assert permutation_test(differences, n=1000) == first, "fixed by the seed"
    monkeypatch.setattr("utils.paired_tests.BLOCK_NUMBERS", 1000)
    assert permutation_test(differences, n=20_000) == pytest.approx(expected, abs=0.008)
    assert permutation_test(np.ones(50), n=99) == 1 / 100, "never 0"


@pytest.mark.parametrize(
    ("gained", "lost", "equal"), [(5, 1, 3), (40, 22, 0), (0, 0, 4), (3, 3, 1)]
)
def test_sign_test_is_the_exact_binomial(gained: int, lost: int, equal: int) -> None:
    differences = np.repeat([2.0, -0.5, 0.0], [gained, lost, equal])
    changed = gained + lost
    expected = stats.binomtest(gained, changed).pvalue if changed else 1.0
    *counts, p = sign_test(differences)
    assert counts == [gained, lost, equal]
    assert p == pytest.approx(expected)


def test_metric_of_two_runs_by_hand() -> None:
    nan = float("nan")
    part = compare_metric("m", np.array([0.0, 10.0, nan, 20.0]), np.array([10.0, 20.0, nan, 30.0]))
    assert (part.first, part.second, part.interval) == (10.0, 20.0, (10.0, 10.0))
    assert (part.gained, part.lost, part.equal) == (3, 0, 0)
    assert part.p_sign == part.p_permutation == 2 / 8


def stored(names: list[str], values: dict[str, Any], **changes: Any) -> StoredResult:
    content = {"protocol": {**vars(protocol()), **changes}, "rows": [], "method": {}}
    arrays = {name: np.asarray(entry, float) for name, entry in values.items()}
    return StoredResult(Path("run"), content, names, arrays)


def test_queries_are_paired_by_name() -> None:
    first = stored(["x/a.jpg", "x/b.jpg"], {"m": [1, 2], "other": [0, 0]})
    second = stored(["y/b.jpg", "y/a.jpg"], {"m": [20, 10]})
    assert align_queries(first, second).tolist() == [1, 0]
    (part,) = compare(first, second)
    assert (part.metric, part.second - part.first, part.lost) == ("m", 13.5, 0)


def test_different_queries_or_metrics_are_refused() -> None:
    first = stored(["a", "b"], {"m": [1, 2]})
    with pytest.raises(ValueError, match=r"different queries: 1 only in the first, 2 only in the"):
        compare(first, stored(["a", "c", "d"], {"m": [1, 2, 3]}))
    with pytest.raises(ValueError, match="no metric is common"):
        compare(first, stored(["a", "b"], {"n": [1, 2]}))
    with pytest.raises(ValueError, match="names a query twice"):
        compare(stored(["a", "a"], {"m": [1, 2]}), first)


def test_command_compares_two_runs_and_states_different_protocols(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_experiment(tmp_path / "one", [Row("M_map", 25.0)], record())
    better = np.array([30.0, 70.0, np.nan])
    other = record(protocol=protocol(junk="left out"), values={"M_map": better})
    run_experiment(tmp_path / "two", [Row("M_map", 50.0)], other)
    assert report.main(["compare", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    shown = capsys.readouterr().out
    assert "PROTOCOLS DIFFER" in shown
    assert "junk: none / left out" in shown
    line = next(line for line in shown.splitlines() if "+25.00" in line)
    assert line.split()[:4] == ["M_map", "25.00", "50.00", "+25.00"]
    assert report.main(["compare", str(tmp_path / "one"), str(tmp_path / "one")]) == 0
    assert "DIFFER" not in capsys.readouterr().out
    assert load_result(tmp_path / "two").protocol["junk"] == "left out"
