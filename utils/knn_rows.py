"""Exact search for many neighbours: whole rows of scores at a time, on the processor.

Tables of candidates (`knn_certified`) cost per kept pair, which is little for the first hundred
and most of the time for the first thousand. Here a few queries meet the whole gallery in one
product of low precision; everyone at or above the floor of a row gets its defined score at once,
by the same error bounds, and the row is sorted.
"""

import numpy as np
import torch

from utils.knn_certified import (
    OUTPUT_ERROR,
    Operand,
    check_bound,
    full_precision,
    lowest_values,
    value_errors,
)
from utils.knn_codes import as_codes, from_codes, kth_at_least, least_codes
from utils.knn_exact import PairScorer, from_rank_keys, rank_keys, workers

ROWS = 256  # queries of a product
SHARE = 16  # of them for a thread at a time


class RowSearch:
    """The k best of any queries, their scores taken over the whole gallery at once."""

    def __init__(self, left: Operand, right: Operand, scorer: PairScorer, k: int) -> None:
        """`left`, `right`: the factors of queries and gallery, as in `collect_candidates`."""
        self.left, self.right, self.scorer, self.k = left, right, scorer, k
        self.factor = right.block(slice(0, len(right.norms)), left=False).T

    def __call__(self, part: slice) -> tuple[np.ndarray, np.ndarray, int]:
        """Goodness (n, k) float32, indices (n, k) int64 of the queries `part`; pairs scored."""
        with full_precision():
            values = torch.mm(self.left.block(part, left=True), self.factor)
        codes, errors = as_codes(values), value_errors(self.left, self.right, part)
        numbers, own = codes.numpy(), errors.numpy()
        unit = OUTPUT_ERROR[self.right.dtype]
        kth = from_codes(kth_at_least(codes, self.k, by_column=False))
        floors = least_codes(lowest_values(kth, errors, unit), codes.dtype).numpy()
        best = np.empty((len(codes), self.k), np.int64)

        def settle(start: int) -> int:
            rows = range(start, min(start + SHARE, len(codes)))
            found = [np.flatnonzero(numbers[i] >= floors[i]) for i in rows]
            columns, ends = np.concatenate(found), np.cumsum([len(x) for x in found])
            of_row = np.repeat(np.arange(rows.start, rows.stop), np.diff(ends, prepend=0))
            goodness = torch.from_numpy(self.scorer.sums(part.start + of_row, columns))
            low = from_codes(torch.from_numpy(numbers[of_row, columns]))
            error = torch.from_numpy(own[of_row])
            check_bound(low, goodness, error, unit, self.scorer.metric)
            keys = rank_keys(goodness, torch.from_numpy(columns)).numpy()
            for i, of_one in zip(rows, np.split(keys, ends[:-1]), strict=True):
                of_one.sort()
                best[i] = of_one[: -self.k - 1 : -1]
            return len(columns)

        n_pairs = sum(workers().map(settle, range(0, len(codes), SHARE)))
        goodness, indices = from_rank_keys(torch.from_numpy(best))
        return goodness.numpy(), indices.numpy(), n_pairs
