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
AP_NAME = "AP of the head"
PAIRS = 4  # whose matches are drawn
NOTE = (
    "Each query with its first ten database images, by global descriptors and after reranking. "
    "Right are images taken within the radius. AP is over the reranked head."
)


def write_place_page(
    path: Path,
    places: PlaceSet,
    lists: Sequence[RankedList],
    pictures: Sequence[MatchPicture],
    rows: Sequence[Row],
    facts: Mapping[str, object],
    seed: int = 0,
) -> Path:
    """Write the page and return its path. Without positions there are no marks and no AP."""
    tables = [results_table("Results (percent)", rows)] if rows else []
    return write_page(
        path, f"R2Former on {places.name}", facts, tables, lists, pictures,
        notes=[NOTE], ap_name=AP_NAME, seed=seed,
    )  # fmt: skip


def draw_queries(places: PlaceSet, seed: int) -> np.ndarray:
    """(q,) the queries that a page knows, in order: at most 1000."""
    drawn = np.random.default_rng(seed).permutation(len(places.query_paths))[:QUERIES]
    drawn.sort()
    return drawn


def head_aps(found: Evaluation, drawn: np.ndarray) -> list[np.ndarray | None]:
    """AP of the head of each stage for the queries `drawn`."""
    stages = [found.before] if found.after is None else [found.before, found.after]
    depth = stages[-1].nn_inds.shape[1]
    return [average_precision(ranking, depth, drawn) for ranking in stages]


def make_lists(places: PlaceSet, found: Evaluation, seed: int = 0) -> list[RankedList]:
    """Ranked lists of the drawn queries before and after reranking."""
    drawn = draw_queries(places, seed)
    aps = head_aps(found, drawn)
    depth = (found.after or found.before).nn_inds.shape[1]
    return [
        RankedList(
            places.query_paths[q],
            None,
            hits_of(found.before, places, q, depth),
            [] if found.after is None else hits_of(found.after, places, q, depth),
            *(None if ap is None else float(ap[i]) for ap in aps),
        )
        for i, q in enumerate(drawn.tolist())
    ]


def draw_matches(
    net: R2Former | None, places: PlaceSet, found: Evaluation, settings: Settings, seed: int = 0
) -> list[MatchPicture]:
    """Matches of the most improved queries with their new first image; none without `net`."""
    if net is None or found.after is None:
        return []
    drawn = draw_queries(places, seed)
    return draw_best(net, places, found.after, drawn, head_aps(found, drawn), settings)


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
