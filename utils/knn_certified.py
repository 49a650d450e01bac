"""First pass of the exact search: scores in low precision, and who can still be in the top k.

A "value" is the inner product, or minus half the squared distance, as the fast product computes
it (bfloat16 operands, float32 sums, bfloat16 output; or all float32). It differs from the defined
score (`knn_exact`) by at most

    E(v) = |v| u + E0,   E0 = |q - q'| |g| + |q'| |g - g'| + slack K 2^-24 (|q'| |g'| + ...),

with q', g' the rounded vectors whose losses |q - q'| are measured, u the rounding of the output,
K the length of the sums. A pair whose value plus error stays below k lower bounds of others of its
row cannot be among the first k, not even by the rounding of the score; all others are kept as
candidates. So a row's candidates are certain to hold its exact first k; a row with more of them
than its table has room for ("spilled") is left to a more precise pass.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from utils.knn_codes import (
    as_codes,
    at_or_above,
    entries,
    from_codes,
    kth_at_least,
    kth_largest,
    least_codes,
    stable_order,
)
from utils.knn_exact import PairScorer, from_rank_keys, rank_keys

CHUNK = 1024  # vectors per step of preparation
GROWTH = 3  # floors are raised whenever this many times more of the gallery has been seen
LARGEST = torch.finfo(torch.float32).max
SINGLE = 2.0**-24  # unit round-off of float32
OUTPUT_ERROR = {torch.float32: 0.0, torch.bfloat16: 2.0**-8}
# Products of bfloat16 are exact in float32; processors add with one or two roundings per term,
# tensor cores cut off bits instead. The accumulated error is slack * K * 2^-24 * sum of |terms|.
SLACK = {"cpu": 2.0, "cuda": 4.0}


def to_tensor(block: np.ndarray, device: torch.device) -> Tensor:
    """A float32 copy of the block on `device`."""
    return torch.from_numpy(np.array(block, dtype=np.float32, order="C")).to(device)


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products are float32 products inside (no TF32, no bfloat16 behind the scenes)."""
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        matmul.allow_bf16_reduced_precision_reduction = before[1]


class Operand:
    """One factor of the product in the precision of the pass, with what rounding took from it."""

    def __init__(
        self, vectors: np.ndarray, dtype: torch.dtype, metric: str, device: torch.device, keep: bool
    ) -> None:
        """`vectors` (N, D); `keep` holds the rounded copy (N, D) in memory, else made anew."""
        self.vectors, self.dtype, self.metric, self.device = vectors, dtype, metric, device
        self.norms = np.empty(len(vectors))  # float64 lengths; NaN or inf where an element is
        self.losses = np.zeros(len(vectors))  # float64 lengths of what rounding took off
        self.kept = None
        if keep and dtype != torch.float32:
            self.kept = torch.empty(vectors.shape, dtype=dtype, device=device)
        for start in range(0, len(vectors), CHUNK):
            block = to_tensor(vectors[start : start + CHUNK], device)
            part = slice(start, start + len(block))
            self.norms[part] = row_norms(block)
            if dtype != torch.float32:
                rounded = block.to(dtype)
                self.losses[part] = row_norms(block.sub_(rounded.float()))
                if self.kept is not None:
                    self.kept[part] = rounded

    def in_float32(self) -> "Operand":
        """The same vectors for a pass in float32, nothing lost."""
        other = copy.copy(self)
        other.dtype, other.kept, other.losses = torch.float32, None, np.zeros_like(self.losses)
        return other

    def block(self, part: slice, left: bool, shift: float = 0.0) -> Tensor:
        """(n, K) rows of the left or right factor; K = D, or D + 6 for the squared distance.

        q.g - |q|^2 / 2 - |g|^2 / 2 as one product: each half square is split into three numbers
        of the precision (24 bits at least), which meet ones on the other side. `shift` is added
        to all these values (not to inner products): those near zero are rounded least.
        """
        if self.kept is not None:
            block = self.kept[part]
        else:
            block = to_tensor(self.vectors[part], self.device).to(self.dtype)
        if self.metric == "ip":
            return block
        rest = torch.from_numpy(shift - 0.5 * self.norms[part] ** 2).to(self.device)
        halves = torch.empty(len(block), 3, dtype=self.dtype, device=self.device)
        for i in range(3):
            halves[:, i] = rest.to(self.dtype)
            rest = rest - halves[:, i].double()
        ones = torch.ones_like(halves)
        return torch.cat([block, *((ones, halves) if left else (halves, ones))], dim=1)


