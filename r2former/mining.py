"""Hard negatives for training: every way of the published code (R2Former, Sec. 3.4; spec 6).

A round draws queries, looks at their descriptors under the current model, and gives a triplet row
each: (query, positive, negative 1 .. n). Positive: the hard positive (within 10 m) nearest by
descriptor. Negatives are never soft positives (within 25 m).
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from r2former.datasets.place_set import Positives
from utils.knn import search

logger = logging.getLogger(__name__)

MININGS = ("partial", "full", "random", "msls_weighted", "global", "global_combine")
SAMPLED = ("partial", "msls_weighted", "global_combine")  # one sample of the database per round
LISTED = ("global", "global_combine")  # need the pre-computed list
PAIRS_AT_ONCE = 512  # pairs of descriptors whose distances are taken in one piece: in the cache
SPARE = 16  # candidates beyond n that get an exact distance, each query with its own
FEW_SPARE = 2  # the same with one sample for all queries
QUERIES_AT_ONCE = 128  # rows of the table of a sample: it stays in the cache of a core
EPS = float(np.finfo(np.float32).eps)
NO_IMAGE = -1  # fills short rows

# (database rows, query rows), ascending -> descriptors (., D) float32 of these rows
Embed = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class MiningOptions:
    """Options of spec 1.2, under their names there."""

    mining: str = "partial"
    cache_refresh_rate: int = 1000  # queries per round
    negs_num_per_query: int = 10
    neg_samples_num: int = 1000
    neg_hardness: int = 10

    def __post_init__(self) -> None:
        if self.mining not in MININGS:
            raise ValueError(f"mining is {self.mining!r}, expected one of {MININGS}")
        for name in ("cache_refresh_rate", "negs_num_per_query", "neg_samples_num", "neg_hardness"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.mining == "global" and self.neg_hardness < self.negs_num_per_query:
            raise ValueError(
                f"neg_hardness={self.neg_hardness} is below negs_num_per_query="
                f"{self.negs_num_per_query}: mining=global draws the negatives among so many"
            )


@dataclass
class Draws:
    """The random streams of mining: numpy's legacy one and Python's, as published."""

    numpy: np.random.RandomState
    python: random.Random

    @classmethod
    def seeded(cls, seed: int) -> "Draws":
        """The streams that the published code has after seeding both with `seed`."""
        return cls(np.random.RandomState(seed), random.Random(seed))

    def state(self) -> dict[str, Any]:
        """Where both streams stand, in plain values that a checkpoint may hold."""
        kind, words, *rest = self.numpy.get_state(legacy=True)
        version, inner, gauss = self.python.getstate()
        numbers = [int(word) for word in words]
        return {"numpy": [kind, numbers, *rest], "python": [version, list(inner), gauss]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put both streams where `state` says."""
        kind, words, *rest = state["numpy"]
        self.numpy.set_state((kind, np.array(words, dtype=np.uint32), *rest))
        version, inner, gauss = state["python"]
        self.python.setstate((version, tuple(inner), gauss))

    def choice(self, total: int, count: int, weights: np.ndarray | None = None) -> np.ndarray:
        """`count` different numbers below `total`."""
        return self.numpy.choice(total, count, replace=False, p=weights)


@dataclass
class Round:
    """What one round of mining gave."""

    triplets: np.ndarray  # (q, 2 + n) int64: query, positive, negatives; nearest first if searched
    sampled_database: np.ndarray | None  # the round's sample of the database, in drawn order

    @property
    def queries(self) -> np.ndarray:
        """(q,) the drawn queries, in drawn order."""
        return self.triplets[:, 0]


