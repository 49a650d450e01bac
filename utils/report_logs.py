"""The report of all runs below logs/: what it says, before it becomes a page or Markdown."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from utils.report_compare import align_queries, compare_metric, format_p
from utils.report_parts import Link, RankedList, Section, Table
from utils.report_runs import Curve, Run, System, choose_run, judged_rows, other_options
from utils.result_files import BEFORE, load_lists, protocol_differences
from utils.results import Row, row_cells

# the first one that a run has by query is looked at closely; beside M_map_gv, M_map is before it
MAIN = ("M_map_gv", "M_map", "AP", "R@1")
SECONDARY = ("mAP@", "mP@", "mR@")  # beside R@k and mAP
CLOSE_PAIRS = 20  # comparisons of two runs, at most
HEADER = (
    *("script", "metric", "expected", "measured", "difference", "tolerance", "verdict"),
    *("95 % interval", "source", "protocol", "run"),
)
UNKNOWN = "-"  # protocol of a run without a record


@dataclass(frozen=True)
class RunPart:
    """One reranked run, looked at closely."""

    run: Run
    metric: str
    changes: Sequence[tuple[str, float]]  # name of each query, points gained
    ap_name: str
    sections: Sequence[Section]
    config: Link


@dataclass(frozen=True)
class Report:
    """Everything that both forms show."""

    facts: Mapping[str, object]
    tables: Sequence[Table]
    trainings: Sequence[tuple[Run, Sequence[Curve], Link]]
    parts: Sequence[RunPart]


class Protocols:
    """Letters for the protocols that occur, in the order of their first use."""

    def __init__(self) -> None:
        self.known: list[Mapping[str, Any]] = []

    def letter(self, run: Run) -> str:
        """A, B, ..., AA; "-" for a run without a record."""
        if run.result is None:
            return UNKNOWN
        protocol = run.result.protocol
        for place, other in enumerate(self.known):
            if not protocol_differences(other, protocol):
                return _letters(place)
        self.known.append(protocol)
        return _letters(len(self.known) - 1)

    def table(self) -> Table:
        """What each letter stands for."""
        cells = [
            [
                _letters(place), str(entry["set"]), str(entry["queries"]), str(entry["gallery"]),
                "; ".join(f"{key}: {entry.get(key)}" for key in ("crop", "scales", "junk", "ties")),
            ]
            for place, entry in enumerate(self.known)
        ]  # fmt: skip
        header = ("protocol", "set", "queries", "gallery", "how it was measured")
        return Table("Protocols", header, cells, "Numbers of two protocols are not comparable.")

    def statement(self, letters: Sequence[str]) -> str:
        """A sentence for a table whose rows follow several protocols; empty for one."""
        used = sorted(set(letters))
        if used == [UNKNOWN]:
            return f"Protocol {UNKNOWN}: runs of before there were records."
        if len(used) < 2:
            return ""
        named = [letter for letter in used if letter != UNKNOWN]
        differing: dict[str, None] = {}
        for one, two in combinations(named, 2):
            entries = (self.known[_place(letter)] for letter in (one, two))
            for text in protocol_differences(*entries):
                differing.setdefault(text.partition(":")[0])
        parts = [f"they differ in {', '.join(differing)}"] if differing else []
        if UNKNOWN in used:
            parts.append(f"of {UNKNOWN} nothing is recorded")
        return (
            f"Rows of protocols {', '.join(used)} do not measure the same thing: "
            f"{'; '.join(parts)}. Compare within a protocol."
        )


def _letters(place: int) -> str:
    head, last = divmod(place, 26)
    return (_letters(head - 1) if head else "") + chr(ord("A") + last)


def _place(letter: str) -> int:
    place = 0
    for sign in letter:
        place = 26 * place + ord(sign) - ord("A") + 1
    return place - 1


def link_to(path: Path, out: Path, text: str) -> Link:
    """A link from the page `out` to a file, relative so that the two can move together."""
    return Link(text, Path(os.path.relpath(path.resolve(), out.resolve().parent)).as_posix())


def make_report(runs: Sequence[Run], systems: Sequence[System], out: Path, n_lists: int) -> Report:
    """Sort the runs into tables, curves and closer looks; `out`: where the page will lie."""
    by_script: dict[str, list[Run]] = {}
    for run in runs:
        by_script.setdefault(run.script, []).append(run)
    paths = {script: path for system in systems for script, path in system.scripts.items()}
    chosen = {
        script: choose_run(found, paths.get(script, Path(script)))
        for script, found in by_script.items()
    }
    standing = {script: run for script, run in chosen.items() if run is not None}
    protocols = Protocols()
    judged = [_system_table(system, standing, protocols, out) for system in systems]
    tables = [
        *(table for table, _ in judged),
        _comparisons(list(standing.values())),
        protocols.table(),
        _absent_table(systems, standing),
        _other_runs(runs, standing, set(paths), out),
    ]
    verdicts = [row.within for _, rows in judged for row in rows]
    facts = {
        "runs": len(runs),
        "rows with an expected value": sum(verdict is not None for verdict in verdicts),
        "outside their tolerance": verdicts.count(False),
        "newest run": max((run.started for run in runs), default=""),
    }
    parts = [look_closely(run, out, n_lists) for run in standing.values()]
    return Report(
        facts,
        [table for table in tables if table.cells],
        _trainings(by_script, out),
        [part for part in parts if part is not None],
    )


def _system_table(
    system: System, standing: Mapping[str, Run], protocols: Protocols, out: Path
) -> tuple[Table, list[Row]]:
    """Measured rows of a system against its expected values."""
    cells: list[list[str | Link]] = []
    all_rows: list[Row] = []
    letters, notes = [], []
    for script, path in system.scripts.items():
        run = standing.get(script)
        if run is None:
            continue
        letter = protocols.letter(run)
        letters.append(letter)
        options = other_options(run, path)
        notes += [f"{run.name} is unlike its script: {' '.join(options)}."] if options else []
        rows = judged_rows(run, system.expected.get(script, {}))
        all_rows += rows
        config = link_to(run.folder / "config.json", out, f"run {run.number}")
        for row in filter(_is_shown, rows):
            cells.append([link_to(path, out, script), *_row_cells(row), letter, config])
    left_out = sum(not _is_shown(row) for row in all_rows)
    if left_out:
        names = ", ".join(f"{name}k" for name in SECONDARY)
        notes.append(f"{left_out} more values ({names}) are in the result.json of the runs.")
    note = " ".join(part for part in (protocols.statement(letters), *notes) if part)
    return Table(system.name, HEADER, cells, note), all_rows


def _is_shown(row: Row) -> bool:
    """Rows of secondary metrics are in result.json; the table shows them if a paper does."""
    return row.expected is not None or not any(name in row.metric for name in SECONDARY)


def _row_cells(row: Row) -> list[str]:
    """metric, expected, measured, difference, tolerance, verdict, interval, source."""
    shown = row_cells(row)
    order = ("metric", "expected", "measured", "difference", "tolerance", "verdict")
    return [shown[name] for name in (*order, "95 % interval", "source")]


def _absent_table(systems: Sequence[System], standing: Mapping[str, Run]) -> Table:
    """Rows with an expected value that no run measured."""
    cells = []
    for system in systems:
        for script, entries in system.expected.items():
            if script not in standing:
                values = ", ".join(f"{metric} {entry.value:g}" for metric, entry in entries.items())
                source = next(iter(entries.values())).source
                cells.append([system.name, script, values, source])
    header = ("system", "script", "expected", "source")
    return Table(f"Not run here: {len(cells)} scripts", header, cells, folded=True)


def _other_runs(
    runs: Sequence[Run], standing: Mapping[str, Run], known: set[str], out: Path
) -> Table:
    """Measured runs that stand for no row: older ones, other options, other scripts."""
    cells: list[list[str | Link]] = []
    for run in runs:
        if not run.rows or (run.script in known and standing.get(run.script) is run):
            continue
        values = ", ".join(f"{row.metric} {row.measured:.2f}" for row in run.rows[:6])
        protocol = run.rows[0].protocol
        config = link_to(run.folder / "config.json", out, "config")
        cells.append([run.name, run.started, run.status.lower(), values, protocol, config])
    header = ("run", "started", "status", "measured", "protocol", "config")
    note = "Earlier runs of a script, runs with other options, and runs of no table's script."
    return Table("Other runs", header, cells, note)


def _main_metric(run: Run) -> str | None:
    values = {} if run.result is None else run.result.values
    return next((name for name in MAIN if name in values), None)


def _comparisons(runs: Sequence[Run]) -> Table:
    """Pairs of runs on the same queries, by the main metric that both have."""
    cells: list[list[str]] = []
    for first, second in combinations([run for run in runs if run.result is not None], 2):
        assert first.result is not None
        assert second.result is not None
        if first.result.protocol["query_names"] != second.result.protocol["query_names"]:
            continue
        common = [m for m in MAIN if m in first.result.values and m in second.result.values]
        if not common or len(cells) == CLOSE_PAIRS:
            continue
        order = align_queries(first.result, second.result)
        values = first.result.values[common[0]], second.result.values[common[0]][order]
        if any(np.isnan(part).all() for part in values):
            continue
        part = compare_metric(common[0], *values)
        differing = protocol_differences(first.result.protocol, second.result.protocol)
        same = (
            "same"
            if not differing
            else "DIFFER: " + ", ".join(text.partition(":")[0] for text in differing)
        )
        cells.append([
            first.script, second.script, part.metric, f"{part.second - part.first:+.2f}",
            f"{part.interval[0]:+.1f} to {part.interval[1]:+.1f}", format_p(part.p_permutation),
            f"{part.gained} / {part.lost} / {part.equal}", same,
        ])  # fmt: skip
    header = (
        *("A", "B", "metric", "B - A", "95 % interval", "p", "gained / lost / equal", "protocols"),
    )
    note = (
        "Paired over queries: bootstrap interval of the difference, permutation test. An interval "
        "without 0: more than the chance of which queries were asked. "
        "python -m utils.report compare A B shows all metrics of two runs."
    )
    return Table("Runs on the same queries", header, cells, note)


def _trainings(
    by_script: Mapping[str, Sequence[Run]], out: Path
) -> list[tuple[Run, list[Curve], Link]]:
    """The newest training of each script that logged a curve."""
    found = []
    for runs in by_script.values():
        trained = [run for run in runs if run.trained]
        if trained:
            run = trained[-1]
            found.append(
                (run, run.trained, link_to(run.folder / "config.json", out, "config.json"))
            )
    return found


def look_closely(run: Run, out: Path, n_lists: int) -> RunPart | None:
    """Change of each query and the most changed lists; None where nothing was reranked."""
    metric = _main_metric(run)
    if run.result is None or metric is None or f"{metric}{BEFORE}" not in run.result.values:
        return None
    before, after = run.result.values[f"{metric}{BEFORE}"], run.result.values[metric]
    changes = [
        (Path(name).stem, float(change))
        for name, change in zip(run.result.names, after - before, strict=True)
        if not np.isnan(change)
    ]
    ap_name, lists = load_lists(run.folder)
    config = link_to(run.folder / "config.json", out, "config.json")
    return RunPart(run, metric, changes, ap_name, _most_changed(lists, n_lists), config)


def _most_changed(lists: Sequence[RankedList], n: int) -> list[Section]:
    """The most improved and the most worsened of the stored lists, n in all."""
    known = sorted(
        (entry for entry in lists if entry.change), key=lambda entry: -(entry.change or 0.0)
    )
    best = [entry for entry in known if (entry.change or 0) > 0][: max(1, n - n // 2)]
    worst = [entry for entry in reversed(known) if (entry.change or 0) < 0][: max(1, n // 2)]
    titled = (("most improved", best), ("most worsened", worst))
    return [Section(title, entries) for title, entries in titled if entries and n]
