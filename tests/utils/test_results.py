"""Rows of results: arithmetic, printing, storing, exit code; bootstrap on cases known by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.results import (
    OUTSIDE_TOLERANCE,
    Expected,
    Row,
    bootstrap_interval,
    enforce_tolerance,
    format_rows,
    load_expected,
    log_rows,
    make_rows,
    paired_bootstrap,
    print_rows,
)

MEDIUM = Row("mAP medium", 75.46, 75.5, 0.1, "ROxf, top_k 100", "paper", (70.1, 80.3))
HARD = Row("mAP hard", 55.0, 56.4, 0.1, "ROxf, top_k 100", "paper")


class FakeRun:
    """The part of a sacred run that receives results."""

    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}
        self.info: dict[str, Any] = {}

    def log_scalar(self, name: str, value: float) -> None:
        self.scalars[name] = value


def test_difference_and_verdict_of_a_row() -> None:
    assert MEDIUM.difference == pytest.approx(-0.04)
    assert MEDIUM.within is True
    assert HARD.difference == pytest.approx(-1.4)
    assert HARD.within is False
    alone = Row("mAP easy", 80.0)
    assert (alone.difference, alone.within) == (None, None)


def test_tolerance_includes_its_end_and_excludes_nan() -> None:
    assert Row("m", 75.6, 75.5, 0.1).within is True  # 75.6 - 75.5 is 0.09999999999999432
    assert Row("m", 75.5, 75.6, 0.1).within is True
    assert Row("m", 75.61, 75.5, 0.1).within is False
    assert Row("m", math.nan, 75.5, 0.1).within is False


@pytest.mark.parametrize("bad", [{"expected": 1.0}, {"tolerance": 1.0}, {"source": "hearsay"}])
def test_row_refuses_half_an_expectation_and_unknown_sources(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="row 'm'"):
        Row("m", 1.0, **bad)


def test_rows_from_measured_and_expected() -> None:
    expected = {"mAP hard": Expected(56.4, 0.1, "paper")}
    easy, hard = make_rows(
        {"mAP easy": 80.0, "mAP hard": 56.38}, expected, "ROxf", {"mAP easy": (70.0, 90.0)}
    )
    assert easy == Row("mAP easy", 80.0, protocol="ROxf", interval=(70.0, 90.0))
    assert hard == Row("mAP hard", 56.38, 56.4, 0.1, "ROxf", "paper")


def test_an_expected_metric_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="mAP hard"):
        make_rows({"mAP medium": 75.5}, {"mAP hard": Expected(56.4, 0.1, "paper")}, "ROxf")


def test_table_shows_every_number_aligned() -> None:
    lines = format_rows([MEDIUM, HARD]).splitlines()
    assert lines[0].split("  ")[0] == "metric"
    assert lines[2].split() == (
        "mAP medium 75.46 75.50 -0.04 0.10 ok 70.1 to 80.3 paper ROxf, top_k 100".split()
    )
    assert "OUTSIDE" in lines[3]
    ends = {
        line.index(number) + len(number)
        for line, number in zip(lines[2:], ["75.46", "55.00"], strict=True)
    }
    assert ends == {lines[0].index("measured") + len("measured")}, "right-aligned below the header"


def test_columns_that_nobody_fills_are_left_out() -> None:
    assert format_rows([Row("recall@1", 67.5)]).splitlines() == [
        "metric    measured",
        "--------  --------",
        "recall@1     67.50",
    ]


def test_print_rows_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([MEDIUM], title="Reranking")
    assert capsys.readouterr().out == f"\nReranking\n{format_rows([MEDIUM])}\n"


def test_rows_are_stored_in_the_run() -> None:
    run = FakeRun()
    log_rows(run, [MEDIUM])
    log_rows(run, [HARD])
    assert run.scalars == {"mAP medium": 75.46, "mAP hard": 55.0}
    medium, hard = run.info["rows"]
    assert (medium["expected"], medium["within"], medium["protocol"]) == (
        75.5,
        True,
        MEDIUM.protocol,
    )
    assert hard["difference"] == pytest.approx(-1.4)


def test_strict_run_ends_with_code_3_outside_tolerance() -> None:
    enforce_tolerance([MEDIUM], strict=True)
    enforce_tolerance([MEDIUM, HARD], strict=False)
    with pytest.raises(SystemExit) as caught:
        enforce_tolerance([MEDIUM, HARD], strict=True)
    assert caught.value.code == OUTSIDE_TOLERANCE == 3


def test_strict_run_without_expected_values_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected\.csv"):
        enforce_tolerance([Row("m", 1.0)], strict=True)


def test_bootstrap_of_two_queries_by_hand() -> None:
    # resamples of (0, 1): mean 0 with chance 1/4, 0.5 with 1/2, 1 with 1/4, so that the 2.5 % and
    # 97.5 % points are 0 and 1; the middle 20 % hold nothing but 0.5
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.2) == (0.5, 0.5)


def test_bootstrap_agrees_with_the_normal_approximation() -> None:
    # 400 queries, half 0 and half 1: standard error of the mean sqrt(0.25 / 400) = 0.025
    low, high = bootstrap_interval(np.repeat([0.0, 1.0], 200), n=20_000)
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.004)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.004)


def test_bootstrap_ignores_queries_without_positives_and_repeats() -> None:
    values = [0.2, math.nan, 0.9, 0.4]
    assert bootstrap_interval(values) == bootstrap_interval([0.2, 0.9, 0.4])
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval([0.3]) == (0.3, 0.3)


def test_bootstrap_of_very_many_queries_goes_by_blocks() -> None:
    # 3 million values force blocks of one resample each; the mean of equal values is that value
    assert bootstrap_interval(np.full(3_000_000, 0.25), n=4) == (0.25, 0.25)


def test_paired_bootstrap_sees_a_gain_that_single_intervals_hide() -> None:
    before = np.linspace(0.0, 0.9, 50)
    after = before + 0.05  # every query gains the same: no doubt at all
    low, high = paired_bootstrap(before, after)
    assert (low, high) == (pytest.approx(0.05), pytest.approx(0.05))
    assert bootstrap_interval(before)[1] > bootstrap_interval(after)[0]
    assert paired_bootstrap(after, before)[1] < 0


@pytest.mark.parametrize("values", [[], [math.nan], [[0.1, 0.2]]])
def test_bootstrap_refuses_what_has_no_mean(values: list[Any]) -> None:
    with pytest.raises(ValueError, match="quer"):
        bootstrap_interval(values)


def test_paired_bootstrap_refuses_different_queries() -> None:
    with pytest.raises(ValueError, match="not the same queries"):
        paired_bootstrap([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="protocols"):
        paired_bootstrap([0.1, math.nan], [0.1, 0.2])


def test_expected_values_are_read(tmp_path: Path) -> None:
    file = tmp_path / "expected.csv"
    file.write_text(
        "script,metric,value,tolerance,source\n"
        "eval_a,mAP medium,75.5,0.1,paper\neval_a,mAP hard,56.4,0.1,paper\n"
        "eval_b,recall@1,67,1.5,own\n"
    )
    assert load_expected(file) == {
        "eval_a": {
            "mAP medium": Expected(75.5, 0.1, "paper"),
            "mAP hard": Expected(56.4, 0.1, "paper"),
        },
        "eval_b": {"recall@1": Expected(67.0, 1.5, "own")},
    }


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("eval_a,mAP medium,high,0.1,paper", "must be numbers"),
        ("eval_a,mAP medium,75.5", "3 cells, expected 5"),
        ("eval_a,mAP medium,75.5,0.1,rumour", "source"),
        (",mAP medium,75.5,0.1,paper", "script"),
        ("eval_a,mAP medium,nan,0.1,paper", "finite"),
        ("eval_a,mAP medium,75.5,-0.1,paper", "tolerance >= 0"),
        ("eval_a,first,75.5,0.1,paper", "twice"),
    ],
)
def test_bad_line_of_expected_values_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    file = tmp_path / "expected.csv"
    file.write_text(f"script,metric,value,tolerance,source\neval_a,first,1,0.1,own\n{line}\n")
    with pytest.raises(ValueError, match=rf"expected\.csv, line 3.*{complaint}"):
        load_expected(file)


def test_wrong_columns_of_expected_values_are_named(tmp_path: Path) -> None:
    file = tmp_path / "expected.csv"
    file.write_text("script,value\neval_a,1\n")
    with pytest.raises(ValueError, match=r"columns are .*expected"):
        load_expected(file)
    with pytest.raises(FileNotFoundError, match="expected values"):
        load_expected(tmp_path / "none.csv")