@dataclass
class Miner:
    """Mining for one training set."""

    hard: Positives  # within 10 m; every query has one
    soft: Positives  # within 25 m
    database_size: int
    options: MiningOptions
    embed: Embed
    weights: np.ndarray | None = None  # (Q,) of mining=msls_weighted, sum 1
    hard_list: np.ndarray | None = None  # (Q, >= 1) of the ways LISTED
    memory: np.ndarray = field(init=False)  # (Q, n) of mining=full: negatives last found, or -1

    def __post_init__(self) -> None:
        n, total = self.options.negs_num_per_query, len(self.hard)
        if len(self.soft) != total or (self.hard.counts == 0).any():
            raise ValueError("every training query needs a hard positive, and soft ones listed")
        if self.options.mining == "msls_weighted" and self.weights is None:
            raise ValueError("mining=msls_weighted needs the weights of the queries: MSLS only")
        if self.options.mining in LISTED and self.hard_list is None:
            raise ValueError(f"mining={self.options.mining} needs a pre-computed list")
        self.memory = np.full((total, n), NO_IMAGE)
        self.count = self._clip("cache_refresh_rate", total, "training queries")
        self.sample_size = self._clip("neg_samples_num", self.database_size, "database images")

    def _clip(self, option: str, limit: int, of: str) -> int:
        asked = getattr(self.options, option)
        if asked > limit:
            logger.warning("%s=%d, but there are %d %s: all are taken", option, asked, limit, of)
        return min(asked, limit)

    def mine(self, draws: Draws) -> Round:
        """One round; numbers are drawn in the published order."""
        mining = self.options.mining
        weights = self.weights if mining == "msls_weighted" else None
        queries = draws.choice(len(self.hard), self.count, weights)
        sample = None
        if mining in SAMPLED:
            sample = draws.choice(self.database_size, self.sample_size)
        needed = self._rows_needed(queries, sample)
        features = Features(needed, queries, self.embed)
        positives = nearest_positive(features, queries, self.hard)
        if mining == "full":
            negatives = self._mine_full(features, queries, draws)
        elif mining == "random":
            negatives = self._mine_random(queries, draws)
        elif mining == "global":
            negatives = self._draw_listed(queries, self.options.negs_num_per_query, draws)
        else:
            negatives = self._mine_sampled(features, queries, sample, draws)
        return Round(np.column_stack([queries, positives, negatives]).astype(np.int64), sample)

    def _rows_needed(self, queries: np.ndarray, sample: np.ndarray | None) -> np.ndarray:
        """Ascending database rows whose descriptors a round looks at."""
        if self.options.mining == "full":
            return np.arange(self.database_size)
        rows = self.hard.take(queries).indices
        return np.unique(rows if sample is None else np.concatenate([rows, sample]))

    def _mine_sampled(
        self, features: "Features", queries: np.ndarray, sample: np.ndarray | None, draws: Draws
    ) -> np.ndarray:
        """partial, msls_weighted; global_combine: n // 2 of the list before the nearest ones."""
        assert sample is not None
        n, listed = self.options.negs_num_per_query, np.empty((len(queries), 0), np.int64)
        if self.options.mining == "global_combine":
            listed = self._draw_listed(queries, n // 2, draws)
        soft = self.soft.take(queries)
        near = nearest_negatives(features, queries, sample, soft, n - listed.shape[1])
        return np.concatenate([listed, near], axis=1)

    def _draw_listed(self, queries: np.ndarray, count: int, draws: Draws) -> np.ndarray:
        """(q, count) drawn from the first `neg_hardness` of each list, never its padding."""
        assert self.hard_list is not None
        drawn = np.empty((len(queries), count), np.int64)
        for i, query in enumerate(queries):
            row = self.hard_list[query, : self.options.neg_hardness]
            listed = row[row >= 0].tolist()
            if len(listed) < count:
                raise ValueError(
                    f"the pre-computed list has {len(listed)} negatives of training query {query} "
                    f"among its first {self.options.neg_hardness}, {count} are needed; make a "
                    "list with a larger hard_init"
                )
            drawn[i] = draws.python.sample(listed, count)
        return drawn

    def _mine_random(self, queries: np.ndarray, draws: Draws) -> np.ndarray:
        """(q, n) the first of a fresh sample that are no soft positives."""
        n, soft = self.options.negs_num_per_query, self.soft.take(queries)
        chosen = np.empty((len(queries), n), np.int64)
        for i in range(len(queries)):
            size = n + len(soft[i])
            if size > self.database_size:
                raise ValueError(_too_few(queries[i], self.database_size - len(soft[i]), n))
            sample = draws.choice(self.database_size, size)
            chosen[i] = sample[~np.isin(sample, soft[i])][:n]
        return chosen

    def _mine_full(self, features: "Features", queries: np.ndarray, draws: Draws) -> np.ndarray:
        """(q, n) nearest among a fresh sample and the last negatives of each query."""
        n, soft = self.options.negs_num_per_query, self.soft.take(queries)
        candidates = np.full((len(queries), self.sample_size + n), NO_IMAGE)
        for i, query in enumerate(queries):
            sample = draws.choice(self.database_size, self.sample_size)
            before = self.memory[query]
            rows = np.union1d(before[before >= 0], sample[~np.isin(sample, soft[i])])
            if len(rows) < n:
                raise ValueError(_too_few(query, len(rows), n))
            candidates[i, : len(rows)] = rows
        chosen = nearest_of_own(features, queries, candidates, n)
        self.memory[queries] = chosen
        return chosen


class Features:
    """Descriptors of some rows of the database and of some queries."""

    def __init__(self, database_rows: np.ndarray, queries: np.ndarray, embed: Embed) -> None:
        self._rows, self._queries = database_rows, np.unique(queries)
        self._database, self._query = embed(self._rows, self._queries)

    def database(self, rows: np.ndarray) -> np.ndarray:
        """(..., D) descriptors of database rows, all of which are held."""
        return self._database[np.searchsorted(self._rows, rows)]

    def query(self, rows: np.ndarray) -> np.ndarray:
        """(..., D) descriptors of queries."""
        return self._query[np.searchsorted(self._queries, rows)]

    def distances(
        self, queries: np.ndarray, rows: np.ndarray, dtype: type = np.float64
    ) -> np.ndarray:
        """(P,) squared distances of pairs (query, database row), computed in `dtype`."""
        made: np.ndarray = np.empty(len(queries), dtype)
        own, others = np.searchsorted(self._queries, queries), np.searchsorted(self._rows, rows)
        for start in range(0, len(queries), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            offset: np.ndarray = self._query[own[part]].astype(dtype, copy=False)
            offset = offset - self._database[others[part]]
            made[part] = np.einsum("pd,pd->p", offset, offset)
        return made

    @property
    def width(self) -> int:
        """D."""
        return self._database.shape[1]


def nearest_positive(features: Features, queries: np.ndarray, hard: Positives) -> np.ndarray:
    """(q,) the hard positive nearest by descriptor; equal ones by lower index.

    Distances in float32 leave few that rounding could have put first; those are taken in float64.
    The error of such a sum of squares is below (D + 2) eps of it.
    """
    own = hard.take(queries)
    row = np.repeat(np.arange(len(queries)), own.counts)
    rough = features.distances(queries[row], own.indices, np.float32)
    least = np.minimum.reduceat(rough, own.indptr[:-1])
    kept = np.flatnonzero(rough <= (1 + 4 * (features.width + 2) * EPS) * least[row])
    alone = np.bincount(row[kept], minlength=len(queries))[row[kept]] == 1
    distance = np.zeros(len(kept))
    close = kept[~alone]
    distance[~alone] = features.distances(queries[row[close]], own.indices[close])
    order = np.lexsort((own.indices[kept], distance, row[kept]))
    first = np.searchsorted(row[kept], np.arange(len(queries)))
    return own.indices[kept[order[first]]]


def nearest_negatives(
    features: Features, queries: np.ndarray, sample: np.ndarray, soft: Positives, n: int
) -> np.ndarray:
    """(q, n) of the `sample`, nearest first, without soft positives; equal ones in drawn order.

    A product in float32 for all queries at once chooses n + 2 candidates, which get exact
    distances. Where rounding might have hidden a nearer one, an exact search decides.
    """
    places, row = find_in_sample(sample, soft)
    short = len(sample) - np.bincount(row, minlength=len(queries)) < n
    if short.any():
        first = int(np.flatnonzero(short)[0])
        raise ValueError(_too_few(queries[first], len(sample) - int((row == first).sum()), n))
    vectors = features.database(sample)
    squares = np.einsum("md,md->m", vectors, vectors)
    columns = np.ascontiguousarray(-2 * vectors.T)
    chosen = np.empty((len(queries), n), np.int64)
    with threadpool_limits(1, "blas"):  # products this small are slower with several threads
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            part = slice(start, min(start + QUERIES_AT_ONCE, len(queries)))
            mine = slice(*np.searchsorted(row, [part.start, part.stop]))  # rows ascend
            own = features.query(queries[part])
            rough = own @ columns
            rough += squares
            rough[row[mine] - start, places[mine]] = np.inf
            near, certain = settle(own, vectors, rough, n)
            for i in np.flatnonzero(~certain):
                allowed = np.setdiff1d(np.arange(len(sample)), places[row == start + i])
                _, found = search(own[i : i + 1], vectors[allowed], n, metric="l2", progress=False)
                near[i] = allowed[found[0]]
            chosen[part] = sample[near]
    return chosen


def find_in_sample(sample: np.ndarray, soft: Positives) -> tuple[np.ndarray, np.ndarray]:
    """Soft positives that the sample holds: (P,) their places in it, (P,) row of the query."""
    place = np.full(max(sample.max(), soft.indices.max(initial=0)) + 1, NO_IMAGE)
    place[sample] = np.arange(len(sample))
    where = place[soft.indices]
    row = np.repeat(np.arange(len(soft)), soft.counts)
    return where[where >= 0], row[where >= 0]


def settle(
    queries: np.ndarray, vectors: np.ndarray, rough: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """(q, n) nearest of `vectors` (m, D) in exact order, and (q,) whether that is certain.

    `rough` (q, m): |v|^2 - 2 q v in float32, inf where not allowed. Its error is at most
    4 D eps (|v|^2 + 2 |q| |v|), twice what rounding can do.
    """
    keep = min(n + FEW_SPARE, rough.shape[1])
    values, index = torch.from_numpy(rough).topk(keep, dim=1, largest=False, sorted=False)
    few = np.sort(index.numpy(), axis=1)
    offset = np.subtract(vectors[few], queries[:, None], dtype=np.float64)
    exact = np.einsum("qkd,qkd->qk", offset, offset)
    exact[np.isinf(np.take_along_axis(rough, few, axis=1))] = np.inf
    order = np.argsort(exact, axis=1, kind="stable")[:, :n]
    last = np.take_along_axis(exact, order[:, -1:], axis=1)[:, 0]
    own = np.einsum("qd,qd->q", queries, queries, dtype=np.float64)
    longest = float(np.sqrt(np.einsum("md,md->m", vectors, vectors).max()))
    error = 4 * vectors.shape[1] * EPS * (longest**2 + 2 * np.sqrt(own) * longest)
    bound = values.max(dim=1).values.numpy() + own - error
    certain = (last < bound) | (keep == rough.shape[1])
    return np.take_along_axis(few, order, axis=1), certain


def nearest_of_own(
    features: Features, queries: np.ndarray, candidates: np.ndarray, n: int
) -> np.ndarray:
    """(q, n) nearest of each query's own `candidates` (q, m), ascending and padded with -1.

    Distances in float32 choose n + 16; those get exact ones.
    """
    width = candidates.shape[1]
    keep = min(n + SPARE, width)
    chosen = np.empty((len(queries), n), np.int64)
    step = max(1, PAIRS_AT_ONCE // width)
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        own = candidates[part]
        held = features.database(np.maximum(own, 0))  # (c, m, D)
        product = np.einsum("cmd,cd->cm", held, features.query(queries[part]), optimize=True)
        rough = np.einsum("cmd,cmd->cm", held, held) - 2 * product
        rough[own < 0] = np.inf
        few = np.sort(np.argpartition(rough, keep - 1, axis=1)[:, :keep], axis=1)
        rows = np.take_along_axis(own, few, axis=1)
        exact = features.distances(
            np.repeat(queries[part], keep), np.maximum(rows, 0).ravel()
        ).reshape(rows.shape)
        exact[rows < 0] = np.inf
        order = np.argsort(exact, axis=1, kind="stable")[:, :n]
        chosen[part] = np.take_along_axis(rows, order, axis=1)
    return chosen


def _too_few(query: int, found: int, n: int) -> str:
    return (
        f"training query {query} has {found} candidates that are no soft positives, "
        f"negs_num_per_query={n} are needed; raise neg_samples_num or take a larger set"
    )
