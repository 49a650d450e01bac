"""Hard negatives for training: every way of the published code (R2Former, Sec. 3.4; spec 6).

A round draws queries, looks at their descriptors under the current model, and gives a triplet row
each: (query, positive, negative 1 .. n). Positive: the hard positive (within 10 m) nearest by
descriptor. Negatives are never soft positives (within 25 m).
"""

import logging
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from r2former.datasets.place_set import Positives
from r2former.nearest import (
    Embed,
    Features,
    nearest_negatives,
    nearest_of_own,
    nearest_positive,
    too_few,
)

logger = logging.getLogger(__name__)

MININGS = ("partial", "full", "random", "msls_weighted", "global", "global_combine")
SAMPLED = ("partial", "msls_weighted", "global_combine")  # one sample of the database per round
LISTED = ("global", "global_combine")  # need the pre-computed list
NO_IMAGE = -1  # fills short rows


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
        needed = np.zeros(self.database_size, bool)
        needed[self.hard.take(queries).indices] = True
        if sample is not None:
            needed[sample] = True
        return np.flatnonzero(needed)

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
                raise ValueError(too_few(queries[i], self.database_size - len(soft[i]), n))
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
                raise ValueError(too_few(query, len(rows), n))
            candidates[i, : len(rows)] = rows
        chosen = nearest_of_own(features, queries, candidates, n)
        self.memory[queries] = chosen
        return chosen
