"""The report of all runs as one Markdown file: tables, curves as blocks, ranked lists as names."""

from collections.abc import Sequence

from utils.report_curves import number, sort_curves, sparkline
from utils.report_logs import Report, RunPart
from utils.report_logs_page import NOTES
from utils.report_page import KINDS
from utils.report_parts import Hit, Link, RankedList, Table

SHOWN = 5  # images of a list


def make_markdown(report: Report, title: str = "Results") -> str:
    """The document; links to configs are relative to where it lies."""
    lines = [f"# {title}", "", *NOTES, ""]
    lines += [f"- {name}: {value}" for name, value in report.facts.items()]
    for table in report.tables:
        lines += ["", f"## {escape(table.title)}", "", *table_lines(table)]
        lines += ["", escape(table.note)] if table.note else []
    if report.trainings:
        lines += ["", "## Training curves"]
    for run, curves, config in report.trainings:
        lines += ["", f"### {escape(run.name)}", "", f"{run.status.lower()}, {cell(config)}", ""]
        cells = [
            [curve.name, number(curve.values[0]), number(curve.values[-1]),
             number(min(curve.values)), number(max(curve.values)), sparkline(curve)]
            for curve in sort_curves(curves)
        ]  # fmt: skip
        header = ("scalar", "first", "last", "lowest", "highest", "course")
        lines += table_lines(Table("", header, cells))
    for part in report.parts:
        lines += ["", f"## {escape(part.run.script)}: what reranking changed", "", *_part(part)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text without a sign that Markdown takes for markup within a line or a table."""
    for sign in ("\\", "|", "<", "*", "[", "]"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")


def cell(content: str | Link) -> str:
    """A cell: text, or a link."""
    if isinstance(content, Link):
        return f"[{escape(content.text)}]({content.target.replace(' ', '%20')})"
    return escape(content)


def table_lines(table: Table) -> list[str]:
    """A Markdown table; columns that no line fills are left out."""
    filled = [
        c
        for c in range(len(table.header))
        if any(not isinstance(line[c], str) or line[c] for line in table.cells)
    ]
    lines = [[table.header[c] for c in filled], ["---"] * len(filled)]
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return rows + [f"| {' | '.join(cell(line[c]) for c in filled)} |" for line in table.cells]


def _part(part: RunPart) -> list[str]:
    changes = sorted(part.changes, key=lambda pair: -pair[1])
    up, down = (sum(change * sign > 0 for _, change in changes) for sign in (1, -1))
    lines = [
        f"{part.metric} by query, reranked minus global: {up} queries gained, {down} lost, "
        f"{len(changes) - up - down} stayed. {cell(part.config)}",
        "",
        *_changes("Most improved", changes[:5]),
        *_changes("Most worsened", changes[::-1][:5]),
    ]
    for section in part.sections:
        for entry in section.lists:
            lines += [
                "",
                f"**{escape(entry.name)}**, {section.title}{_ap(entry, part.ap_name)}",
                "",
            ]
            lines += [f"- before: {_hits(entry.before)}", f"- after: {_hits(entry.after)}"]
    return lines


def _changes(title: str, changes: Sequence[tuple[str, float]]) -> list[str]:
    listed = ", ".join(f"{escape(name)} {change:+.1f}" for name, change in changes)
    return [f"- {title}: {listed}"]


def _ap(entry: RankedList, ap_name: str) -> str:
    if entry.change is None or entry.ap_before is None or entry.ap_after is None:
        return ""
    return f": {ap_name} {100 * entry.ap_before:.1f} to {100 * entry.ap_after:.1f}"


def _hits(hits: Sequence[Hit]) -> str:
    """Names of the first images with the signs of their labels."""
    return ", ".join(f"{KINDS[hit.label][1]} {escape(hit.name)}".strip() for hit in hits[:SHOWN])
