"""HTML of a results page: pure functions from parts to text; every text from outside is escaped."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from utils.report_images import Thumbnails
from utils.report_parts import Hit, Link, RankedList, Section, Table

SHOWN = 10  # images of a ranked list
SHORT = 8  # letters of a cell that shares a line with another on a narrow screen

# label -> (class of the tile, sign, word); class and sign tell the kinds apart without colour
KINDS = {
    "easy": ("positive", "\N{CHECK MARK}", "easy"),
    "hard": ("positive", "\N{CHECK MARK}", "hard"),
    "negative": ("negative", "\N{MULTIPLICATION X}", "wrong"),
    "junk": ("junk", "\N{EN DASH}", "junk"),
    None: ("neutral", "", ""),
}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
{notes}
{facts}
{links}
</header>
{body}
</main>
</body>
</html>
"""


def page(title: str, notes: Sequence[str], facts: Mapping[str, object], body: str) -> str:
    """The whole document, with a link to each section; `body` is HTML, everything else text."""
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    paragraphs = "\n".join(f"<p>{escape(note)}</p>" for note in notes)
    headings = re.findall(r'<h2 id="([a-z0-9-]+)">(.*?)</h2>', body)
    links = "\n".join(f'<a href="#{name}">{text}</a>' for name, text in headings)
    return PAGE.format(
        title=escape(title),
        style=style,
        notes=paragraphs,
        facts=_facts(facts),
        links=f"<nav>\n{links}\n</nav>" if len(headings) > 1 else "",
        body=body,
    )


def _facts(facts: Mapping[str, object]) -> str:
    entries = "\n".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">\n{entries}\n</dl>' if facts else ""


def section(anchor: str, title: str, body: str) -> str:
    """`body`, which is HTML, under a heading that can be linked to."""
    return f'<section>\n<h2 id="{anchor}">{escape(title)}</h2>\n{body}\n</section>'


def table(part: Table, anchor: str) -> str:
    """A table under its heading, with its note below."""
    note = f'<p class="note">{escape(part.note)}</p>' if part.note else ""
    return section(anchor, part.title, f"{bare_table(part)}\n{note}")


