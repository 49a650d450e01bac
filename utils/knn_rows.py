"""Exact search for many neighbours: whole rows of scores at a time, on the processor.

Tables of candidates (`knn_certified`) cost per kept pair, which is little for the first hundred
and most of the time for the first thousand. Here a few queries at a time meet the whole gallery in
one product of low precision, which tells the floor of each row by the same error bounds, and who
is at or above it. These pairs of many queries get their defined scores together, tile after tile
of the gallery, so that a vector is fetched once for all who need it; then each row is sorted.
"""

import warnings
from threading import local
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.knn_certified import (
    OUTPUT_ERROR,
    Operand,
    check_bound,
    full_precision,
    lowest_values,
    value_errors,
)
from utils.knn_codes import (
    flip,
    from_codes,
    group_maxima,
    least_codes,
    select_kth,
    true_places,
)
from utils.knn_exact import PairScorer, from_rank_keys, rank_keys
from utils.torch_threads import workers

ROWS = 1024  # queries of a block at most
FEW = 128  # queries of a product, by one thread: its values stay in the cache
WIDTH = 4096  # gallery vectors of a tile
TOGETHER = 4  # codes of a row that stand for one in the search of its k-th
SHARES = 8  # parts of a block that are sorted by a thread at a time
BEYOND = 1.25  # squared distances are shifted by so many times the k-th one of the block before


def most(n_gallery: int, k: int) -> int:
    """Pairs of a row that are taken in."""
    return 16 * k + n_gallery // 16


class Product(NamedTuple):
    """What a product of a few queries with the gallery told."""

    lost: np.ndarray  # (n,) bool: rows with too many pairs to take in, which are left out
    at: np.ndarray  # (P,) int64 places in (n, G) of the pairs that can be among the best of a row
    cuts: np.ndarray  # (n, tiles + 1) int64: where the pairs of a row and a tile begin in `at`
    kth: float  # mean of the k-th values, nearly
    values: Tensor  # of the first row's pairs, to be held against their scores
    error: Tensor  # (1,) E0 of these


