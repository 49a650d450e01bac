"""The page of an evaluation: rows, ranked lists before and after reranking, matches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.report import MatchPicture, RankedList, results_table, write_page
from vitgal.datasets.revisited_images import Photograph
from vitgal.evaluation import Outcome, Reranked
from vitgal.extraction import recorded_image_size
from vitgal.geometric_verification import Verification
from vitgal.match_pictures import draw_pair, load_resized
from vitgal.pair_scoring import StoreOptions
from vitgal.rows import make_gain_rows, make_map_rows

AP_NAME = "AP (Medium)"
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
    lists: Sequence[RankedList],
    pictures: Sequence[MatchPicture],
) -> Path:
    """Write the page and return its path."""
    gnd = outcome.test.ground_truth
    before, after = outcome.ranking.measure(gnd), reranked.ranking.measure(gnd)
    rows = [
        *make_map_rows(before, None, f"global: {outcome.protocol}"),
        *make_map_rows(after, None, f"reranked: {settings}"),
        *make_gain_rows(before, after, "reranked minus global"),
    ]
    facts = {
        "set": outcome.test.name,
        "queries": len(outcome.test.queries),
        "gallery images": outcome.test.num_database,
        "model": outcome.model_name or "",
        "verification": str(settings),
    }
    title = f"ViTGaL on {outcome.test.name}"
    tables = [results_table("Results (mAP, %)", rows)]
    return write_page(path, title, facts, tables, lists, pictures, notes=[NOTE], ap_name=AP_NAME)


def draw_best(
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
