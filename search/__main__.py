"""Search your own photographs: describe, rank, rerank, and a page of ranked lists.

    python -m search --gallery DIR --query FILE_OR_DIR
    python -m search --gallery DIR --query DIR --rerank rrt
    python -m search --gallery DIR --query DIR --global vitgal --weights FILE --rerank geometric

Descriptors are kept in an index: of a grown gallery only the new photographs are described, of an
interrupted run those that were left. Without weights work: sift with geometric verification and
with the tracked mini matcher (rrt), which was trained on generated landmarks alone.
"""

import argparse
import logging
import platform
import time
from pathlib import Path

import numpy as np
import torch

from search import baselines, codec, describers, rerankers
from search.page import write_lists, write_search_page
from search.photographs import Photograph, list_photographs
from search.ranking import Ranked, rank, rerank
from search.store import Store
from utils.command_line import LOG_FORMAT, run_command
from utils.paths import REPO_ROOT

logger = logging.getLogger("search")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; its text is `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m search", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--gallery", type=Path, required=True, help="folder of photographs that is searched")
    add("--query", type=Path, required=True, help="a photograph, or a folder of them")
    add("--global", dest="descriptor", choices=describers.NAMES, default="sift",
        help="descriptors, global and local (sift)")  # fmt: skip
    add("--weights", type=Path, help="checkpoint of vitgal or r2former")
    add("--delg-dir", type=Path, help="folder of .delg_global and .delg_local, for delg-files")
    add("--rerank", choices=rerankers.NAMES, default="geometric",
        help="how the head of each list is reranked (geometric)")  # fmt: skip
    add("--rerank-weights", type=Path,
        help="checkpoint of rrt or r2former (rrt on sift: the tracked mini matcher; r2former on "
        "r2former: --weights)")  # fmt: skip
    add("--refine", choices=baselines.NAMES, default="none",
        help="training-free use of the gallery's neighbourhoods before it (none)")  # fmt: skip
    add("--top-k", type=int, default=100, help="images reranked per query (100)")
    add("--max-locals", type=int, help="local features kept per image (sift 500, vitgal 1000, ...)")
    add("--kind", choices=codec.KINDS, default="float32",
        help="numbers in the index: int8 takes a quarter of float32's space (float32)")  # fmt: skip
    add("--index", type=Path, help="folder of the descriptors (in the output folder)")
    add("--out", type=Path, help="output folder (logs/search_<gallery>)")
    add("--lists", type=int, default=12, help="ranked lists shown on the page (12)")
    add("--workers", type=int, help="processes that read photographs (one per core)")
    options = parser.parse_args(argv)
    for name in ("top_k", "lists"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def find_own(queries: list[Photograph], gallery: list[Photograph]) -> np.ndarray | None:
    """(Q,) index of each query in the gallery, -1 for others; None when no query is in it."""
    places = {photo.path.resolve(): i for i, photo in enumerate(gallery)}
    own = np.array([places.get(photo.path.resolve(), -1) for photo in queries])
    return own if (own >= 0).any() else None


def index_name(options: argparse.Namespace) -> str:
    """Folder of one kind of descriptors within the output folder."""
    limit = f"_{options.max_locals}" if options.max_locals else ""
    return f"index_{options.descriptor}_{options.kind}{limit}"


def run(options: argparse.Namespace) -> Path:
    """The whole job; returns the page."""
    started = time.monotonic()
    gallery, queries = (list_photographs(where) for where in (options.gallery, options.query))
    own = find_own(queries, gallery)
    if len(gallery) < 1 + (own is not None):
        raise ValueError(f"{options.gallery} holds nothing but the query; add photographs")
    out = options.out or REPO_ROOT / f"logs/search_{options.gallery.resolve().name}"
    describe = describers.make_describer(
        options.descriptor, options.weights, options.max_locals, options.delg_dir, options.workers
    )
    same = options.rerank == options.descriptor == "r2former"
    weights = options.rerank_weights or (options.weights if same else None)
    reranker = rerankers.make_reranker(options.rerank, options.descriptor, weights)
    gallery, queries = describe.mark(gallery), describe.mark(queries)
    store = Store(
        options.index or out / index_name(options), describe.made_from, options.kind, options.kind
    )
    new = store.extend([*gallery, *queries], describe)
    logger.info("%d photographs described, %d in the index", new, len(store))
    if reranker is not None:
        reranker.require(store)
    rows = store.rows_of(queries), store.rows_of(gallery)
    before = rank(store, *rows, max(options.top_k, 10), options.refine, own)
    ranked = rerank(store, *rows, before, options.top_k, reranker)
    facts = make_facts(options, store, ranked, None if reranker is None else reranker.title)
    facts["wall time"] = f"{time.monotonic() - started:.1f} s"
    facts |= {"queries": len(queries), "gallery images": len(gallery)}
    write_lists(out / "ranked.csv", queries, gallery, ranked)
    return write_search_page(
        out / "index.html", store, queries, gallery, ranked, facts, options.lists
    )


def make_facts(
    options: argparse.Namespace, store: Store, ranked: Ranked, title: str | None
) -> dict[str, object]:
    """What was run, for the head of the page."""
    scored = 0 if ranked.scores is None else ranked.scores.shape[1]
    return {
        "gallery": options.gallery.resolve().name,
        "descriptors": f"{options.descriptor}, {options.kind}",
        "ranking": "global descriptors" if options.refine == "none" else options.refine,
        "reranker": "none" if title is None else f"{title}, first {scored}",
        "index": f"{sum(store.count_bytes().values()) / len(store):,.0f} bytes per photograph",
        "device": "GPU" if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one line that says what is wrong and what to do; 130 interrupted."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    options = parse(argv)
    return run_command(
        "search",
        lambda: f"\nRanked lists and matches: {run(options).resolve()}\n",
        "interrupted; the same command goes on where it stopped",
    )


if __name__ == "__main__":
    raise SystemExit(main())
