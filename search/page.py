"""What a search leaves behind: a page of ranked lists with matches, and a table of the lists."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from rrt_gld.geometric import make_estimator, verify
from rrt_gld.sift import crop
from search.photographs import Photograph
from search.ranking import Ranked
from search.rerankers import PATCH_THRESHOLD, THRESHOLDS
from search.store import Store
from utils.paths import atomic_write
from utils.report import Hit, MatchPicture, RankedList, draw_matches, write_page

PAIRS = 3  # queries whose best match is drawn
DRAWN_LOCALS = 500  # features of an image that are matched for it
NOTE = (
    "Each query with the first ten images of the gallery. Nothing is measured: there is no ground "
    "truth."
)


def write_search_page(
    path: Path, store: Store, queries: Sequence[Photograph], gallery: Sequence[Photograph],
    ranked: Ranked, facts: Mapping[str, object], n_lists: int,
) -> Path:  # fmt: skip
    """Write the page and return its path. `ranked` indexes `gallery`."""
    lists = make_lists(queries, gallery, ranked)
    pictures = draw_best(store, queries, gallery, ranked.after)
    return write_page(
        path, "Search", facts, [], lists, pictures, notes=[NOTE], n_lists=n_lists
    )  # fmt: skip


def make_lists(
    queries: Sequence[Photograph], gallery: Sequence[Photograph], ranked: Ranked
) -> list[RankedList]:
    """One list per query; a single one where nothing was reranked."""

    def hits(row: np.ndarray, scores: Mapping[int, float]) -> list[Hit]:
        return [Hit(gallery[j].path, gallery[j].path.stem, score=scores.get(int(j))) for j in row]

    lists = []
    for q, query in enumerate(queries):
        scores: dict[int, float] = {}
        if ranked.scores is not None:
            head = ranked.before[q, : ranked.scores.shape[1]].tolist()
            scores = dict(zip(head, ranked.scores[q].tolist(), strict=True))
        after = hits(ranked.after[q], scores) if ranked.scores is not None else []
        lists.append(RankedList(query.path, query.box, hits(ranked.before[q], {}), after))
    return lists


def draw_best(
    store: Store, queries: Sequence[Photograph], gallery: Sequence[Photograph], ranks: np.ndarray
) -> list[MatchPicture]:
    """Matches of the first queries with their best image; none without local features."""
    if not store.has_locals or not ranks.shape[1]:
        return []
    estimator = make_estimator(
        "pydegensac", "homography", THRESHOLDS.get(store.name, PATCH_THRESHOLD)
    )
    pictures = []
    for query, best in zip(queries[:PAIRS], ranks[:PAIRS, 0], strict=False):
        pair = query, gallery[best]
        rows = store.rows_of(pair)
        first, second = (store.load_local(int(row), DRAWN_LOCALS) for row in rows)
        matches = verify(first, second, estimator)
        images = [_load_part(photo) for photo in pair]
        ends = [
            features.locations[matches[:, side], ::-1] * _to_pixels(image, store.frames[row])
            for side, (features, image, row) in enumerate(
                zip((first, second), images, rows, strict=True)
            )
        ]
        strength = first.descriptors[matches[:, 0]] * second.descriptors[matches[:, 1]]
        picture = draw_matches(images[0], images[1], ends[0], ends[1], strength.sum(axis=1))
        caption = (
            f"The image ranked first. {len(matches)} mutual nearest neighbours of {len(first)} and "
            f"{len(second)} features agree with one homography ({estimator}); brighter and "
            "thicker lines: more similar."
        )
        names = f"{query.path.stem} and {gallery[best].path.stem}"
        pictures.append(MatchPicture(names, picture, caption))
    return pictures


def _to_pixels(image: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """(x, y) factors from the frame of the locations (height, width) to the picture."""
    return np.array([image.shape[1] / frame[1], image.shape[0] / frame[0]], np.float32)


def _load_part(photo: Photograph) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a photograph or of its box."""
    image = cv2.imread(str(photo.path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{photo.path} is not a picture that OpenCV can read; remove it")
    part = image if photo.box is None else crop(image, photo.box)
    return np.ascontiguousarray(part[..., ::-1])


def write_lists(
    path: Path, queries: Sequence[Photograph], gallery: Sequence[Photograph], ranked: Ranked
) -> Path:
    """Write a .csv file: query, rank, image, score (empty where not reranked)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "rank", "image", "score"])
    for q, query in enumerate(queries):
        scores: list[float] = []
        if ranked.scores is not None:
            scores = sorted(ranked.scores[q].tolist(), reverse=True)
        for position, j in enumerate(ranked.after[q]):
            score = f"{scores[position]:.6g}" if position < len(scores) else ""
            writer.writerow([query.name, position + 1, gallery[j].name, score])
    atomic_write(path, text.getvalue().encode("utf-8"))
    return path