def row_norms(block: Tensor) -> np.ndarray:
    """(n, D) float32 -> (n,) float64 lengths, which cannot overflow."""
    return block.double().square_().sum(dim=1).sqrt_().cpu().numpy()


def value_errors(queries: Operand, gallery: Operand, part: slice, shift: float = 0.0) -> Tensor:
    """E0 of the rows `part` against any gallery vector: (n,) float64; inf where unbounded.

    `shift`: what was added to squared distances; the rounding of scores is that of unshifted ones.
    """
    a, a_loss = queries.norms[part], queries.losses[part]
    b, b_loss = gallery.norms.max(), gallery.losses.max()
    terms = (a + a_loss) * (b + b_loss)
    error = a_loss * b + (a + a_loss) * b_loss
    length = queries.vectors.shape[1]
    if gallery.metric == "l2":
        halves = 0.5 * (a**2 + b**2) + abs(shift)
        terms, length = terms + halves, length + 6
        error = error + SINGLE * (halves + 4 * abs(shift))
    error = error + SLACK[queries.device.type] * length * SINGLE * terms
    error = 1.0001 * error + length * 2.0**-125 * (1 + a + b)  # the tail: denormals taken as 0
    return torch.from_numpy(np.nan_to_num(error, nan=np.inf)).to(queries.device)


def rank_in_row(rows: Tensor, count: Tensor) -> Tensor:
    """Ascending row numbers, `count` of each -> how many entries of its row precede each one."""
    first = count.cumsum(0) - count
    return torch.arange(len(rows), device=rows.device) - first[rows]


def lowest_values(kth: Tensor, errors: Tensor, unit: float) -> Tensor:
    """Values below which a pair cannot be among the k best of its row: (n,) float32.

    `kth` (n,): k values of the row are at least that; `errors` (n,) float64 and `unit`: of a value.
    """
    kth = kth.double()
    rounding = kth.abs() * 2.0**-22 + 2.0**-140  # two float32 steps of the final score
    least = kth - kth.abs() * unit - 2 * errors - rounding
    floor = torch.where(least >= 0, least / (1 + unit), least / (1 - unit))
    floor = floor.nan_to_num(nan=-torch.inf, neginf=-torch.inf).float()
    return torch.nextafter(floor, torch.full_like(floor, -torch.inf))


def check_bound(values: Tensor, goodness: Tensor, errors: Tensor, unit: float, metric: str) -> None:
    """RuntimeError where defined scores (or -inf) lie further from their values than can be."""
    scale = 1.0 if metric == "ip" else 2.0  # goodness = scale * exact value
    size = scale * values.abs().double()
    off = goodness.double() - scale * values.double()
    bound = size * (unit + 2.0**-23) + scale * errors + 2.0**-140
    if (off.abs() > bound)[off > -torch.inf].any():
        raise RuntimeError(
            "the low-precision products of this device break their rounding-error bound; "
            'search with first_pass="float32" or "float64"'
        )


