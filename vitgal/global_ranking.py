"""Global rankings of a test set, with a million distractors or without, in bounded memory.

Scoring needs to know where the benchmark images stand, and reranking the head of each list. Only
these two are kept: distractors beyond the head are counted, not listed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.knn_exact import DOUBLE, defined_scores
from utils.revisited import GroundTruth, evaluate_ranks

TILE = 65536  # gallery vectors whose scores are computed together
KEY_BUDGET = 512 << 20  # bytes of sort keys that are held for whole rankings
PAIRS = 4096  # of a tile, whose sums are taken in the defined order at once
INDEX = 0xFFFFFFFF  # part of a key that is the index
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


def score_tile(queries: np.ndarray, tile: np.ndarray) -> np.ndarray:
    """(Q, T) float32 inner products as `utils.knn` defines them: float64 sums, rounded.

    Where the order of a sum could change its rounding, the defined order is taken.
    """
    wide = tile.astype(np.float64)
    sums = queries.astype(np.float64) @ wide.T
    lengths = [np.sqrt(np.einsum("nd,nd->n", part, part)).max() for part in (queries, wide)]
    error = 2 * (tile.shape[1] + 4) * DOUBLE * float(lengths[0]) * float(lengths[1])
    scores = (sums + error).astype(np.float32)
    rows, columns = np.nonzero((sums - error).astype(np.float32) != scores)
    for at in range(0, len(rows), PAIRS):
        r, c = rows[at : at + PAIRS], columns[at : at + PAIRS]
        scores[r, c] = defined_scores(queries[r], tile[c], "ip")
    return scores + np.float32(0)  # no -0: it would sort before 0


def rank_keys(scores: np.ndarray, first: int) -> np.ndarray:
    """int64 keys of (..., T) float32 scores; rising keys: falling score, then rising index.

    The lower 32 bits are the index, from `first` on.
    """
    bits = (np.float32(0) - scores).view(np.int32)  # of 0 rather than -0, which would sort before
    flips = bits >> 31
    flips &= np.int32(0x7FFFFFFF)
    bits ^= flips
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= np.arange(first, first + scores.shape[-1], dtype=np.int64)
    return keys


def rank_database(
    queries: np.ndarray,
    gallery: np.ndarray,
    distractors: np.ndarray | None = None,
    head: int = HEAD,
    full: np.ndarray | None = None,
    progress: bool = True,
) -> GlobalRanking:
    """Rank gallery and distractors by inner product with each query; ties to the lower index.

    `queries` (Q, D), `gallery` (n_benchmark, D), `distractors` (N, D): unit rows, float32; arrays
    or memory maps, of which a tile is read at a time. `full`: (n_database, Q) integers (a memory
    map, say) that receive the whole rankings, a column per query, as published. Scores are those of
    `utils.knn`, the same on every machine.
    """
    parts = [gallery] if distractors is None or not len(distractors) else [gallery, distractors]
    for name, part in zip(("queries", *("database",) * len(parts)), (queries, *parts), strict=True):
        if part.ndim != 2 or part.shape[1] != gallery.shape[1]:
            raise ValueError(
                f"{name} are {part.shape}, the gallery {gallery.shape}: descriptors of two models"
            )
    tiles = _Tiles(parts)
    with tqdm(total=len(tiles), desc="search", unit="tile", disable=not progress) as bar:
        if full is None:
            return _rank_streaming(queries, tiles, head, bar)
        return _rank_fully(queries, tiles, head, full, bar)


class _Tiles:
    """Stretches of the database, with their first index; the first one is the whole gallery."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self.parts = parts
        self.n_benchmark, self.n_database = len(parts[0]), sum(map(len, parts))

    def __len__(self) -> int:
        return 1 + sum(-(-len(part) // TILE) for part in self.parts[1:])

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, self.parts[0]
        for part in self.parts[1:]:
            for start in range(0, len(part), TILE):
                yield self.n_benchmark + start, part[start : start + TILE]


def _rank_streaming(queries: np.ndarray, tiles: _Tiles, head: int, bar: tqdm) -> GlobalRanking:
    """Keeps the best of each tile, and counts the distractors above each gallery image."""
    stream = iter(tiles)
    keys = np.sort(rank_keys(score_tile(queries, next(stream)[1]), 0), axis=1)
    above = np.zeros(keys.shape, np.int64)  # distractors that stand before each gallery image
    best = keys[:, :head]
    bar.update()
    for first, tile in stream:
        theirs = rank_keys(score_tile(queries, tile), first)
        theirs.sort(axis=1)
        for row, own, new in zip(above, keys, theirs, strict=True):
            row += np.searchsorted(new, own)
        best = np.sort(np.concatenate([best, theirs[:, :head]], axis=1), axis=1)[:, :head]
        bar.update()
    places = np.arange(tiles.n_benchmark) + above
    positions = np.empty(places.shape, np.int32)
    np.put_along_axis(positions, keys & INDEX, places.astype(np.int32), axis=1)
    return GlobalRanking(best & INDEX, positions, tiles.n_database)


def _rank_fully(
    queries: np.ndarray, tiles: _Tiles, head: int, full: np.ndarray, bar: tqdm
) -> GlobalRanking:
    """Holds the keys of some queries with the whole database, sorts them and writes the ranks."""
    rows = max(1, KEY_BUDGET // (8 * tiles.n_database))
    bar.total = len(tiles) * -(-len(queries) // rows)
    rankings = []
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        keys = np.empty((len(block), tiles.n_database), np.int64)
        for first, tile in tiles:
            keys[:, first : first + len(tile)] = rank_keys(score_tile(block, tile), first)
            bar.update()
        keys.sort(axis=1)
        keys &= INDEX
        full[:, start : start + len(block)] = keys.T
        rankings.append(from_full_ranks(keys, tiles.n_benchmark, head))
    return GlobalRanking(
        np.concatenate([one.head for one in rankings]),
        np.concatenate([one.positions for one in rankings]),
        tiles.n_database,
    )
