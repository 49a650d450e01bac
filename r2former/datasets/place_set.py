"""Queries and database of one place recognition set, with positions where they are known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from utils.nn_tables import hash_names

QUERIES_AT_ONCE = 20_000  # bounds the lists that a ball query makes
# widens the ball of the tree: the answer itself is decided by the distance in float64
TREE_MARGIN = 1e-6
CITY_APART = 1e8  # metres


@dataclass(frozen=True)
class Positives(Sequence[np.ndarray]):
    """Database images within a radius of each query: ascending int64 indices by query."""

    indptr: np.ndarray  # (Q + 1,) int64: row q is indices[indptr[q]:indptr[q + 1]]
    indices: np.ndarray  # (M,) int64

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, query: Any) -> Any:
        """The (P,) indices of one query."""
        if not 0 <= query < len(self):
            raise IndexError(f"query {query} of {len(self)}")
        return self.indices[self.indptr[query] : self.indptr[query + 1]]

    @property
    def counts(self) -> np.ndarray:
        """(Q,) number of positives of each query."""
        return np.diff(self.indptr)

    def take(self, queries: np.ndarray) -> "Positives":
        """The rows of `queries` (int indices), in that order."""
        counts = self.counts[queries]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        shift = np.repeat(self.indptr[:-1][queries] - indptr[:-1], counts)
        return Positives(indptr, self.indices[shift + np.arange(indptr[-1])])


@dataclass(frozen=True)
class PlaceSet:
    """One split of a set; paths are whole, lists in the published order."""

    name: str  # name and split: "msls val"
    protocol: str  # in words: which queries count, and where positives may lie
    database_paths: list[str]
    query_paths: list[str]
    database_utm: np.ndarray | None = None  # (N, 2) float64: easting, northing in metres
    query_utm: np.ndarray | None = None  # (Q, 2)
    database_group: np.ndarray | None = None  # (N,) int: positives lie in the query's own group
    query_group: np.ndarray | None = None  # (Q,), cities of MSLS
    query_weights: np.ndarray | None = None  # (Q,) how often mining=msls_weighted draws a query
    root: str = ""  # folder that origins name paths by
    _cache: dict[float, Positives] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for kind, paths in (("database", self.database_paths), ("query", self.query_paths)):
            if not paths:
                raise ValueError(f"{self.name} has no {kind} image; check its folder")
        for part, paths in (
            (self.database_utm, self.database_paths),
            (self.query_utm, self.query_paths),
        ):
            if part is not None and part.shape != (len(paths), 2):
                raise ValueError(f"{self.name}: positions {part.shape} of {len(paths)} images")

    @property
    def has_positions(self) -> bool:
        """Whether positives are known at all: not in MSLS's test split."""
        return self.database_utm is not None and self.query_utm is not None

    def positives(self, radius: float) -> Positives:
        """Database images within `radius` metres of each query, the radius included."""
        if self.database_utm is None or self.query_utm is None:
            raise ValueError(
                f"{self.name} has no positions, so no positives: recall cannot be measured; ask "
                "for ranked lists, or name the files @easting@northing@...@.jpg"
            )
        if not radius > 0:
            raise ValueError(f"the radius is {radius} m, expected a distance above 0")
        if radius not in self._cache:
            query, found = within_radius(
                self.query_utm, self.database_utm, radius, self.query_group, self.database_group
            )
            indptr = np.searchsorted(query, np.arange(len(self.query_utm) + 1))
            self._cache[radius] = Positives(indptr.astype(np.int64), found)
        return self._cache[radius]

    def places_of(self, groups: np.ndarray) -> np.ndarray:
        """(G, T, 3) float64 of groups (G, T) (query, database images): easting, northing, city.

        The third coordinate keeps cities apart: positions of one mean nothing in another.
        """
        if self.database_utm is None or self.query_utm is None:
            raise ValueError(f"{self.name} has no positions to tell places apart by")
        query, others = groups[:, :1], groups[:, 1:]
        utm = np.concatenate([self.query_utm[query], self.database_utm[others]], axis=1)
        city = np.zeros(groups.shape)
        if self.query_group is not None and self.database_group is not None:
            city[:, :1], city[:, 1:] = self.query_group[query], self.database_group[others]
        return np.concatenate([utm, CITY_APART * city[..., None]], axis=2)

    def with_positives_only(self, radius: float) -> "PlaceSet":
        """The same set without the queries that have no positive within `radius`."""
        kept = np.flatnonzero(self.positives(radius).counts)
        if not len(kept):
            raise ValueError(
                f"no query of {self.name} has a database image within {radius} m; check the "
                "positions (easting, then northing, in metres) or raise the distance threshold"
            )
        return self.take(kept)

    def take(self, kept: np.ndarray) -> "PlaceSet":
        """The same set with the queries `kept` (int indices) only."""

        def part(rows: np.ndarray | None) -> np.ndarray | None:
            return None if rows is None else rows[kept]

        return PlaceSet(
            self.name,
            self.protocol,
            self.database_paths,
            [self.query_paths[q] for q in kept],
            self.database_utm,
            part(self.query_utm),
            self.database_group,
            part(self.query_group),
            part(self.query_weights),
            self.root,
            {radius: found.take(kept) for radius, found in self._cache.items()},
        )

    def keys(self, paths: list[str]) -> list[str]:
        """File names without extension: what MSLS calls keys."""
        return [Path(path).stem for path in paths]

    def origin(self) -> dict[str, Any]:
        """What a file made for this set records, to be compared later: plain values."""

        def relative(paths: list[str]) -> list[str]:
            start = len(self.root) + 1 if self.root else 0
            return [path[start:] for path in paths]

        return {
            "database": hash_names(relative(self.database_paths)),
            "queries": hash_names(relative(self.query_paths)),
            "database count": len(self.database_paths),
            "query count": len(self.query_paths),
        }


