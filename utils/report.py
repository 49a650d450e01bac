"""Self-contained HTML pages of results: of one evaluation, of all runs; comparison of two runs.

    python -m utils.report logs/                 writes logs/report.html and logs/report.md
    python -m utils.report compare RUN_A RUN_B   is B better than A beyond chance?

A page holds its images itself and asks for nothing from anywhere, so that it opens from disk and
can be sent as one file. Runs are the folders that `-F logs/<script>` makes; a comparison takes one
run, logs/<script>/<number>, or the newest one of logs/<script>.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from utils import report_page
from utils.command_line import run_command
from utils.paths import atomic_write
from utils.report_compare import compare_runs
from utils.report_images import Thumbnails, draw_matches, jpeg_uri
from utils.report_logs import make_report
from utils.report_logs_page import images_of, make_page
from utils.report_markdown import make_markdown
from utils.report_parts import (
    Hit,
    MatchPicture,
    RankedList,
    Table,
    choose_lists,
    results_table,
)
from utils.report_runs import find_runs, find_systems

__all__ = [
    "Hit",
    "MatchPicture",
    "RankedList",
    "Table",
    "draw_matches",
    "results_table",
    "write_page",
    "write_report",
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
    thumbnails.load(image for part in chosen for image in images_of(part))
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


def write_report(
    folders: Sequence[str | Path], out: str | Path | None = None, n_lists: int = 6
) -> tuple[Path, Path]:
    """Write the report of all runs below the folders; returns its HTML and its Markdown file.

    `out`: path of the HTML; None: report.html in the first folder. `n_lists`: ranked lists shown
    of each reranked run.
    """
    page = Path(out) if out is not None else Path(folders[0]) / "report.html"
    report = make_report(find_runs(folders), find_systems(), page, n_lists)
    atomic_write(page, make_page(report).encode("utf-8"))
    text = page.with_suffix(".md")
    atomic_write(text, make_markdown(report).encode("utf-8"))
    return page, text


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 with one line that says what is wrong and what to do."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m utils.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    is_comparison = argv[:1] == ["compare"]
    if is_comparison:
        parser.add_argument("compare")
        parser.add_argument("first", type=Path, metavar="RUN_A")
        parser.add_argument("second", type=Path, metavar="RUN_B")
    else:
        parser.add_argument("folders", nargs="+", type=Path, help="folders of runs, such as logs/")
        parser.add_argument("--out", type=Path, help="the HTML file (report.html in the folder)")
        parser.add_argument("--lists", type=int, default=6, help="ranked lists shown of each run")
    options = parser.parse_args(argv)

    def work() -> str:
        if is_comparison:
            return compare_runs(options.first, options.second) + "\n"
        written = write_report(options.folders, options.out, options.lists)
        return "".join(f"{path}\n" for path in written)

    return run_command("utils.report", work)


if __name__ == "__main__":
    raise SystemExit(main())
