"""The page of an evaluation: rows, ranked lists before and after reranking, matches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.report import Hit, MatchPicture, RankedList, results_table, write_page
from vitgal.datasets.revisited_images import Photograph
from vitgal.evaluation import Outcome, Reranked
from vitgal.extraction import recorded_image_size
from vitgal.geometric_verification import Verification
from vitgal.global_search import query_paths
from vitgal.match_pictures import draw_pair, load_resized
from vitgal.pair_scoring import StoreOptions
from vitgal.rows import make_gain_rows, make_map_rows

SHOWN = 100  # of each ranking that the page knows; it shows the first ten
PAIRS = 3  # whose matches are drawn
NOTE = (
    "Each query with its first ten gallery images, by global descriptors and after reranking the "
    "head by the number of inliers of a homography."
)


def write_result_page(
    path: Path,
    outcome: Outcome,
    reranked: Reranked,
    settings: Verification,
    stored: StoreOptions,
) -> Path:
    """Write the page and return its path."""
    gnd = outcome.test.ground_truth
    before, after = outcome.ranking.measure(gnd), reranked.ranking.measure(gnd)
    rows = [
        *make_map_rows(before, None, f"global: {outcome.protocol}"),
        *make_map_rows(after, None, f"reranked: {settings}"),
        *make_gain_rows(before, after, "reranked minus global"),
    ]
    lists = _make_lists(outcome, reranked, before["medium"]["ap"], after["medium"]["ap"])
    facts = {
        "set": outcome.test.name,
        "queries": len(outcome.test.queries),
        "gallery images": outcome.test.num_database,
        "model": outcome.model_name or "",
        "verification": str(settings),
    }
    pictures = _draw_best(outcome, reranked, lists, settings, stored)
    title = f"ViTGaL on {outcome.test.name}"
    tables = [results_table("Results (mAP, %)", rows)]
    return write_page(
        path, title, facts, tables, lists, pictures, notes=[NOTE], ap_name="AP (Medium)"
    )


def _make_lists(
    outcome: Outcome, reranked: Reranked, ap_before: np.ndarray, ap_after: np.ndarray
) -> list[RankedList]:
    """One list per query, with the labels of the ground truth; after: with inliers."""
    test = outcome.test
    made = []
    for q, query in enumerate(query_paths(test)):
        entry = test.ground_truth.gnd[q]
        labels = {int(i): kind for kind in ("easy", "hard", "junk") for i in entry[kind]}
        head = outcome.ranking.head[q]
        inliers = dict(zip(head.tolist(), reranked.scores[q].tolist(), strict=False))

        def hits(
            indices: np.ndarray, labels: dict[int, str] = labels, inliers: dict = inliers
        ) -> list[Hit]:
            paths = [(int(i), test.database_path(int(i))) for i in indices[:SHOWN]]
            return [
                Hit(path, path.stem, labels.get(i, "negative"), inliers.get(i)) for i, path in paths
            ]

        box = tuple(test.boxes[q].tolist())
        made.append(
            RankedList(query, box, hits(head), hits(reranked.ranking.head[q]),
                       float(ap_before[q]), float(ap_after[q]))
        )  # fmt: skip
    return made


def _draw_best(
    outcome: Outcome,
    reranked: Reranked,
    lists: Sequence[RankedList],
    settings: Verification,
    stored: StoreOptions,
) -> list[MatchPicture]:
    """Matches of the most improved queries with the image that is now first."""
    store, test = stored.open(), outcome.test
    image_size = recorded_image_size(stored.folder)
    gain = np.array([entry.change or 0.0 for entry in lists])
    pictures = []
    for q in np.argsort(-gain, kind="stable")[:PAIRS]:
        best = test.database_path(int(reranked.ranking.head[q, 0]))
        query = Path(lists[q].query_path)
        photographs = Photograph(query, tuple(test.boxes[q].tolist())), Photograph(best)
        images = [load_resized(photograph, image_size) for photograph in photographs]
        features = [store.load(photograph.path.as_posix()) for photograph in photographs]
        pair = draw_pair(images, features, settings)
        caption = (
            f"The image ranked first after reranking. {pair.inliers.sum()} of "
            f"{len(pair.inliers)} matches agree with one homography ({settings}); brighter lines: "
            "more similar."
        )
        pictures.append(MatchPicture(f"{query.stem} and {best.stem}", pair.picture, caption))
    return pictures