def within_radius(
    queries: np.ndarray,
    database: np.ndarray,
    radius: float,
    query_group: np.ndarray | None = None,
    database_group: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (query, database) at most `radius` apart, sorted: two (M,) int64 arrays.

    Distances are Euclidean, in float64. With groups only pairs of the same group count.
    """
    if query_group is None or database_group is None:
        parts = [(np.arange(len(queries)), np.arange(len(database)))]
    else:
        groups = np.unique(query_group)
        parts = [
            (np.flatnonzero(query_group == g), np.flatnonzero(database_group == g)) for g in groups
        ]
    found = [_ball(queries, database, radius, q, d) for q, d in parts]
    pairs = np.concatenate([np.zeros((2, 0), np.int64), *found], axis=1)
    order = np.lexsort((pairs[1], pairs[0]))
    return pairs[0, order], pairs[1, order]


def _ball(
    queries: np.ndarray, database: np.ndarray, radius: float, q: np.ndarray, d: np.ndarray
) -> np.ndarray:
    """(2, M) pairs of the rows `q` and `d` by a k-d tree."""
    found = [np.zeros((2, 0), np.int64)]
    if not len(d):
        return found[0]
    tree = cKDTree(database[d])
    for start in range(0, len(q), QUERIES_AT_ONCE):
        rows = q[start : start + QUERIES_AT_ONCE]
        lists = tree.query_ball_point(queries[rows], radius * (1 + TREE_MARGIN))
        counts = np.fromiter(map(len, lists), np.int64, len(rows))
        near = d[np.fromiter(chain.from_iterable(lists), np.int64, int(counts.sum()))]
        query = np.repeat(rows, counts)
        offset = queries[query] - database[near]
        kept = np.sqrt((offset**2).sum(axis=1)) <= radius
        found.append(np.stack([query[kept], near[kept]]))
    return np.concatenate(found, axis=1)
