"""A page of ranked lists before and after reranking, place by place, with matched patches."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from r2former.datasets.place_set import PlaceSet
from r2former.evaluation import Evaluation, Ranking, Settings
from r2former.match_pictures import draw_pair
from r2former.models.network import R2Former
from r2former.retrieval import average_precisions
from utils.report import Hit, MatchPicture, RankedList, results_table, write_page
from utils.results import Row

QUERIES = 1000  # drawn at random; all of them where there are fewer
SHOWN = 100  # of each list that the page knows; it shows the first ten
PAIRS = 4  # whose matches are drawn
NOTE = (
    "Each query with its first ten database images, by global descriptors and after reranking. "
    "Right are images taken within the radius. AP is over the reranked head."
)


def write_place_page(
    path: Path,
    net: R2Former | None,
    places: PlaceSet,
    found: Evaluation,
    settings: Settings,
    rows: Sequence[Row],
    facts: Mapping[str, object],
    seed: int = 0,
) -> Path:
    """Write the page and return its path.

    `net`: draws the matches of the most improved queries with their new first image; None: none.
    Without positions there are no marks and no AP.
    """
    drawn = np.random.default_rng(seed).permutation(len(places.query_paths))[:QUERIES]
    drawn.sort()
    stages = [found.before] if found.after is None else [found.before, found.after]
    depth = stages[-1].nn_inds.shape[1]
    aps = [average_precision(ranking, depth, drawn) for ranking in stages]
    lists = [
        RankedList(
            places.query_paths[q],
            None,
            hits_of(found.before, places, q, depth),
            [] if found.after is None else hits_of(found.after, places, q, depth),
            *(None if ap is None else float(ap[i]) for ap in aps),
        )
        for i, q in enumerate(drawn.tolist())
    ]
    pictures = []
    if net is not None and found.after is not None:
        pictures = draw_best(net, places, found.after, drawn, aps, settings)
    tables = [results_table("Results (percent)", rows)] if rows else []
    return write_page(
        path, f"R2Former on {places.name}", facts, tables, lists, pictures,
        notes=[NOTE], ap_name="AP of the head", seed=seed,
    )  # fmt: skip


def average_precision(ranking: Ranking, depth: int, queries: np.ndarray) -> np.ndarray | None:
    """(q,) AP over the positives in the head; NaN without one there, None without positions."""
    if ranking.hits is None:
        return None
    hits = ranking.hits[queries, :depth]
    return average_precisions(hits, hits.sum(axis=1), depth)


def hits_of(ranking: Ranking, places: PlaceSet, query: int, depth: int) -> list[Hit]:
    """The first images of a list with their marks."""
    row = ranking.nn_inds[query, : min(depth, SHOWN)].tolist()
    labels: list[str | None] = [None] * len(row)
    if ranking.hits is not None:
        labels = ["easy" if hit else "negative" for hit in ranking.hits[query].tolist()]
    paths = [Path(places.database_paths[j]) for j in row]
    return [Hit(path, path.stem, label) for path, label in zip(paths, labels, strict=False)]


def draw_best(
    net: R2Former,
    places: PlaceSet,
    after: Ranking,
    drawn: np.ndarray,
    aps: Sequence[np.ndarray | None],
    settings: Settings,
) -> list[MatchPicture]:
    """Matches of the queries that gained most (the first ones where nothing is known)."""
    gains = np.zeros(len(drawn))
    if aps[0] is not None and aps[1] is not None:
        gains = np.nan_to_num(aps[1] - aps[0], nan=-1)
    pictures = []
    for q in drawn[np.argsort(-gains, kind="stable")[:PAIRS]].tolist():
        image = places.database_paths[int(after.nn_inds[q, 0])]
        pair = draw_pair(net, [places.query_paths[q], image], settings.resize)
        caption = f"{len(pair.matches.similarity)} mutual matches, score {pair.score:.2f}"
        title = f"{Path(places.query_paths[q]).stem} and {Path(image).stem}"
        pictures.append(MatchPicture(title, pair.picture, caption))
    return pictures
