"""Global rankings of a test set, with a million distractors or without, in bounded memory.

Scoring needs to know where the benchmark images stand, and reranking the head of each list. Only
these two are kept: distractors beyond the head are counted, not listed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from utils import knn
from utils.revisited import GroundTruth, evaluate_ranks

TILE = 65536  # gallery vectors whose scores are computed together
SCORE_BUDGET = 512 << 20  # bytes of the scores that are held at once
HEAD = 1000  # entries of each list that are kept by default


@dataclass(frozen=True)
class GlobalRanking:
    """Where everything stands that scoring and reranking ask for.

    Gallery indices below `n_benchmark` are benchmark images, those above distractors.
    """

    head: np.ndarray  # (Q, K) int64 gallery indices, nearest first
    positions: np.ndarray  # (Q, n_benchmark) int32, 0-based position of each benchmark image
    n_database: int  # gallery images, distractors included

    @property
    def n_benchmark(self) -> int:
        """Gallery images without the distractors."""
        return self.positions.shape[1]

    def listed(self, length: int | None = None) -> np.ndarray:
        """(Q, length) int32 rankings in which benchmark images stand where they belong.

        Places of distractors are filled with distractors in any order: no metric tells them apart.
        `length` None: as far as some benchmark image stands.
        """
        length = int(self.positions.max()) + 1 if length is None else length
        listed = np.empty((len(self.positions), length), np.int32)
        for row, places in zip(listed, self.positions, strict=True):
            within = np.flatnonzero(places < length)
            free = np.ones(length, bool)
            free[places[within]] = False
            row[places[within]] = within
            row[free] = self.n_benchmark + np.arange(length - len(within))
        return listed

    def measure(self, gnd: GroundTruth) -> dict[str, dict[str, Any]]:
        """What `evaluate_ranks` finds: mAP, mP@k and APs of easy, medium and hard; fractions."""
        relevant = [
            [i for kind in ("easy", "hard", "junk") for i in entry[kind]] for entry in gnd.gnd
        ]
        last = max(
            (int(self.positions[q, ids].max()) for q, ids in enumerate(relevant) if ids), default=0
        )
        lists = gnd if self.n_database == self.n_benchmark else gnd.gnd
        return evaluate_ranks(self.listed(last + 1), lists)

    def reorder_head(self, scores: np.ndarray) -> "GlobalRanking":
        """The first R entries of each list by falling score (Q, R), stable; the rest as it is."""
        if scores.ndim != 2 or len(scores) != len(self.head) or scores.shape[1] > len(self.head[0]):
            raise ValueError(
                f"scores are {scores.shape}, but there are {len(self.head)} lists of which "
                f"{self.head.shape[1]} entries are kept"
            )
        top = scores.shape[1]
        order = np.argsort(-scores, axis=1, kind="stable")
        new = np.take_along_axis(self.head[:, :top], order, axis=1)
        positions = self.positions.copy()
        rows, columns = np.nonzero(new < self.n_benchmark)
        positions[rows, new[rows, columns]] = columns
        head = np.concatenate([new, self.head[:, top:]], axis=1)
        return GlobalRanking(head, positions, self.n_database)


def from_full_ranks(ranks: np.ndarray, n_benchmark: int, head: int = HEAD) -> GlobalRanking:
    """From full lists (Q, n_database), nearest first, each gallery image once."""
    positions = np.empty((len(ranks), n_benchmark), np.int32)
    for row, listed in zip(positions, ranks, strict=True):
        places = np.flatnonzero(listed < n_benchmark)
        row[listed[places]] = places
    return GlobalRanking(ranks[:, :head].astype(np.int64), positions, ranks.shape[1])


def rank_database(
    queries: np.ndarray,
    gallery: np.ndarray,
    distractors: np.ndarray | None = None,
    head: int = HEAD,
    full: np.ndarray | None = None,
    progress: bool = True,
    **options: Any,
) -> GlobalRanking:
    """Rank gallery and distractors by inner product with each query; ties to the lower index.

    `queries` (Q, D), `gallery` (n_benchmark, D), `distractors` (N, D): unit rows, float32; arrays
    or memory maps, of which a tile is read at a time. `full`: (n_database, Q) integers (a memory
    map, say) that receive the whole rankings, a column per query, as published. Scores are those of
    `utils.knn`, the same on every machine; `options` go there. Holds about 0.5 GB.
    """
    parts = [gallery] if distractors is None or not len(distractors) else [gallery, distractors]
    n_database = sum(map(len, parts))
    rows = max(1, SCORE_BUDGET // (4 * n_database))
    rankings = []
    tiles = sum(-(-len(part) // TILE) for part in parts)
    with tqdm(
        total=tiles * -(-len(queries) // rows), desc="search", unit="tile", disable=not progress
    ) as bar:
        for start in range(0, len(queries), rows):
            scores = _score(queries[start : start + rows], parts, n_database, bar, options)
            for offset, row in enumerate(scores):
                ranked = np.argsort(-row, kind="stable")
                if full is not None:
                    full[:, start + offset] = ranked
                rankings.append(from_full_ranks(ranked[None], len(gallery), head))
            del scores
    return GlobalRanking(
        np.concatenate([one.head for one in rankings]),
        np.concatenate([one.positions for one in rankings]),
        n_database,
    )


def _score(
    queries: np.ndarray, parts: list[np.ndarray], n_database: int, bar: tqdm, options: dict
) -> np.ndarray:
    """(Q, n_database) float32 inner products, tile by tile."""
    scores = np.empty((len(queries), n_database), np.float32)
    first = 0
    for part in parts:
        for start in range(0, len(part), TILE):
            tile = part[start : start + TILE]
            values, columns = knn.search(queries, tile, len(tile), progress=False, **options)
            np.put_along_axis(scores[:, first : first + len(tile)], columns, values, axis=1)
            first += len(tile)
            bar.update()
    return scores
