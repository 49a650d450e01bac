"""The demo's page: table, ranked lists before and after reranking, matches of a pair."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from rrt_gld.demo_search import Search
from rrt_gld.evaluation import compute_reranked_metrics
from rrt_gld.geometric import make_estimator, verify
from rrt_gld.reranking import Reranked
from rrt_gld.sift import crop
from utils.ranked_lists import make_ranked_lists
from utils.report import MatchPicture, RankedList, draw_matches, results_table, write_page
from utils.results import Row
from utils.revisited import evaluate_ranks

PAIRS = 3  # whose matches are drawn
NOTE = (
    "Each query with its first ten gallery images, by global descriptors and after reranking by "
    "the transformer. Junk goes to the end before the head is reranked, as the protocol has it."
)
NOTE_WITHOUT_TRUTH = (
    "Your own photographs: each query with the first ten of the others, by global descriptors and "
    "after reranking by the transformer. Without a ground truth nothing is measured. The matcher "
    "was trained on generated landmarks only."
)


def write_demo_page(
    path: Path,
    search: Search,
    reranked: Reranked,
    rows: Sequence[Row],
    facts: Mapping[str, object],
    n_lists: int,
) -> Path:
    """Write the page of one search and return its path."""
    lists = make_search_lists(search, reranked)
    tables = [results_table("Results (mAP, %)", rows)] if rows else []
    note = NOTE_WITHOUT_TRUTH if search.gnd is None else NOTE
    return write_page(
        path, f"Search on {search.name}", facts, tables, lists,
        draw_pairs(search, reranked, lists), notes=[note], ap_name="AP (Medium)", n_lists=n_lists,
    )  # fmt: skip


def make_search_lists(search: Search, reranked: Reranked) -> list[RankedList]:
    """One list per query; with a ground truth the Medium protocol's APs and the images' labels."""
    before, after = np.full((2, len(search.queries)), np.nan)
    if search.gnd is not None:
        before = evaluate_ranks(search.nn_inds, search.gnd)["medium"]["ap"]
        after = compute_reranked_metrics(reranked, search.gnd)[1]["M"]
    return make_ranked_lists(
        search.query_paths, search.boxes, search.gallery_paths.__getitem__, search.gnd,
        (search.nn_inds, reranked.medium), (before, after),
    )  # fmt: skip


def draw_pairs(
    search: Search, reranked: Reranked, lists: Sequence[RankedList]
) -> list[MatchPicture]:
    """Matches of the most improved queries (else of the first) with their best gallery image."""
    gain = np.array([entry.change or 0.0 for entry in lists])
    pictures = []
    for q in np.argsort(-gain, kind="stable")[:PAIRS]:
        best = int(reranked.medium[q, 0])
        first, second = (
            part.load_local(i) for part, i in zip(search.verified, (int(q), best), strict=True)
        )
        matches = verify(first, second, make_estimator("pydegensac", "homography", 4.0))
        a, b = (_load_rgb(p) for p in (search.query_paths[q], search.gallery_paths[best]))
        box = search.boxes[q]
        if box is not None:
            a = np.ascontiguousarray(crop(a, box))
        ends = first.locations[matches[:, 0], ::-1], second.locations[matches[:, 1], ::-1]
        strength = (first.descriptors[matches[:, 0]] * second.descriptors[matches[:, 1]]).sum(
            axis=1
        )
        names = f"{search.query_paths[q].stem} and {search.gallery_paths[best].stem}"
        caption = (
            f"The image ranked first after reranking. {len(matches)} mutual nearest neighbours of "
            f"{len(first)} and {len(second)} RootSIFT features agree with one homography "
            "(pydegensac, 4 px); brighter and thicker lines: more similar."
        )
        pictures.append(MatchPicture(names, draw_matches(a, b, *ends, strength), caption))
    return pictures


def _load_rgb(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is not a picture that OpenCV can read; remove or replace it")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
