"""Rows of a results table: measured, expected, difference, tolerance, interval, protocol.

Numbers of a row are in the unit of the table, percent for mAP and recall (75.5, not 0.755), as are
those of a system's `expected.csv`. This module holds the one place that prints results.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from utils.text_files import read_table

OUTSIDE_TOLERANCE = 3  # exit code of a strict run whose rows do not agree with the expected values
SOURCES = ("paper", "own")  # own: measured with this code on a generated set
COLUMNS = ("script", "metric", "value", "tolerance", "source")  # of expected.csv


class Expected(NamedTuple):
    """What a script should measure: within `tolerance` of `value`, both in the table's unit."""

    value: float
    tolerance: float
    source: str


@dataclass(frozen=True)
class Row:
    """One metric of a results table; `protocol` says in words how it was measured."""

    metric: str
    measured: float
    expected: float | None = None
    tolerance: float | None = None
    protocol: str = ""
    source: str | None = None
    interval: tuple[float, float] | None = None  # 95 % bootstrap over queries

    def __post_init__(self) -> None:
        if (self.expected is None) != (self.tolerance is None):
            raise ValueError(
                f"row {self.metric!r}: give expected and tolerance together or neither"
            )
        if self.source not in (None, *SOURCES):
            raise ValueError(
                f"row {self.metric!r}: source is {self.source!r}, not one of {SOURCES}"
            )

    @property
    def difference(self) -> float | None:
        """Measured minus expected; None without an expected value."""
        return None if self.expected is None else self.measured - self.expected

    @property
    def within(self) -> bool | None:
        """Whether the difference is inside the tolerance (a NaN is not); None without expected."""
        if self.difference is None or self.tolerance is None:
            return None
        return abs(self.difference) <= self.tolerance + 1e-9


