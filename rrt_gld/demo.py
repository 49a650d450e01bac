"""Images -> descriptors -> global ranking -> reranking -> results table and a page of pictures.

    python -m rrt_gld.demo                     on the generated landmarks (data.make_mini)
    python -m rrt_gld.demo FOLDER [options]    on your own photographs

With a `gnd_*.pkl` in FOLDER (queries, gallery, boxes, positives in the form of Revisited Oxford)
the queries are its own and mAP is measured; else each photograph is searched among the others.
Descriptors are kept in the output folder and reused; those of changed photographs are made anew.
"""

import argparse
import logging
import platform
import time
from pathlib import Path

import numpy as np
import torch

from hubconf import rrt_gld_matcher
from rrt_gld.demo_page import write_demo_page
from rrt_gld.demo_search import Search, make_folder_search, make_mini_search
from rrt_gld.evaluation import compute_reranked_metrics, score_pairs_from_files
from rrt_gld.geometric import count_inliers, make_estimator
from rrt_gld.models.ingredient import RRT_MINI_SIZES
from rrt_gld.models.scoring import PairScorer
from rrt_gld.reranking import Reranked, rerank, rerank_head
from rrt_gld.result_record import percent_maps
from rrt_gld.rows import EXPECTED, make_gain_rows, to_percent
from utils.command_line import LOG_FORMAT, run_command
from utils.paths import REPO_ROOT
from utils.result_files import BEFORE
from utils.results import Row, load_expected, make_intervals, make_rows, print_rows
from utils.revisited import evaluate_ranks

CHECKPOINT = REPO_ROOT / "rrt_gld/rrt_gld_ckpts/mini_sift.pt"
logger = logging.getLogger("rrt_gld.demo")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; its text is `--help`."""
    parser = argparse.ArgumentParser(
        prog="bash demo.sh", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", nargs="?", type=Path, help="photographs; none: generated set")
    parser.add_argument("--out", type=Path, help="output folder (logs/demo or logs/demo_FOLDER)")
    parser.add_argument("--top-k", type=int, default=100, help="images reranked per query")
    parser.add_argument("--queries", type=int, default=70, help="photographs searched at most")
    parser.add_argument("--lists", type=int, default=12, help="ranked lists shown on the page")
    options = parser.parse_args(argv)
    for name in ("top_k", "queries", "lists"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def load_scorer() -> PairScorer:
    """The tracked matcher of the mini row, on the GPU where there is one."""
    model = rrt_gld_matcher(CHECKPOINT, **RRT_MINI_SIZES)
    return PairScorer(model, "cuda" if torch.cuda.is_available() else "cpu")


def rerank_both(search: Search, top_k: int) -> tuple[Reranked, Reranked | None]:
    """The heads reranked by the matcher, and by geometric verification where there is a truth."""
    scorer = load_scorer()

    def score(pairs):
        return score_pairs_from_files(scorer, search.queries, search.gallery, pairs)

    if search.gnd is None:
        pairs, head = search.head_pairs(top_k)
        scores = score(pairs)
        ranks = rerank_head(search.nn_inds, scores.reshape(head.shape))
        return Reranked(ranks, ranks, pairs, scores), None
    estimator = make_estimator("pydegensac", "homography", 4.0)

    def verify(pairs):
        return count_inliers(*search.verified, pairs, estimator)

    learned = rerank(search.nn_inds, search.gnd, score, top_k)
    return learned, rerank(search.nn_inds, search.gnd, verify, top_k)


def measure(search: Search, learned: Reranked, geometric: Reranked | None, top_k: int) -> list[Row]:
    """Rows of the table: global, reranked by the matcher, reranked by geometry."""
    if search.gnd is None:
        return []
    base = evaluate_ranks(search.nn_inds, search.gnd)
    plain = {f"{letter}_map": to_percent(base[key], letter)[f"{letter}_map"]
             for letter, key in (("M", "medium"), ("H", "hard"))}  # fmt: skip
    aps = {"M": base["medium"]["ap"], "H": base["hard"]["ap"]}
    stages = [("eval_mini_global", "global, RootSIFT-VLAD", plain, aps)]
    for script, protocol, reranked in (
        ("eval_mini_rerank", f"RRT_mini, top {top_k} reranked", learned),
        ("eval_mini_geometric", f"pydegensac homography, top {top_k} reranked", geometric),
    ):
        if reranked is not None:
            stages.append((script, protocol, *compute_reranked_metrics(reranked, search.gnd)))
    table = load_expected(EXPECTED) if search.name == "mini_landmarks" and top_k == 100 else {}
    rows: list[Row] = []
    for script, protocol, metrics, ap in stages:
        maps = {f"{k}_map": metrics[f"{k}_map"] for k in ("M", "H") if not np.isnan(ap[k]).all()}
        expected = {k: v for k, v in table.get(script, {}).items() if k in maps}
        rows += make_rows(maps, expected, protocol, make_intervals(percent_maps(ap)))
        if script != "eval_mini_global":
            values = {**percent_maps(ap), **percent_maps(aps, BEFORE)}
            rows += make_gain_rows(values, f"{protocol}, minus global")
    return rows


def run(options: argparse.Namespace) -> Path:
    """The whole job; returns the page."""
    started = time.monotonic()
    if options.folder is None:
        out = options.out or REPO_ROOT / "logs/demo"
        search = make_mini_search(REPO_ROOT / "data")
    else:
        out = options.out or REPO_ROOT / f"logs/demo_{options.folder.resolve().name}"
        search = make_folder_search(options.folder, out, options.queries)
    logger.info("%d queries, %d gallery images", len(search.queries), len(search.gallery))
    top_k = min(options.top_k, search.nn_inds.shape[1])
    learned, geometric = rerank_both(search, top_k)
    rows = measure(search, learned, geometric, options.top_k)
    facts = {
        "set": search.name, "queries": len(search.queries), "gallery images": len(search.gallery),
        "descriptors": "RootSIFT, 64 strongest; VLAD 2048-d", "reranker": "RRT_mini, float32",
        "top_k": top_k, "device": "GPU" if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__, "python": platform.python_version(),
        "wall time": f"{time.monotonic() - started:.0f} s",
    }  # fmt: skip
    page = write_demo_page(out / "index.html", search, learned, rows, facts, options.lists)
    if rows:
        print_rows(rows, f"mAP (%) on {search.name}")
    return page


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one line that says what is wrong and what to do."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    options = parse(argv)
    return run_command("demo", lambda: f"\nRanked lists and matches: {run(options).resolve()}\n")


if __name__ == "__main__":
    raise SystemExit(main())
