"""Two runs on the same queries, side by side: differences, intervals, tests."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.paired_tests import permutation_test, sign_test
from utils.result_files import StoredResult, load_result, protocol_differences
from utils.results import align, paired_bootstrap

HEADER = (
    *("metric", "A", "B", "B - A", "95 % interval", "p permutation"),
    *("gained", "lost", "equal", "p sign"),
)


@dataclass(frozen=True)
class Comparison:
    """One metric of two runs; means in the unit of the table."""

    metric: str
    first: float
    second: float
    interval: tuple[float, float]  # 95 %, of second minus first
    p_permutation: float
    gained: int
    lost: int
    equal: int
    p_sign: float


def align_queries(first: StoredResult, second: StoredResult) -> np.ndarray:
    """(Q,) place in `second` of each query of `first`; ValueError where the queries differ.

    Names with folders are compared whole where both have the same folders, else by their stem.
    """
    if first.names == second.names:
        return np.arange(len(first.names))
    names = [[Path(name).stem for name in result.names] for result in (first, second)]
    if any(len(set(part)) < len(part) for part in names):
        names = [first.names, second.names]
    if any(len(set(part)) < len(part) for part in names):
        raise ValueError(f"{first.folder} or {second.folder} names a query twice: not comparable")
    missing = [sorted(set(names[0]) - set(names[1])), sorted(set(names[1]) - set(names[0]))]
    if any(missing):
        example = (missing[0] or missing[1])[0]
        raise ValueError(
            f"{first.folder} ({len(names[0])} queries of {first.protocol['set']}) and "
            f"{second.folder} ({len(names[1])} queries of {second.protocol['set']}) measured "
            f"different queries: {len(missing[0])} only in the first, {len(missing[1])} only in "
            f"the second, such as {example}; compare two runs on one set"
        )
    place = {name: i for i, name in enumerate(names[1])}
    return np.array([place[name] for name in names[0]])


def compare_metric(metric: str, first: np.ndarray, second: np.ndarray) -> Comparison:
    """One metric from its values by query, in the same order; NaN in both: not counted."""
    counted = ~(np.isnan(first) & np.isnan(second))
    first, second = first[counted], second[counted]
    interval = paired_bootstrap(first, second)
    differences = second - first
    signs = sign_test(differences)
    return Comparison(
        metric, float(first.mean()), float(second.mean()), interval,
        permutation_test(differences), *signs,
    )  # fmt: skip


def compare(first: StoredResult, second: StoredResult) -> list[Comparison]:
    """Every metric that both runs have; ValueError when the queries differ or none is common."""
    order = align_queries(first, second)
    found = []
    for metric, values in first.values.items():
        other = second.values.get(metric)
        if other is not None and not np.isnan(values).all() and not np.isnan(other).all():
            found.append(compare_metric(metric, values, other[order]))
    if not found:
        raise ValueError(
            f"{first.folder} has {sorted(first.values)} by query, {second.folder} has "
            f"{sorted(second.values)}: no metric is common"
        )
    return found


def format_p(p: float) -> str:
    """0.034, or <0.001."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def cells_of(part: Comparison) -> list[str]:
    """The cells below HEADER."""
    low, high = part.interval
    return [
        part.metric,
        f"{part.first:.2f}",
        f"{part.second:.2f}",
        f"{part.second - part.first:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        format_p(part.p_permutation),
        str(part.gained),
        str(part.lost),
        str(part.equal),
        format_p(part.p_sign),
    ]


def describe(letter: str, result: StoredResult) -> str:
    """One line that says which run it is."""
    protocol, method = result.protocol, result.content.get("method", {})
    options = ", ".join(f"{key} {value}" for key, value in method.items() if value is not None)
    return f"{letter}: {result.folder}: {protocol['set']}, {protocol['queries']} queries, {options}"


def compare_runs(first: str | Path, second: str | Path) -> str:
    """The text that `python -m utils.report compare A B` prints.

    A run is its folder, or the folder of its script: then the newest one. FileNotFoundError or
    ValueError, with the remedy, when one has no record or they cannot be compared.
    """
    results = load_result(first), load_result(second)
    lines = [describe(letter, result) for letter, result in zip("AB", results, strict=True)]
    parts = compare(*results)
    differences = protocol_differences(results[0].protocol, results[1].protocol)
    if differences:
        lines += ["PROTOCOLS DIFFER (A / B): the numbers below do not measure the same thing"]
        lines += [f"  {text}" for text in differences]
    table = align(HEADER, [cells_of(part) for part in parts])
    note = (
        "Interval: paired bootstrap over queries. p: chance of a difference at least this large if "
        "the runs could be swapped query by query (permutation), of so uneven gains and losses "
        "(sign); per metric, not corrected for their number."
    )
    return "\n".join([*lines, "", table, "", note])