def make_rows(
    measured: Mapping[str, float],
    expected: Mapping[str, Expected],
    protocol: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> list[Row]:
    """One row per measured metric, with what is expected of it where something is."""
    absent = sorted(set(expected) - set(measured))
    if absent:
        raise ValueError(f"expected values for {absent}, but measured are {sorted(measured)}")
    rows = []
    for metric, value in measured.items():
        target, tolerance, source = expected.get(metric, (None, None, None))
        interval = (intervals or {}).get(metric)
        rows.append(Row(metric, value, target, tolerance, protocol, source, interval))
    return rows


def load_expected(path: str | Path) -> dict[str, dict[str, Expected]]:
    """`expected.csv` of a system -> {script: {metric: Expected}}; ValueError names the bad line."""
    remedy = "it holds the expected values of a system's scripts"
    table: dict[str, dict[str, Expected]] = {}
    for line, record in read_table(path, COLUMNS, remedy, exactly=True):
        where = f"{path}, line {line}"
        script, metric, source = record["script"], record["metric"], record["source"]
        try:
            entry = Expected(float(record["value"]), float(record["tolerance"]), source)
        except ValueError:
            raise ValueError(f"{where}: value and tolerance must be numbers: {record}") from None
        if not script or not metric or source not in SOURCES:
            raise ValueError(f"{where}: needs script, metric and source of {SOURCES}: {record}")
        if not math.isfinite(entry.value) or not 0 <= entry.tolerance < math.inf:
            raise ValueError(f"{where}: value and tolerance must be finite, tolerance >= 0")
        if metric in table.setdefault(script, {}):
            raise ValueError(f"{where}: {script} has {metric!r} twice")
        table[script][metric] = entry
    return table


def _bootstrap_means(values: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Means (n,) of n resamples with replacement of `values` (Q,), drawn in bounded blocks."""
    rng = np.random.default_rng(seed)
    means = np.empty(n)
    block = max(1, 4_000_000 // len(values))
    for start in range(0, n, block):
        picks = rng.integers(0, len(values), size=(min(block, n - start), len(values)))
        means[start : start + len(picks)] = values[picks].mean(axis=1)
    return means


def _percentiles(means: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a fraction between 0 and 1 (0.95)")
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    values: ArrayLike, n: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap over queries of the mean of `values` (Q,), such as one AP per query.

    A NaN marks a query without positives, which has no part in the mean. Unit as that of `values`.
    """
    per_query = np.asarray(values, dtype=np.float64)
    if per_query.ndim != 1:
        raise ValueError(f"values have shape {per_query.shape}, expected one number per query (Q,)")
    per_query = per_query[~np.isnan(per_query)]
    if len(per_query) == 0:
        raise ValueError("no query has a value: the interval of an empty mean is not defined")
    return _percentiles(_bootstrap_means(per_query, n, seed), level)


def paired_bootstrap(
    before: ArrayLike, after: ArrayLike, n: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap of the mean of `after - before`, both (Q,) over the same queries.

    An interval above 0 says that `after` is better beyond the chance of which queries were asked.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"shapes {first.shape} and {second.shape}: not the same queries")
    if (np.isnan(first) != np.isnan(second)).any():
        raise ValueError(
            "the two leave out different queries (NaN): they follow different protocols"
        )
    return bootstrap_interval(second - first, n, seed, level)


def make_intervals(values: Mapping[str, ArrayLike]) -> dict[str, tuple[float, float]]:
    """Metric -> 95 % bootstrap interval of its values (Q,); none where no query has a value."""
    known = {name: np.asarray(entry, dtype=np.float64) for name, entry in values.items()}
    return {
        name: bootstrap_interval(entry)
        for name, entry in known.items()
        if not np.isnan(entry).all()
    }


def make_gain_row(metric: str, before: ArrayLike, after: ArrayLike, protocol: str) -> Row | None:
    """What reranking adds to the mean of a metric, `<metric>_gain`, from its values (Q,).

    With the paired bootstrap interval over queries: above 0, the gain is more than the chance of
    which queries were asked. None where no query has a value.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if np.isnan(first).all() and np.isnan(second).all():
        return None
    interval = paired_bootstrap(first, second)
    gain = round(float(np.nanmean(second - first)), 2)
    return Row(f"{metric}_gain", gain, protocol=protocol, interval=interval)


def load_row(path: str | Path, script: str | None) -> dict[str, Expected]:
    """Expected values of one script; ValueError for a name that `expected.csv` does not have."""
    if script is None:
        return {}
    table = load_expected(path)
    if script not in table:
        raise ValueError(f"row is {script!r}, but {path} knows {list(table)}")
    return table[script]


def _cells(row: Row) -> list[str]:
    def number(value: float | None, form: str = ".2f") -> str:
        return "" if value is None else format(value, form)

    interval = "" if row.interval is None else f"{row.interval[0]:.1f} to {row.interval[1]:.1f}"
    verdict = {None: "", True: "ok", False: "OUTSIDE"}[row.within]
    return [
        row.metric,
        number(row.measured),
        number(row.expected),
        number(row.difference, "+.2f"),
        number(row.tolerance),
        verdict,
        interval,
        row.source or "",
        row.protocol,
    ]


HEADER = (
    "metric",
    "measured",
    "expected",
    "difference",
    "tolerance",
    "verdict",
    "95 % interval",
    "source",
    "protocol",
)


def row_cells(row: Row) -> dict[str, str]:
    """The cells of one row by the names of the header."""
    return dict(zip(HEADER, _cells(row), strict=True))


NUMERIC = frozenset({"measured", "expected", "difference", "tolerance"})


def table_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the rows as text; columns that no row fills are left out."""
    cells = [_cells(row) for row in rows]
    kept = [c for c in range(len(HEADER)) if c < 2 or any(line[c] for line in cells)]
    return [HEADER[c] for c in kept], [[line[c] for c in kept] for line in cells]


def align(
    header: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[int] | None = None
) -> str:
    """An aligned table of text; columns `numeric` (None: those with digits only) to the right."""
    lines = [header, *cells]
    widths = [max(len(line[c]) for line in lines) for c in range(len(header))]
    if numeric is None:
        numeric = [
            c
            for c in range(len(header))
            if all(not line[c].strip("+-.<0123456789") for line in cells)
        ]

    def aligned(line: Sequence[str]) -> str:
        parts = (
            text.rjust(width) if c in numeric else text.ljust(width)
            for c, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join(parts).rstrip()

    return "\n".join(
        [aligned(header), "  ".join("-" * width for width in widths), *map(aligned, cells)]
    )


def format_rows(rows: Sequence[Row]) -> str:
    """The rows as an aligned table of text."""
    header, cells = table_cells(rows)
    return align(header, cells, [c for c, name in enumerate(header) if name in NUMERIC])


def print_rows(rows: Sequence[Row], title: str | None = None) -> None:
    """Prints the table, the last thing that an evaluation shows."""
    if title:
        print(f"\n{title}")
    print(format_rows(rows), flush=True)


def row_record(row: Row) -> dict[str, Any]:
    """The row with difference and verdict, as plain values."""
    interval = None if row.interval is None else list(row.interval)
    judged = {"difference": row.difference, "within": row.within}
    return {**asdict(row), "interval": interval, **judged}


def log_rows(run: Any, rows: Sequence[Row]) -> None:
    """Stores the rows in a sacred run: each metric as a scalar, everything in `info["rows"]`."""
    for row in rows:
        run.log_scalar(row.metric, row.measured)
    run.info["rows"] = [*run.info.get("rows", []), *map(row_record, rows)]


def enforce_tolerance(rows: Sequence[Row], strict: bool) -> None:
    """Ends the process with exit code 3 when `strict` and a row is outside its tolerance.

    For entry points, after the rows are printed and logged. A strict run without any expected value
    would prove nothing: ValueError.
    """
    if not strict:
        return
    if all(row.within is None for row in rows):
        raise ValueError("strict=True, but no row has an expected value; add it to expected.csv")
    if any(row.within is False for row in rows):
        raise SystemExit(OUTSIDE_TOLERANCE)
