"""One self-contained HTML page of results: tables, ranked lists before and after, match pictures.

The page holds its images itself and asks for nothing from anywhere, so that it opens from disk and
can be sent as one file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from utils import report_page
from utils.paths import atomic_write
from utils.report_images import Thumbnails, draw_matches, jpeg_uri
from utils.report_parts import (
    Hit,
    MatchPicture,
    RankedList,
    Section,
    Table,
    choose_lists,
    results_table,
)

__all__ = [
    "Hit",
    "MatchPicture",
    "RankedList",
    "Table",
    "draw_matches",
    "results_table",
    "write_page",
]


def write_page(
    path: str | Path,
    title: str,
    facts: Mapping[str, object],
    tables: Sequence[Table] = (),
    lists: Sequence[RankedList] = (),
    matches: Sequence[MatchPicture] = (),
    *,
    notes: Sequence[str] = (),
    ap_name: str = "AP",
    n_lists: int = 12,
    seed: int = 0,
) -> Path:
    """Writes the page and returns its path.

    `facts`: what was run (set, protocol, versions, device, wall time), shown in this order.
    `lists`: all queries; a chart shows the change of AP of each, and `n_lists` of them are shown as
    pictures: most improved, most worsened, some drawn at random with `seed`. A file that cannot be
    read as an image becomes a tile with its name. `ap_name`: the protocol of the APs, "AP (Hard)".
    About 0.3 MB a list: 12 lists make a page of 4 MB.
    """
    chosen = choose_lists(lists, n_lists, seed)
    thumbnails = Thumbnails()
    thumbnails.load(_images_of(chosen))
    body = [report_page.table(part, f"table-{k}") for k, part in enumerate(tables)]
    body.append(report_page.change_chart(lists, ap_name))
    body.append(report_page.sections(chosen, thumbnails, ap_name))
    body.append(report_page.figures("Strongest matches", [_figure(part) for part in matches]))
    document = report_page.page(title, notes, facts, "\n".join(part for part in body if part))
    atomic_write(path, document.encode("utf-8"))
    return Path(path)


def _figure(part: MatchPicture) -> str:
    uri = jpeg_uri(Image.fromarray(part.image))
    return report_page.figure(part.title, uri, part.caption)


def _images_of(parts: Sequence[Section]) -> list[tuple[str | Path, Sequence[float] | None]]:
    images: list[tuple[str | Path, Sequence[float] | None]] = []
    for entry in (entry for part in parts for entry in part.lists):
        images.append((entry.query_path, entry.query_box))
        shown = (*entry.before[: report_page.SHOWN], *entry.after[: report_page.SHOWN])
        images.extend((hit.path, None) for hit in shown)
    return images
