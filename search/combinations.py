"""Every store with every way to rank and to rerank it, as a Markdown table.

    python -m search.combinations [--set data/mini_landmarks] [--stores sift vitgal=FILE ...]

A store is named as in `python -m search`, with its weights behind `=` (the folder of the files, for
delg-files). Combinations whose shapes do not fit are left blank and named below the table.
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from search import baselines
from search.measuring import Measured, Sets, build_store, measure, select
from search.photographs import load_revisited_set
from search.rerankers import Reranker, make_reranker
from utils.command_line import LOG_FORMAT, run_command
from utils.paths import REPO_ROOT, atomic_write

HEADER = ("store", "ranking", "reranked by", "mAP medium", "mAP hard", "time")
logger = logging.getLogger("search.combinations")


class Named(NamedTuple):
    """A name with a path behind `=`."""

    name: str
    path: Path | None


def parse_named(text: str) -> Named:
    """`vitgal=FILE` -> vitgal, FILE; `sift` -> sift, None."""
    name, _, path = text.partition("=")
    return Named(name, Path(path) if path else None)


def make_rerankers(
    store: str, wanted: Sequence[Named], own: Path | None
) -> tuple[list[Reranker], list[str]]:
    """The rerankers for a store, and why others are left out."""
    made, refused = [], []
    for name, path in wanted:
        try:
            reranker = make_reranker(name, store, path or (own if name == store else None))
        except ValueError as error:
            refused.append(f"{name} on {store}: {error}")
            continue
        if reranker is not None:
            made.append(reranker)
    return made, refused


def combine(
    sets: Sets, wanted: Sequence[Reranker], refused: list[str], top_k: int
) -> Iterator[tuple[str, str, Measured]]:
    """(ranking, reranker, what was measured): every ranking alone, and with each reranker.

    The reason why a reranker does not fit the store is added to `refused`.
    """
    fitting = []
    for reranker in wanted:
        try:
            reranker.require(sets.store)
            fitting.append(reranker)
        except ValueError as error:
            refused.append(f"{reranker.title} on {sets.store.name}: {error}")
    for refine in baselines.NAMES:
        ranking = "global" if refine == "none" else refine
        yield ranking, "", measure(sets, refine=refine)
        for reranker in fitting:
            yield ranking, reranker.title, measure(sets, reranker, refine, top_k)


def format_row(store: str, ranking: str, reranker: str, found: Measured) -> str:
    """A line of the table."""
    time = f"{found.seconds:.1f} s"
    if found.pairs:
        time = f"{1000 * found.seconds / found.pairs:.2f} ms a pair"
    cells = (store, ranking, reranker or "-", f"{found.medium:.2f}", f"{found.hard:.2f}", time)
    return f"| {' | '.join(cells)} |"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m search.combinations", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--set", type=Path, default=REPO_ROOT / "data/mini_landmarks",
        help="folder with jpg/ and gnd_*.pkl (data/mini_landmarks)")  # fmt: skip
    add("--stores", nargs="+", type=parse_named, default=[Named("sift", None)])
    add("--rerankers", nargs="+", type=parse_named,
        default=[Named(name, None) for name in ("rrt", "geometric", "r2former")])  # fmt: skip
    add("--max-locals", type=int, default=200, help="local features of an image (200)")
    add("--top-k", type=int, default=100, help="images reranked per query (100)")
    add("--out", type=Path, default=REPO_ROOT / "logs/search_combinations",
        help="stores and table.md (logs/search_combinations)")  # fmt: skip
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> str:
    """Measures and writes the table; returns it."""
    places = load_revisited_set(options.set)
    lines = [f"| {' | '.join(HEADER)} |", "| --- | --- | --- | ---: | ---: | ---: |"]
    refused: list[str] = []
    for name, path in options.stores:
        folder = options.out / f"{name}_{options.max_locals}"
        weights, delg_dir = (None, path) if name == "delg-files" else (path, None)
        store, queries, gallery = build_store(
            folder, name, places, weights, options.max_locals, delg_dir
        )
        sets = select(store, queries, gallery, places.gnd)
        wanted, missing = make_rerankers(name, options.rerankers, weights)
        refused += missing
        for ranking, title, found in combine(sets, wanted, refused, options.top_k):
            lines.append(format_row(name, ranking, title, found))
            logger.info(lines[-1])
    text = "\n".join([*lines, "", *(f"- left out: {reason}" for reason in refused)]) + "\n"
    atomic_write(options.out / "table.md", text.encode("utf-8"))
    return text


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one line that says what is wrong."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    options = parse(argv)
    return run_command("combinations", lambda: f"\n{run(options)}")


if __name__ == "__main__":
    raise SystemExit(main())
