"""Scores that depend on a pair of vectors alone, and the order of a ranking made from them.

The score of a pair is defined, not measured: the D products (inner product) or squared differences
(squared L2 distance) in float64, summed by halving (element i and element i + ceil(n / 2) first,
then the same on the sums), and the total rounded to float32. Block sizes, threads, libraries and
devices have no say in it. Inside this package a score is a "goodness": the inner product, or minus
the squared distance, so that larger is better; a ranking is ordered by goodness, then lower index.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.torch_threads import workers

STEP = 1 << 17  # numbers per step: as float32 and float64 they stay in a cache of 2 MB
ROWS, COLUMNS = 256, 4096  # tile of the float64 search
VECTOR = 8  # float64 numbers of a machine word
DOUBLE = 2.0**-53  # unit round-off of float64
INDEX_MASK = 0xFFFFFFFF


def tree_sum(terms: Any) -> Any:
    """(P, D) float64 array or tensor -> (P,) row sums, added by halving; overwrites `terms`."""
    n = terms.shape[1]
    while n > 1:
        half = (n + 1) // 2
        terms[:, : n - half] += terms[:, half:n]
        n = half
    return terms[:, 0]


def defined_scores(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """Goodness of pairs by its definition: (P, D), (P, D) float32 -> (P,) float32."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    terms = a * b if metric == "ip" else -np.square(a - b)
    return tree_sum(terms).astype(np.float32) + np.float32(0)  # -0 becomes 0


