"""A page of ranked lists before and after reranking, product by product."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rrt_sop.datasets.image_list import ImageList
from utils.report import Hit, RankedList, results_table, write_page
from utils.results import Row

AP_NAME = "AP of the head"
QUERIES = 1000  # drawn at random; all of them where there are fewer
NOTE = (
    "Each query with its first ten images, by global features and after reranking by the matcher. "
    "Right are the other photographs of the same product. AP is over the reranked head: the mean "
    "of the precision at each right image in it."
)


def average_precision(hits: np.ndarray) -> np.ndarray:
    """(Q,) mean precision at the right images of each row of `hits` (Q, K) bool; NaN without one.

    Both rankings of a head hold the same images, so their values can be compared.
    """
    counts = hits.sum(axis=1)
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    total = (precision * hits).sum(axis=1)
    return np.divide(total, counts, out=np.full(len(hits), np.nan), where=counts > 0)


def make_lists(
    queries: ImageList,
    gallery: ImageList | None,
    before: np.ndarray,
    after: np.ndarray,
    seed: int = 0,
) -> list[RankedList]:
    """Lists of at most 1000 queries drawn by `seed`: first images before and after reranking.

    `before`, `after`: (Q, K) int64, the head by global features and reranked.
    """
    searched = queries if gallery is None else gallery
    drawn = np.random.default_rng(seed).permutation(len(queries))[:QUERIES]
    drawn.sort()
    right = [
        searched.labels[table[drawn]] == queries.labels[drawn, None] for table in (before, after)
    ]
    aps = [average_precision(hits) for hits in right]

    def hits_of(table: np.ndarray, place: int, is_right: np.ndarray) -> list[Hit]:
        return [
            Hit(
                searched.data_path / searched.paths[j],
                Path(searched.paths[j]).stem,
                "easy" if hit else "negative",
            )
            for j, hit in zip(table[drawn[place]], is_right[place], strict=True)
        ]

    return [
        RankedList(
            queries.data_path / queries.paths[q],
            None,
            hits_of(before, place, right[0]),
            hits_of(after, place, right[1]),
            float(aps[0][place]),
            float(aps[1][place]),
        )
        for place, q in enumerate(drawn)
    ]


def write_product_page(
    path: str | Path,
    lists: Sequence[RankedList],
    rows: Sequence[Row],
    facts: Mapping[str, object],
    n_lists: int = 12,
    seed: int = 0,
) -> Path:
    """Write the page and return its path.

    `n_lists` of the `lists` are shown: most improved, most worsened, some at random.
    """
    return write_page(
        path, "Products, before and after reranking", facts,
        [results_table("Results (recall, %)", rows)], lists,
        notes=[NOTE], ap_name=AP_NAME, n_lists=n_lists, seed=seed,
    )  # fmt: skip
