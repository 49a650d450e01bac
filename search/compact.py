"""Bytes per image against mAP: kinds of numbers x local features per image, table and plot.

    python -m search.compact [--set data/mini_landmarks] [--stores sift | vitgal=FILE ...]

The descriptors of the set are made once and re-coded: float32, float16, int8 and one bit per
number, each with the best 25, 50, 100 and 200 local features of an image. Global descriptors are
kept in the same kind. Bytes are those of the files, names of images and mark included.
"""

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from search.codec import KINDS
from search.combinations import Named, make_rerankers, parse_named
from search.measuring import Measured, build_store, measure, select
from search.photographs import Photograph, load_revisited_set
from search.rerankers import Reranker
from search.store import Store, copy_store
from utils.command_line import LOG_FORMAT, run_command
from utils.paths import REPO_ROOT, atomic_path, atomic_write
from utils.revisited import GroundTruth

LOCALS = (25, 50, 100, 200)
MARKERS = {"float32": "o", "float16": "s", "int8": "^", "1bit": "D"}  # readable in greyscale
logger = logging.getLogger("search.compact")


class Point(NamedTuple):
    """One compact store with one way to rank it."""

    kind: str
    locals: int
    bytes: float  # per image
    method: str
    found: Measured


def study(
    store: Store, queries: list[Photograph], gallery: list[Photograph], gnd: GroundTruth,
    rerankers: Sequence[Reranker], locals_: Sequence[int], top_k: int,
) -> Iterator[Point]:  # fmt: skip
    """Each kind with each number of locals, globally and with each reranker that fits."""
    photos = [*gallery, *queries]
    known: dict[tuple[str, str, int], Measured] = {}  # by what a reranker really reads
    for kind in KINDS:
        for count in locals_:
            with tempfile.TemporaryDirectory() as folder:
                compact = copy_store(store, Path(folder) / "store", photos, kind, count)
                sets = select(compact, queries, gallery, gnd)
                size = sum(compact.count_bytes().values()) / len(compact)
                yield Point(kind, count, size, "global", measure(sets))
                for reranker in rerankers:
                    # levels of one bit are learned from all local features that are kept
                    read = count if kind == "1bit" else min(count, reranker.max_locals or count)
                    key = kind, reranker.title, read
                    if key not in known:
                        known[key] = measure(sets, reranker, top_k=top_k, progress=False)
                    yield Point(kind, count, size, reranker.title, known[key])


def format_table(points: Sequence[Point]) -> str:
    """Markdown: a line per store, a column of mAP medium / hard per method."""
    methods = list(dict.fromkeys(point.method for point in points))
    stores = list(dict.fromkeys((point.kind, point.locals, point.bytes) for point in points))
    cells = {
        (
            point.kind,
            point.locals,
            point.method,
        ): f"{point.found.medium:.2f} / {point.found.hard:.2f}"
        for point in points
    }
    lines = [
        f"| kind | locals | bytes an image | {' | '.join(methods)} |",
        f"| --- | ---: | ---: | {' | '.join('---' for _ in methods)} |",
    ]
    for kind, count, size in stores:
        shown = " | ".join(cells.get((kind, count, method), "-") for method in methods)
        lines.append(f"| {kind} | {count} | {size:,.0f} | {shown} |")
    return "\n".join(lines) + "\n"


def draw(path: Path, points: Sequence[Point]) -> Path:
    """mAP medium against bytes per image, a panel per reranker, a line per kind."""
    from matplotlib.figure import Figure  # no window is needed

    methods = list(dict.fromkeys(p.method for p in points if p.method != "global")) or ["global"]
    figure = Figure(figsize=(4.6 * len(methods), 3.6), layout="constrained")
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, method in zip(panels, methods, strict=True):
        for kind, marker in MARKERS.items():
            line = [p for p in points if p.kind == kind and p.method == method]
            xs, ys = [p.bytes for p in line], [p.found.medium for p in line]
            axes.plot(xs, ys, marker=marker, label=kind)
            if kind == KINDS[0]:
                for p in line:
                    axes.annotate(
                        f"{p.locals}", (p.bytes, p.found.medium), xytext=(0, 6),
                        textcoords="offset points", fontsize=7, ha="center",
                    )  # fmt: skip
        axes.set_xscale("log")
        axes.margins(y=0.09)
        axes.set_title(method, fontsize=9)
        axes.set_xlabel("bytes an image (numbers: local features)")
        axes.grid(alpha=0.3, which="both")
    panels[0].set_ylabel("mAP medium, %")
    panels[-1].legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
    return path


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m search.compact", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--set", type=Path, default=REPO_ROOT / "data/mini_landmarks",
        help="folder with jpg/ and gnd_*.pkl (data/mini_landmarks)")  # fmt: skip
    add("--stores", nargs="+", type=parse_named, default=[Named("sift", None)])
    add("--rerankers", nargs="+", type=parse_named,
        default=[Named("geometric", None), Named("rrt", None)])  # fmt: skip
    add("--locals", nargs="+", type=int, default=list(LOCALS), help="local features of an image")
    add("--top-k", type=int, default=100, help="images reranked per query (100)")
    add("--out", type=Path, default=REPO_ROOT / "logs/search_compact",
        help="descriptors, compact_<store>.md and .png (logs/search_compact)")  # fmt: skip
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> str:
    """Measures, draws, writes; returns the tables."""
    places = load_revisited_set(options.set)
    texts = []
    for name, path in options.stores:
        most = max(options.locals)
        weights, delg_dir = (None, path) if name == "delg-files" else (path, None)
        store, queries, gallery = build_store(
            options.out / f"{name}_{most}", name, places, weights, most, delg_dir
        )
        rerankers, refused = make_rerankers(name, options.rerankers, weights)
        for reason in refused:
            logger.warning("left out: %s", reason)
        points = []
        for point in study(
            store, queries, gallery, places.gnd, rerankers, options.locals, options.top_k
        ):
            logger.info("%s", point)
            points.append(point)
        texts.append(format_table(points))
        atomic_write(options.out / f"compact_{name}.md", texts[-1].encode("utf-8"))
        draw(options.out / f"compact_{name}.png", points)
    return "\n".join(texts)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one line that says what is wrong."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    options = parse(argv)
    return run_command("compact", lambda: f"\n{run(options)}")


if __name__ == "__main__":
    raise SystemExit(main())