class PairScorer:
    """Goodness of chosen (query, gallery) pairs, equal to `defined_scores` bit for bit.

    On the processor the sums are made by BLAS in whatever order it likes; where its rounding-error
    bound leaves two float32 values possible (about one pair in 10^5), the definition decides.
    On another device the definition is carried out as it stands, when the vectors fit there.
    """

    def __init__(
        self,
        queries: np.ndarray,
        gallery: np.ndarray,
        metric: str,
        norms: tuple[np.ndarray, np.ndarray],
        device: torch.device,
    ) -> None:
        """`queries` (Q, D), `gallery` (G, D); `norms`: their lengths, (Q,) and (G,) float64."""
        self.queries, self.gallery, self.metric, self.norms = queries, gallery, metric, norms
        self.device, self.resident = device, None
        if device.type == "cuda" and 4 * gallery.size < torch.cuda.mem_get_info(device)[0] // 3:
            self.resident = torch.from_numpy(np.asarray(gallery, np.float32)).to(device)

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        """`rows` (P,) ascending query numbers, `columns` (P,) gallery numbers -> (P,) float32."""
        if self.resident is not None:
            return self._on_device(rows, columns)
        r, c = rows.cpu().numpy(), columns.cpu().numpy()
        if not len(r):
            return torch.empty(0, device=rows.device)
        cuts = np.linspace(0, len(r), 1 + 8 * torch.get_num_threads()).astype(np.int64)
        parts = workers().map(lambda s: self.sums(r[s[0] : s[1]], c[s[0] : s[1]]), spans(cuts))
        return torch.from_numpy(np.concatenate(list(parts))).to(rows.device)

    def sums(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The same on the processor, for one thread's share, query by query."""
        sums = np.empty(len(rows))
        step = max(1, STEP // self.gallery.shape[1])
        raw = np.empty((step, self.gallery.shape[1]), self.gallery.dtype)
        wide = np.empty(raw.shape)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
            query = self.queries[rows[start]].astype(np.float64)
            for i in range(start, stop, step):
                n = min(step, stop - i)
                np.take(self.gallery, columns[i : i + n], axis=0, out=raw[:n], mode="clip")
                np.copyto(wide[:n], raw[:n])
                if self.metric == "ip":
                    sums[i : i + n] = row_dots(wide[:n], query)
                else:
                    wide[:n] -= query
                    sums[i : i + n] = -row_dots(wide[:n], wide[:n])
        if self.metric == "ip":
            size = self.norms[0][rows] * self.norms[1][columns]
        else:
            size = np.abs(sums)
        rounded, open_ = round_sums(sums, 2 * (raw.shape[1] + 4) * DOUBLE * size)
        rounded[open_] = self._define(rows[open_], columns[open_])
        return rounded

    def factor(self, part: slice, left: bool) -> Tensor:
        """(n, K) float64: `part` of the queries (`left`) or of the gallery, for inner products.

        K = D for these, at least D + 2 for q.g - |q|^2 / 2 - |g|^2 / 2, half the negative squared
        distance; the rest is zero, up to a whole number of VECTOR, which products are quick at.
        """
        vectors, norms = (self.queries if left else self.gallery), self.norms[0 if left else 1]
        n, dim = vectors[part].shape
        used = dim if self.metric == "ip" else dim + 2
        block = np.zeros((n, used + -used % VECTOR))
        block[:, :dim] = vectors[part]
        if self.metric == "l2":
            block[:, dim + left] = -0.5 * np.square(norms[part])
            block[:, dim + (not left)] = 1
        return torch.from_numpy(block)

    def chosen_of_tile(
        self, left: Tensor, first_row: int, part: slice, starts: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """The same for chosen pairs of a tile of (n, m) pairs, quicker where rows have several.

        `left`: `factor` of its n queries, which begin at `first_row`; `part`: its m gallery
        vectors. `columns` (P,): columns of the tile, row after row, those of row i from
        `starts[i]` to `starts[i + 1]`.
        """
        right = self.factor(part, left=False)
        zeros = torch.zeros(len(columns), dtype=torch.float64)
        chosen = torch.sparse_csr_tensor(
            torch.from_numpy(starts), torch.from_numpy(columns), zeros, (len(left), len(right)),
            check_invariants=False,
        )  # fmt: skip
        scale = 1.0 if self.metric == "ip" else 2.0
        sums = torch.sparse.sampled_addmm(chosen, left, right.T, beta=0, alpha=scale).values()
        a, b = self.norms[0][first_row : first_row + len(left)], self.norms[1][part].max()
        size = a * b if self.metric == "ip" else np.square(a + b)
        error = 4 * (self.gallery.shape[1] + 4) * DOUBLE * size
        rounded, open_ = round_sums(sums.numpy(), np.repeat(error, np.diff(starts)))
        rows = first_row - 1 + np.searchsorted(starts, open_, side="right")
        rounded[open_] = self._define(rows, part.start + columns[open_])
        return rounded

    def _define(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """`defined_scores` of the pairs."""
        goodness = np.empty(len(rows), np.float32)
        step = max(1, STEP // self.gallery.shape[1])
        for i in range(0, len(rows), step):
            a, b = self.queries[rows[i : i + step]], self.gallery[columns[i : i + step]]
            goodness[i : i + step] = defined_scores(a, b, self.metric)
        return goodness

    def _on_device(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The definition itself, in steps of 2^15 pairs (1 GB at D = 2048)."""
        assert self.resident is not None
        goodness = torch.empty(len(rows), device=rows.device)
        for i in range(0, len(rows), 1 << 15):
            used, place = torch.unique_consecutive(rows[i : i + (1 << 15)], return_inverse=True)
            mine = self.queries[used.cpu().numpy()].astype(np.float64)
            a = torch.from_numpy(mine).to(rows.device)[place]
            b = self.resident[columns[i : i + (1 << 15)].long()].double()
            terms = a.mul_(b) if self.metric == "ip" else a.sub_(b).square_().neg_()
            goodness[i : i + (1 << 15)] = tree_sum(terms)
        return goodness + 0.0


def round_sums(sums: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) float64 to float32, and the places where an error up to `error` leaves two of these."""
    low, high = np.empty(len(sums), np.float32), np.empty(len(sums), np.float32)
    np.subtract(sums, error, out=low, dtype=np.float64, casting="same_kind")
    np.add(sums, error, out=high, dtype=np.float64, casting="same_kind")
    open_ = np.flatnonzero(low != high)
    low += 0  # -0 becomes 0
    return low, open_


def spans(cuts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Neighbouring entries, where they differ."""
    return ((int(a), int(b)) for a, b in pairwise(cuts) if b > a)


def row_dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P, D) float64 with (D,) or (P, D) -> (P,) inner products, on the calling thread alone."""
    if hasattr(np, "vecdot"):  # numpy >= 2
        return np.vecdot(a, b)
    return np.einsum("ij,j->i" if b.ndim == 1 else "ij,ij->i", a, b)


def rank_keys(goodness: Tensor, indices: Tensor) -> Tensor:
    """int64 keys whose descending order is: larger float32 goodness first, then lower index."""
    bits = goodness.contiguous().view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (INDEX_MASK - indices.long())


def from_rank_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of `rank_keys`: (goodness float32, indices int64)."""
    ordered = (keys >> 32).int()
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), INDEX_MASK - (keys & INDEX_MASK)


def float64_search(
    scorer: PairScorer, rows: np.ndarray, k: int, budget: int, advance: Callable[[int], object]
) -> tuple[np.ndarray, np.ndarray]:
    """(goodness (R, k) float32, indices (R, k) int64) of the queries `rows`, by all float64 scores.

    Takes every pair: for small galleries, for k near G, and for rows that no margin can settle.
    `advance` is told the number of pairs done. Holds about `budget` bytes (at least one row).
    """
    n_gallery = len(scorer.gallery)
    step = int(np.clip(budget // (24 * n_gallery), 1, ROWS))
    goodness = np.empty((len(rows), k), np.float32)
    indices = np.empty((len(rows), k), np.int64)
    for i in range(0, len(rows), step):
        part = rows[i : i + step]
        keys = torch.empty((len(part), n_gallery), dtype=torch.int64, device=scorer.device)
        floor = torch.full((len(part), 1), -torch.inf, device=scorer.device)
        queries = torch.from_numpy(scorer.queries[part].astype(np.float64)).to(scorer.device)
        for start in range(0, n_gallery, COLUMNS):
            tile = _float64_tile(scorer, part, queries, start, floor)
            columns = torch.arange(start, start + tile.shape[1], device=scorer.device)
            keys[:, start : start + tile.shape[1]] = rank_keys(tile, columns)
            if start == 0 and k <= tile.shape[1] < n_gallery:  # k lower indices: ties lose later
                floor = tile.topk(k).values[:, -1:]
            advance(tile.numel())
        best = from_rank_keys(keys.topk(k).values)
        goodness[i : i + step], indices[i : i + step] = (x.cpu().numpy() for x in best)
    return goodness, indices


def _float64_tile(
    scorer: PairScorer, rows: np.ndarray, queries: Tensor, start: int, floor: Tensor
) -> Tensor:
    """Goodness of `rows` x COLUMNS gallery vectors from `start`; exact wherever above `floor`."""
    stop = start + COLUMNS
    block = torch.from_numpy(scorer.gallery[start:stop].astype(np.float64)).to(queries.device)
    a = torch.from_numpy(scorer.norms[0][rows]).to(queries.device)[:, None]
    b = torch.from_numpy(scorer.norms[1][start:stop]).to(queries.device)[None, :]
    sums = queries @ block.T
    if scorer.metric == "ip":
        error = 2 * (block.shape[1] + 4) * DOUBLE * a * b
        high = (sums + error).float()
    else:
        sums = (2 * sums - a.square() - b.square()).clamp_(max=0)
        error = 4 * (block.shape[1] + 4) * DOUBLE * (a + b).square()
        high = (sums + error).clamp_(max=0).float()
    goodness = sums.float() + 0.0
    open_ = torch.nonzero(((sums - error).float() != high) & (high > floor))
    for pairs in open_.split(1 << 12):
        r, c = pairs.cpu().numpy().T
        exact = defined_scores(scorer.queries[rows[r]], scorer.gallery[start + c], scorer.metric)
        goodness[pairs[:, 0], pairs[:, 1]] = torch.from_numpy(exact).to(goodness.device)
    return goodness
