"""Which positives and negatives of a round of mining are nearest, in exact order.

Distances of all candidates are taken in float32, in pieces that stay in the cache of a core. Where
rounding could have changed the order, few are taken again in float64, or searched exactly.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from r2former.datasets.place_set import Positives
from utils.knn import search

PAIRS_AT_ONCE = 512  # pairs of descriptors whose distances are taken in one piece
QUERIES_AT_ONCE = 128  # rows of a piece of the table of a sample
FEW_SPARE = 2  # candidates beyond n that are looked at, with one sample for all queries
SPARE = 16  # the same, each query with its own candidates
FEW_PASSES = 8  # so many smallest numbers are found by as many passes
EPS = float(np.finfo(np.float32).eps)

# (database rows, query rows), ascending -> descriptors (., D) float32 of these rows
Embed = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Features:
    """Descriptors of some rows of the database and of some queries."""

    def __init__(self, database_rows: np.ndarray, queries: np.ndarray, embed: Embed) -> None:
        """`database_rows`: ascending."""
        held = np.unique(queries)
        found = embed(database_rows, held)
        self._database, self._query = (np.asarray(part, np.float32) for part in found)
        self._database_place, self._query_place = invert(database_rows), invert(held)

    def database(self, rows: np.ndarray) -> np.ndarray:
        """(..., D) descriptors of database rows, all of which are held."""
        return self._database[self._database_place[rows]]

    def query(self, rows: np.ndarray) -> np.ndarray:
        """(..., D) descriptors of queries."""
        return self._query[self._query_place[rows]]

    def distances(
        self, queries: np.ndarray, rows: np.ndarray, dtype: type = np.float64
    ) -> np.ndarray:
        """(P,) squared distances of pairs (query, database row), computed in `dtype`."""
        made: np.ndarray = np.empty(len(queries), dtype)
        own, others = self._query_place[queries], self._database_place[rows]
        size = min(PAIRS_AT_ONCE, len(queries)), self.width
        rooms: list[np.ndarray] = [np.empty(size, kind) for kind in (np.float32, np.float32, dtype)]
        for start in range(0, len(queries), PAIRS_AT_ONCE):
            part = slice(start, min(start + PAIRS_AT_ONCE, len(queries)))
            query, row, offset = (room[: part.stop - start] for room in rooms)
            # all places exist; "clip" lets numpy write to `out` without a copy
            np.take(self._query, own[part], axis=0, out=query, mode="clip")
            np.take(self._database, others[part], axis=0, out=row, mode="clip")
            np.subtract(query, row, out=offset, dtype=dtype)
            np.einsum("pd,pd->p", offset, offset, out=made[part])
        return made

    @property
    def width(self) -> int:
        """D."""
        return self._database.shape[1]


def invert(rows: np.ndarray) -> np.ndarray:
    """(max + 1,) place of each of the different `rows`; the entries of others mean nothing."""
    place = np.empty(rows.max(initial=-1) + 1, np.int64)
    place[rows] = np.arange(len(rows))
    return place


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

    Products in float32 give n + 2 candidates. Where they are too close to each other for that,
    these get exact distances; where a nearer one might have been missed, an exact search decides.
    """
    places, row = find_in_sample(sample, soft)
    short = len(sample) - np.bincount(row, minlength=len(queries)) < n
    if short.any():
        first = int(np.flatnonzero(short)[0])
        raise ValueError(too_few(queries[first], len(sample) - int((row == first).sum()), n))
    vectors, own = features.database(sample), features.query(queries)
    values, near = look_at_sample(own, vectors, places, row, n + FEW_SPARE)
    error = rounding_error(own, vectors)
    # gaps to the next one, the last of these to the first that is left out
    following = np.pad(values, ((0, 0), (0, 1)), constant_values=np.inf)[:, 1 : n + 1]
    unsure = np.flatnonzero(~(following - values[:, :n] > error[:, None]).all(axis=1))
    if len(unsure):
        near[unsure, :n], certain = settle(
            own[unsure], vectors, values[unsure], near[unsure], error[unsure], n
        )
        for i in unsure[~certain]:
            allowed = np.setdiff1d(np.arange(len(sample)), places[row == i])
            _, found = search(own[i : i + 1], vectors[allowed], n, metric="l2", progress=False)
            near[i, :n] = allowed[found[0]]
    return sample[near[:, :n]]