class Candidates:
    """Tables of the gallery vectors that can still be among the first k of each row of a block."""

    def __init__(self, k: int, errors: Tensor, unit: float) -> None:
        """`errors` (n,) float64: E0 of the rows; `unit`: u, relative error of a value."""
        self.k, self.errors, self.unit = k, errors, unit
        n, self.room, device = len(errors), 5 * k + 7, errors.device
        self.values = torch.full((n, self.room), -torch.inf, device=device)
        self.columns = torch.zeros((n, self.room), dtype=torch.int32, device=device)
        self.count = torch.zeros(n, dtype=torch.int64, device=device)
        self.floor = torch.full((n,), -torch.inf, device=device)  # values below cannot matter
        self.spilled = torch.zeros(n, dtype=torch.bool, device=device)
        self.seen, self.next_tightening = 0, 0

    def raise_floor(self, rows: Tensor | slice, kth: Tensor) -> None:
        """k values of each of the `rows` are at least `kth`: what lies too far below can go."""
        floor = lowest_values(kth, self.errors[rows], self.unit)
        self.floor[rows] = torch.maximum(self.floor[rows], floor)

    def offer(self, codes: Tensor, start: int, by_column: bool = False) -> None:
        """Take in a tile (rows, gallery vectors from `start`); `by_column`: it lies transposed."""
        width = codes.shape[0] if by_column else codes.shape[1]
        if self.seen == 0 and width >= self.k:
            self.raise_floor(slice(None), from_codes(kth_at_least(codes, self.k, by_column)))
            self.next_tightening = GROWTH * width
        rows, columns, values = self._above_floor(codes, by_column)
        self._insert(rows, columns.int() + start, values)
        self.seen += width
        if self.seen >= self.next_tightening:
            self.tighten()
            self.next_tightening = GROWTH * self.seen

    def _above_floor(self, codes: Tensor, by_column: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(rows ascending, columns, values) of the tile's entries at or above the floor."""
        floor = least_codes(self.floor, codes.dtype)
        at = at_or_above(codes, floor, by_column)
        values = from_codes(codes.view(-1)[at])
        first = at // codes.shape[1]
        second = at - first * codes.shape[1]
        if not by_column:
            return first, second, values
        order = stable_order(second, codes.shape[1])
        return second[order], first[order], values[order]

    def _insert(self, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """Append to the tables; rows that are full are tightened together with the new entries."""
        new = torch.bincount(rows, minlength=len(self.count))
        full = self.count + new > self.room
        if full.any():
            late = full[rows]
            self._squeeze(full, rows[late], columns[late], values[late])
            rows, columns, values = rows[~late], columns[~late], values[~late]
            new = new.masked_fill(full, 0)
        at = rows * self.room + self.count[rows] + rank_in_row(rows, new)
        self.values.view(-1)[at] = values
        self.columns.view(-1)[at] = columns
        self.count += new

    def _squeeze(self, full: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """Insert into the rows marked in `full`, which have no room for all of it."""
        which = entries(full)
        place = torch.full_like(self.count, -1)
        place[which] = torch.arange(len(which), device=full.device)
        rows = place[rows]
        new = torch.bincount(rows, minlength=len(which))
        wide = self.room + int(new.max())
        all_values = torch.full((len(which), wide), -torch.inf, device=full.device)
        all_columns = torch.zeros((len(which), wide), dtype=torch.int32, device=full.device)
        all_values[:, : self.room] = self.values[which]
        all_columns[:, : self.room] = self.columns[which]
        at = rows * wide + self.room + rank_in_row(rows, new)
        all_values.view(-1)[at] = values
        all_columns.view(-1)[at] = columns
        part = self._kept(which, all_values, all_columns)
        self.values[which], self.columns[which], self.count[which] = part

    def tighten(self) -> None:
        """Raise the floors to what is known by now and drop what falls below."""
        part = self._kept(slice(None), self.values, self.columns)
        self.values, self.columns, self.count = part

    def _kept(
        self, which: Tensor | slice, values: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tables (values, columns, count) of the rows `which` with what stays of these entries.

        `values`, `columns`: (n, any width), -inf where there is none. Raises their floors.
        """
        self.raise_floor(which, kth_largest(values, self.k))
        least = self.floor[which].clamp(min=-LARGEST)  # above -inf, which marks no entry
        at = entries(values >= least[:, None])
        rows = at // values.shape[1]
        count = torch.bincount(rows, minlength=len(values))
        spilled = count > self.room
        if spilled.any():
            self.spilled[which] |= spilled
            self.floor[which] = self.floor[which].masked_fill(spilled, torch.inf)
            stays = ~spilled[rows]
            at, rows, count = at[stays], rows[stays], count.masked_fill(spilled, 0)
        to = rows * self.room + rank_in_row(rows, count)
        shape = len(values), self.room
        new_values = torch.full(shape, -torch.inf, device=values.device)
        new_columns = torch.zeros(shape, dtype=torch.int32, device=values.device)
        new_values.view(-1)[to] = values.view(-1)[at]
        new_columns.view(-1)[to] = columns.view(-1)[at]
        return new_values, new_columns, count


def collect_candidates(
    queries: Operand,
    gallery: Operand,
    k: int,
    block: int,
    width: int,
    todo: list[int],
    mirrored: bool,
    advance: Callable[[int], object],
) -> Iterator[tuple[int, Candidates]]:
    """(first row, its Candidates) of the blocks of `block` queries that start at `todo`.

    Tiles are `block` x `width` values. `mirrored` (a self-search, `width` equal to `block`): a
    tile of two blocks still to do serves both of them, which halves the products, at the price of
    keeping the tables of all blocks. `advance` is told the number of values used.
    """
    shared = set(todo) if mirrored else set()
    waiting: dict[int, Candidates] = {}
    buffer = torch.empty(block * width, dtype=gallery.dtype, device=gallery.device)

    def tables_of(start: int) -> Candidates:
        errors = value_errors(queries, gallery, slice(start, start + block))
        return Candidates(k, errors, OUTPUT_ERROR[gallery.dtype])

    for start in todo:
        mine = waiting.pop(start) if start in waiting else tables_of(start)
        left = queries.block(slice(start, start + block), left=True)
        for column in range(0, len(gallery.norms), width):
            if column in shared and column < start:
                continue  # offered when that block was worked on
            right = gallery.block(slice(column, column + width), left=False)
            tile = buffer[: len(left) * len(right)].view(len(left), len(right))
            with full_precision():
                torch.mm(left, right.T, out=tile)
            codes = as_codes(tile)
            mine.offer(codes, column)
            advance(tile.numel())
            if column in shared and column > start:
                if column not in waiting:
                    waiting[column] = tables_of(column)
                waiting[column].offer(codes, start, by_column=True)
                advance(tile.numel())
        mine.tighten()
        yield start, mine


def settle_candidates(
    candidates: Candidates, scorer: PairScorer, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Exact (goodness (n, k) float32, indices (n, k) int64) of a block, and the pairs scored.

    `which` (n,): query numbers of the block's rows. Rows in `candidates.spilled` hold nonsense.
    The first k by value are scored, then all that can still pass the k-th of these scores.
    """
    table, k = candidates.values, candidates.k
    numbers = torch.from_numpy(which).to(table.device)
    at = entries(table > -torch.inf)
    rows, values = at // table.shape[1], table.view(-1)[at]
    columns = candidates.columns.view(-1)[at]
    exact = torch.full_like(table, -torch.inf)

    def score(mask: Tensor) -> int:
        chosen = entries(mask)
        of_rows = numbers[rows[chosen]]
        exact.view(-1)[at[chosen]] = scorer(of_rows, columns[chosen])
        return len(chosen)

    scale = 1.0 if scorer.metric == "ip" else 2.0  # goodness = scale * exact value
    error = scale * (values.abs().double() * candidates.unit + candidates.errors[rows])
    first = values >= kth_largest(table, k)[rows]
    n_pairs = score(first)
    kth = kth_largest(exact, k)
    beaten = torch.nextafter(kth, torch.full_like(kth, -torch.inf))[rows]
    n_pairs += score(~first & (scale * values.double() + error > beaten))
    check_bound(values, exact.view(-1)[at], candidates.errors[rows], candidates.unit, scorer.metric)
    best = rank_keys(exact, candidates.columns).topk(k).values
    goodness, indices = from_rank_keys(best)
    return goodness.cpu().numpy(), indices.cpu().numpy(), n_pairs
