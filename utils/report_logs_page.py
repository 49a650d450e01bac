"""The report of all runs as one HTML page, which holds its pictures itself."""

from pathlib import Path

from PIL import Image

from utils import report_page
from utils.report_curves import chart, sort_curves
from utils.report_images import Thumbnails, jpeg_uri
from utils.report_logs import Report, RunPart
from utils.report_parts import Link, Section

NOTES = (
    "Every row of every results table that was run here, against what the paper prints (source "
    "paper) or what this code measured on generated data (source own). OUTSIDE: the difference is "
    "larger than the tolerance.",
    "Intervals are percentile bootstraps over queries, 95 %. Protocol: a letter for what was asked "
    "and what counted, explained below; numbers of two letters do not measure the same thing.",
)


def make_page(report: Report, title: str = "Results") -> str:
    """The document; links to configs are relative, everything else is inside."""
    thumbnails = Thumbnails()
    thumbnails.load(
        image for part in report.parts for section in part.sections for image in images_of(section)
    )
    body = [report_page.table(part, f"table-{k}") for k, part in enumerate(report.tables)]
    body.append(_trainings(report))
    body += [_part(part, f"run-{k}", thumbnails) for k, part in enumerate(report.parts)]
    return report_page.page(title, NOTES, report.facts, "\n".join(part for part in body if part))


def images_of(section: Section) -> list[tuple[str | Path, list[float] | None]]:
    """Photographs that the lists of a section show, with the box of a query."""
    images: list[tuple[str | Path, list[float] | None]] = []
    for entry in section.lists:
        box = None if entry.query_box is None else list(entry.query_box)
        images.append((entry.query_path, box))
        hits = (*entry.before[: report_page.SHOWN], *entry.after[: report_page.SHOWN])
        images.extend((hit.path, None) for hit in hits)
    return images


def _link(link: Link) -> str:
    return f'<a href="{report_page.escape(link.target)}">{report_page.escape(link.text)}</a>'


def _trainings(report: Report) -> str:
    """Charts of each training, under one heading."""
    blocks = []
    for run, curves, config in report.trainings:
        charts = "\n".join(chart(curve) for curve in sort_curves(curves))
        name = report_page.escape(run.name)
        blocks.append(
            f'<article>\n<h3><span class="name">{name}</span> <span class="ap">'
            f"{report_page.escape(run.status.lower())}, {_link(config)}</span></h3>\n"
            f'<div class="curves">\n{charts}\n</div>\n</article>'
        )
    return report_page.section("training", "Training curves", "\n".join(blocks)) if blocks else ""


def _part(part: RunPart, anchor: str, thumbnails: Thumbnails) -> str:
    """Change of every query, the lists that changed most, matches where the run drew some."""
    body = [f'<p class="note">{part.metric} by query, reranked minus global. {_link(part.config)}'
            "</p>"]  # fmt: skip
    body.append(report_page.change_bars(part.changes) if part.changes else "")
    legend = report_page.legend_of(part.sections)
    for section in part.sections:
        lists = "\n".join(
            report_page.ranked_list(entry, thumbnails, part.ap_name) for entry in section.lists
        )
        heading = f'<h3 class="sub">Queries {report_page.escape(section.title)}</h3>'
        body.append(f"{heading}\n{legend}\n{lists}")
        legend = ""
    assert part.run.result is not None
    matches = part.run.result.content.get("matches", [])
    body += ['<h3 class="sub">Matches</h3>'] if matches else []
    for match in matches:
        with Image.open(part.run.folder / match["file"]) as image:
            uri = jpeg_uri(image.convert("RGB"))
        body.append(report_page.figure(match["title"], uri, match["caption"]))
    return report_page.section(
        anchor, f"{part.run.script}: what reranking changed", "\n".join(body)
    )