def find_in_sample(sample: np.ndarray, soft: Positives) -> tuple[np.ndarray, np.ndarray]:
    """Soft positives that the sample holds: (P,) their places in it, (P,) row of the query."""
    place = np.full(max(sample.max(), soft.indices.max(initial=0)) + 1, -1)
    place[sample] = np.arange(len(sample))
    where = place[soft.indices]
    row = np.repeat(np.arange(len(soft)), soft.counts)
    return where[where >= 0], row[where >= 0]


def look_at_sample(
    own: np.ndarray, vectors: np.ndarray, places: np.ndarray, row: np.ndarray, keep: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `keep` smallest |v|^2 - 2 q v of each query and their places: (q, keep), ascending.

    `own` (q, D), `vectors` (m, D); entries (row, place) are not allowed, `row` ascends. Rows with
    fewer allowed ones end with inf; with m < keep there are m columns.
    """
    keep = min(keep, len(vectors))
    squares = np.einsum("md,md->m", vectors, vectors)
    columns = np.ascontiguousarray(-2 * vectors.T)
    values = np.empty((len(own), keep), np.float32)
    near = np.empty((len(own), keep), np.int64)
    room = np.empty((min(QUERIES_AT_ONCE, len(own)), len(vectors)), np.float32)
    # products this small are slower with several threads
    with _libraries().limit(limits=1, user_api="blas"):
        for start in range(0, len(own), QUERIES_AT_ONCE):
            part = slice(start, min(start + QUERIES_AT_ONCE, len(own)))
            rough = room[: part.stop - start]
            np.matmul(own[part], columns, out=rough)
            rough += squares
            banned = slice(*np.searchsorted(row, [part.start, part.stop]))
            rough[row[banned] - start, places[banned]] = np.inf
            values[part], near[part] = find_smallest(rough, keep)
    return values, near


def find_smallest(table: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """The `keep` smallest numbers of each row, ascending, and their columns; `table` is used up.

    Columns of inf mean nothing.
    """
    if keep > FEW_PASSES:
        found, columns = torch.from_numpy(table).topk(keep, dim=1, largest=False, sorted=True)
        return found.numpy(), columns.numpy()
    values = np.empty((len(table), keep), table.dtype)
    index = np.empty((len(table), keep), np.int64)
    row = np.arange(len(table))
    for k in range(keep):
        index[:, k] = table.argmin(axis=1)
        values[:, k] = table[row, index[:, k]]
        table[row, index[:, k]] = np.inf
    return values, index


def rounding_error(own: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(q,) by how much two values |v|^2 - 2 q v in float32 may be out of order.

    4 D eps (|v|^2 + 2 |q| |v|) for the longest v: twice what rounding can do to one of them.
    """
    length = np.sqrt(np.einsum("qd,qd->q", own, own, dtype=np.float64))
    longest = float(np.sqrt(np.einsum("md,md->m", vectors, vectors).max()))
    return 4 * vectors.shape[1] * EPS * longest * (longest + 2 * length)


def settle(
    own: np.ndarray, vectors: np.ndarray, values: np.ndarray, near: np.ndarray,
    error: np.ndarray, n: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(q, n) nearest of the candidates `near` in exact order, and (q,) whether that is certain.

    `values`, `near` (q, keep) of `look_at_sample`, `error` (q,) of `rounding_error`.
    """
    places = np.argsort(near, axis=1)
    few, rough = (
        np.take_along_axis(near, places, axis=1),
        np.take_along_axis(values, places, axis=1),
    )
    offset = np.subtract(vectors[few], own[:, None], dtype=np.float64)
    exact = np.einsum("qkd,qkd->qk", offset, offset)
    exact[np.isinf(rough)] = np.inf
    order = np.argsort(exact, axis=1, kind="stable")[:, :n]
    last = np.take_along_axis(exact, order[:, -1:], axis=1)[:, 0]
    bound = values.max(axis=1) + np.einsum("qd,qd->q", own, own, dtype=np.float64) - error
    certain = (last < bound) | (near.shape[1] == len(vectors))
    return np.take_along_axis(few, order, axis=1), certain


@cache
def _libraries() -> ThreadpoolController:
    """The libraries of this process that have threads: finding them takes milliseconds."""
    return ThreadpoolController()


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


def too_few(query: int, found: int, n: int) -> str:
    """The message for a query with fewer than `n` candidates."""
    return (
        f"training query {query} has {found} candidates that are no soft positives, "
        f"negs_num_per_query={n} are needed; raise neg_samples_num or take a larger set"
    )