class RowSearch:
    """The k best of any queries, their scores taken over the whole gallery at once."""

    def __init__(self, left: Operand, right: Operand, scorer: PairScorer, k: int) -> None:
        """`left`, `right`: the factors of queries and gallery, as in `collect_candidates`."""
        self.left, self.right, self.scorer, self.k = left, right, scorer, k
        self.width, self.metric = len(right.norms), scorer.metric
        self.factor = right.block(slice(0, self.width), left=False).T
        right.kept = None  # the factor has these numbers, and queries are few at a time
        self.unit, self.shift = OUTPUT_ERROR[right.dtype], 0.0
        self.edges = np.append(np.arange(0, self.width, WIDTH), self.width)
        self.of_thread = local()
        self.goodness = np.empty((ROWS, k), np.float32)
        self.indices = np.empty((ROWS, k), np.int64)
        with warnings.catch_warnings():  # the first sparse tensor of a process says that it is new
            warnings.simplefilter("ignore", UserWarning)
            torch.zeros(1, 1).to_sparse_csr()

    @staticmethod
    def memory(n_gallery: int, itemsize: int, k: int) -> tuple[int, int]:
        """Bytes held throughout, beside the factor; bytes per query of a block at the most."""
        return torch.get_num_threads() * FEW * n_gallery * (itemsize + 2), 24 * most(n_gallery, k)

    def __call__(self, part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Goodness (n, k) float32, indices (n, k) int64 of at most ROWS queries; pairs scored.

        Also which rows are lost (n,) bool: much of the gallery can be among their best, and their
        numbers mean nothing. The arrays lie in memory that the next call writes to.
        """
        starts = range(part.start, part.stop, FEW)
        parts = [slice(start, min(start + FEW, part.stop)) for start in starts]
        with full_precision():
            products = list(workers().map(self._multiply, parts))
        n_pairs = self._settle(part, products)
        if self.metric == "l2":
            kth = np.mean([product.kth for product in products])
            self.shift = BEYOND * max(0.0, self.shift - float(kth))
        lost = np.concatenate([product.lost for product in products])
        return self.goodness[: len(lost)], self.indices[: len(lost)], lost, n_pairs

    def _multiply(self, part: slice) -> Product:
        """All pairs of the queries `part` that can be among the k best of their row."""
        if not hasattr(self.of_thread, "values"):
            self.of_thread.values = torch.empty((FEW, self.width), dtype=self.right.dtype)
        values = self.of_thread.values[: part.stop - part.start]
        torch.mm(self.left.block(part, left=True, shift=self.shift), self.factor, out=values)
        errors = value_errors(self.left, self.right, part, self.shift)
        codes = values.view(torch.int16) if values.dtype == torch.bfloat16 else values
        kth = from_codes(self._kth(codes))
        floors = lowest_values(kth, errors, self.unit)
        if codes is not values and not (floors >= 0).all():
            flip(codes.numpy())  # bits that are negative numbers have another order among them
            kth = from_codes(self._kth(codes))
            floors = lowest_values(kth, errors, self.unit)
        lost, at = self._reaching(codes.numpy(), least_codes(floors, codes.dtype).numpy())
        cuts = np.searchsorted(at, self.width * np.arange(len(codes))[:, None] + self.edges)
        some = from_codes(codes[0, torch.from_numpy(at[: cuts[0, -1]])])
        return Product(lost, at, cuts, float(kth.double().mean()), some, errors[:1])

    def _kth(self, codes: Tensor) -> Tensor:
        """Lower bound of the k-th largest code of each row, nearly equal to it."""
        whole = self.width - self.width % TOGETHER
        if whole < 8 * self.k * TOGETHER:
            return torch.from_numpy(select_kth(codes.numpy().copy(), self.k))
        maxima = group_maxima(codes[:, :whole], TOGETHER, by_column=False)
        return torch.from_numpy(select_kth(maxima.numpy(), self.k))

    def _reaching(self, codes: np.ndarray, floors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows that are lost (n,) and the places (P,) of codes at or above the others' floors."""
        above = np.zeros(codes.size + -codes.size % 8, bool)
        rows = above[: codes.size].reshape(codes.shape)
        np.greater_equal(codes, floors[:, None], out=rows)
        lost = np.array([np.count_nonzero(row) for row in rows]) > most(self.width, self.k)
        rows[lost] = False
        return lost, true_places(above)

    def _settle(self, part: slice, products: list[Product]) -> int:
        """Score the pairs and write the results of the queries `part`; how many pairs it took."""
        n, queries = part.stop - part.start, self.scorer.factor(part, left=True)
        at = np.concatenate([product.at for product in products])
        skipped = np.cumsum([0, *(len(product.at) for product in products)])
        cuts = np.concatenate([x.cuts + skip for x, skip in zip(products, skipped, strict=False)])
        keys = np.full(
            (n, max(self.k, np.ptp(cuts[:, [0, -1]], axis=1).max())), np.iinfo(np.int64).min
        )
        first_at = self.width * (np.arange(n) % FEW)
        first_key = keys.shape[1] * np.arange(n)

        def score(tile: int) -> None:
            start, counts = self.edges[tile], cuts[:, tile + 1] - cuts[:, tile]
            starts = np.concatenate([[0], np.cumsum(counts)])
            mine = np.arange(starts[-1]) + np.repeat(cuts[:, tile] - starts[:-1], counts)
            columns = at[mine] - np.repeat(first_at + start, counts)
            vectors = slice(start, self.edges[tile + 1])
            goodness = self.scorer.chosen_of_tile(queries, part.start, vectors, starts, columns)
            columns += start
            mine += np.repeat(first_key - cuts[:, 0], counts)
            found = rank_keys(torch.from_numpy(goodness), torch.from_numpy(columns))
            keys.reshape(-1)[mine] = found.numpy()

        def sort(rows: np.ndarray) -> None:
            mine = keys[rows[0] : rows[-1] + 1]
            mine.sort(axis=1)
            best = mine[:, : -self.k - 1 : -1].copy()  # of a stride that torch takes
            goodness, indices = from_rank_keys(torch.from_numpy(best))
            self.goodness[rows], self.indices[rows] = goodness.numpy(), indices.numpy()

        list(workers().map(score, range(len(self.edges) - 1)))
        for product, found in zip(products, keys[::FEW], strict=True):
            self._check(product, torch.from_numpy(found[: len(product.values)]))
        list(workers().map(sort, np.array_split(np.arange(n), min(n, SHARES))))
        return len(at)

    def _check(self, product: Product, keys: Tensor) -> None:
        """RuntimeError where scores of the first row lie further from their values than can be."""
        goodness = from_rank_keys(keys)[0].double()
        goodness += self.shift * (1 if self.metric == "ip" else 2)
        errors = product.error.expand(goodness.shape)
        check_bound(product.values, goodness, errors, self.unit, self.metric)