def bare_table(part: Table) -> str:
    """The table alone; on a narrow screen each line becomes a small list of name and value."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in part.header)
    lines = []
    for cells in part.cells:
        tds = "".join(_cell(name, cell) for name, cell in zip(part.header, cells, strict=True))
        lines.append(f"<tr>{tds}</tr>")
    rows = "\n".join(lines)
    body = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    if not part.folded:
        return body
    return f"<details><summary>Show the table</summary>\n{body}\n</details>"


def _cell(name: str, cell: str | Link) -> str:
    text = cell if isinstance(cell, str) else cell.text
    shown = escape(text)
    if isinstance(cell, Link):
        shown = f'<a href="{escape(cell.target)}">{shown}</a>'
    # one child beside the name that the narrow form puts in front
    return f'<td data-name="{escape(name)}"{_cell_class(text)}><span>{shown}</span></td>'


def _cell_class(text: str) -> str:
    if not text:
        return ' class="empty"'
    if text == "OUTSIDE":
        return ' class="outside"'
    if re.fullmatch(r"[<+-]?[\d.,]+( to [+-]?[\d.,]+)?( %)?", text):
        return ' class="number long"' if len(text) > SHORT else ' class="number"'
    return ' class="short"' if len(text) <= SHORT else ""


def figure(title: str, uri: str, caption: str) -> str:
    """A wide picture with its heading and caption."""
    text = f"<p>{escape(caption)}</p>" if caption else ""
    return (
        f'<figure class="wide">\n<img src="{uri}" alt="{escape(title)}">\n'
        f"<figcaption><strong>{escape(title)}</strong>{text}</figcaption>\n</figure>"
    )


def figures(title: str, pictures: Sequence[str]) -> str:
    """Wide pictures under a heading; nothing without any."""
    return section("figures", title, "\n".join(pictures)) if pictures else ""


LEGEND = """<p class="legend">
<span class="key positive"><b>\N{CHECK MARK}</b> positive (easy or hard)</span>
<span class="key negative"><b>\N{MULTIPLICATION X}</b> negative (wrong)</span>
<span class="key junk"><b>\N{EN DASH}</b> junk, not counted</span>
<span class="key asked">query, with its box</span>
</p>"""


def legend_of(parts: Sequence[Section]) -> str:
    """The legend of labels, where a list has one."""
    hits = (hit for part in parts for entry in part.lists for hit in (*entry.before, *entry.after))
    return LEGEND if any(hit.label is not None for hit in hits) else ""


def sections(
    parts: Sequence[Section], thumbnails: Thumbnails, ap_name: str, anchor: str = "lists"
) -> str:
    """Ranked lists under their headings, with a legend when there are labels."""
    legend = legend_of(parts)
    blocks = []
    for k, part in enumerate(parts):
        lists = "\n".join(ranked_list(entry, thumbnails, ap_name) for entry in part.lists)
        blocks.append(section(f"{anchor}-{k}", part.title, f"{legend}\n{lists}"))
        legend = ""
    return "\n".join(blocks)


def ranked_list(entry: RankedList, thumbnails: Thumbnails, ap_name: str) -> str:
    """One query: its picture, the first ten before and the first ten after reranking."""
    alt = f"query {entry.name}" + (" with its box" if entry.query_box is not None else "")
    query = _picture(thumbnails.uri(entry.query_path, entry.query_box), entry.query_path, alt)
    came_from = {hit.name: rank for rank, hit in enumerate(entry.before, 1)}
    rows = _row("Before reranking" if entry.after else "Ranking", entry.before, {}, thumbnails)
    if entry.after:
        rows += "\n" + _row("After reranking", entry.after, came_from, thumbnails)
    return (
        f'<article>\n<h3><span class="name">{escape(entry.name)}</span>{_ap(entry, ap_name)}</h3>\n'
        f'<div class="block">\n<div class="asked">{query}</div>\n<div class="rows">{rows}</div>\n'
        "</div>\n</article>"
    )


def _ap(entry: RankedList, ap_name: str) -> str:
    if entry.change is None or entry.ap_before is None or entry.ap_after is None:
        return ""
    before, after = f"{100 * entry.ap_before:.1f}", f"{100 * entry.ap_after:.1f}"
    return (
        f' <span class="ap">{escape(ap_name)} {before} \N{RIGHTWARDS ARROW} <b>{after}</b>'
        f" ({100 * entry.change:+.1f})</span>"
    )


def _row(title: str, hits: Sequence[Hit], came_from: Mapping[str, int], thumbs: Thumbnails) -> str:
    tiles = "\n".join(
        _tile(rank, hit, came_from.get(hit.name), title, thumbs)
        for rank, hit in enumerate(hits[:SHOWN], 1)
    )
    return f'<h4>{title}</h4>\n<div class="tiles">\n{tiles}\n</div>'


def _tile(rank: int, hit: Hit, came_from: int | None, row: str, thumbnails: Thumbnails) -> str:
    kind, sign, word = KINDS[hit.label]
    alt = f"{row}, rank {rank}: {hit.name}" + (f", {hit.label}" if hit.label else "")
    tip = hit.name + ("" if hit.score is None else f", score {hit.score:.3f}")
    moved = "" if came_from in (None, rank) else f"<br>was {came_from}"
    badge = f'<span class="sign">{sign}</span>' if sign else ""
    text = word if hit.label else escape(hit.name)
    picture = _picture(thumbnails.uri(hit.path), hit.path, alt)
    return (
        f'<figure class="tile {kind}" title="{escape(tip)}">'
        f'<div class="frame">{picture}{badge}</div>'
        f"<figcaption><b>{rank}</b> {text}{moved}</figcaption></figure>"
    )


def _picture(uri: str | None, path: str | Path, alt: str) -> str:
    if uri is None:
        return f'<span class="broken">{escape(Path(path).name)}<br>cannot be read</span>'
    return f'<img src="{uri}" alt="{escape(alt)}" loading="lazy">'


CHART_WIDTH, CHART_HEIGHT = 1000, 200  # in units of the drawing, which is stretched to fit


MOST_BARS = 500  # of a chart; with more queries each bar stands for several


def change_chart(lists: Sequence[RankedList], ap_name: str) -> str:
    """Change of AP of every query as bars, most improved first; nothing without AP."""
    known = [(entry.name, entry.change) for entry in lists if entry.change is not None]
    if not known:
        return ""
    body = change_bars([(name, 100 * change) for name, change in known])
    return section("change", f"Change of {ap_name} by query", body)


def change_bars(known: Sequence[tuple[str, float]]) -> str:
    """A sentence that counts gains and losses, and one bar a query, most improved first.

    `known`: name and change in points. More than 500 queries are thinned out evenly.
    """
    known = sorted(known, key=lambda pair: -pair[1])
    up, down = (sum(change * sign > 0 for _, change in known) for sign in (1, -1))
    summary = f"{up} queries gained, {down} lost, {len(known) - up - down} stayed"
    count = min(len(known), MOST_BARS)
    shown = [known[k * (len(known) - 1) // max(1, count - 1)] for k in range(count)]
    each = "one bar a query" if count == len(known) else f"{count} bars for {len(known)} queries"
    changes = [change for _, change in shown]
    top, low = max(1.0, changes[0]), min(0.0, changes[-1])
    step, scale = CHART_WIDTH / count, CHART_HEIGHT / (top - low)
    zero = top * scale
    bars = []
    for k, (name, change) in enumerate(shown):
        kind = "up" if change > 0 else "down"
        x, y = (k + 0.1) * step, zero - max(change, 0) * scale
        size = f'width="{0.8 * step:.1f}" height="{max(abs(change) * scale, 0.8):.1f}"'
        tip = escape(f"{name}: {change:+.1f}")
        bars.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {size}><title>{tip}</title></rect>'
        )
    axis = f'<line x1="0" x2="{CHART_WIDTH}" y1="{zero:.1f}" y2="{zero:.1f}"/>'
    numbers = f"<span>{changes[0]:+.1f}</span><span>{changes[-1]:+.1f}</span>"
    return (
        f'<p>{summary} (in points, {each}).</p>\n<div class="chart">'
        f'<div class="numbers">{numbers}</div><svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" '
        f'preserveAspectRatio="none" role="img" aria-label="{summary}">{"".join(bars)}{axis}</svg>'
        "</div>"
    )
