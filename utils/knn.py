"""Exact nearest neighbours of descriptors, blockwise, on processor or GPU, and tables of them.

"Exact" means: the score of a pair is defined by the two vectors alone (see `knn_exact`: float64
sums in a fixed order, rounded to float32), and the result is the first k of the whole gallery by
(score, lower index). It does not depend on block sizes, threads, library or device. It is reached
quickly by a first pass in low precision which keeps everyone who can still be among the first k
(see `knn_certified`); only those pairs get their defined score.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from utils.knn_certified import Candidates, Operand, collect_candidates, settle_candidates
from utils.knn_exact import PairScorer, float64_search
from utils.knn_rows import ROWS, RowSearch
from utils.nn_tables import load_block, load_nn_inds, save_block, save_nn_inds

__all__ = ["build_nn_table", "load_nn_inds", "save_nn_inds", "search", "search_blocks"]

logger = logging.getLogger(__name__)

METRICS = ("ip", "l2")
FIRST_PASSES = ("auto", "bf16", "float32", "float64")
BLOCK = {"cpu": 4096, "cuda": 32768}  # rows and columns of a tile of the first pass
DENSE = 16  # galleries of fewer than DENSE * k vectors: scoring all in float64 is quicker
LONG = 50_000_000  # multiplications of a row from which on halving them by tables is quicker
FEW_QUERIES = 512  # below, rounding the gallery to bfloat16 costs more than it saves
FLOAT32_MAX = float(np.finfo(np.float32).max)

Found = tuple[int, int, np.ndarray, np.ndarray]  # first and last + 1 row, goodness, indices


def search(
    queries: np.ndarray, gallery: np.ndarray, k: int, metric: str = "ip", **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The k best gallery vectors of each query: (scores (Q, k) float32, indices (Q, k) int64).

    `options`, definitions, errors: as in `search_blocks`, which needs no room for all of this.
    """
    blocks = search_blocks(queries, gallery, k, metric, **options)
    scores = np.empty((len(queries), k), np.float32)
    indices = np.empty((len(queries), k), np.int64)
    for start, stop, found, which in blocks:
        scores[start:stop], indices[start:stop] = found, which
    return scores, indices


def search_blocks(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    metric: str = "ip",
    device: str | torch.device | None = None,
    memory_budget: int = 2 << 30,
    progress: bool = True,
    exclude_self: bool = False,
    first_pass: str = "auto",
    stats: dict[str, Any] | None = None,
) -> Iterator[Found]:
    """The k best gallery vectors of each query, some queries after the others.

    Yields (first query, last + 1, scores (n, k) float32, indices (n, k) int64); the arrays are
    good until the next ones are asked for. Best first; equal scores by lower index. "ip": inner
    products, descending. "l2": SQUARED distances, ascending. The answer is exact and the same on
    every machine (module docstring).

    `queries` (Q, D), `gallery` (G, D): float32 (float16 is widened, float64 in memory rounded to
    float32) arrays or memory maps, which are read in blocks. Handing over one array as both makes
    a self-search, which can need half the products if its tables fit the budget; each vector then
    finds itself, unless `exclude_self` drops pair (i, i). `device`: default the GPU if there is
    one. `memory_budget`: bytes beyond input and result, roughly. `first_pass`: "bf16" | "float32"
    | "float64"; "auto" takes bf16 where the processor multiplies it natively. `stats`, a dict,
    receives the first pass used, how many pairs were scored exactly and how many rows each later
    pass had to take over. ValueError, at the call, for wrong shapes, k, options, NaN, inf, float32
    overflow.
    """
    same = is_same(queries, gallery)
    queries, gallery = as_matrix(queries, "queries"), as_matrix(gallery, "gallery")
    check_options(queries, gallery, k + exclude_self, metric, first_pass)
    if exclude_self and len(queries) != len(gallery):
        raise ValueError(
            f"exclude_self needs the same set twice, got {len(queries)} queries and "
            f"{len(gallery)} gallery vectors; pass exclude_self=False"
        )
    run = _Search(
        queries, gallery if not same else queries, k + exclude_self, metric, device,
        memory_budget, first_pass, stats,
    )  # fmt: skip
    return as_scores(run.blocks(progress), metric, exclude_self)


def as_scores(blocks: Iterator[Found], metric: str, exclude_self: bool) -> Iterator[Found]:
    """Blocks of goodness as what `search_blocks` tells."""
    for start, stop, goodness, indices in blocks:
        if exclude_self:
            goodness, indices = drop_self(goodness, indices, start)
        if metric == "l2":
            np.subtract(0.0, goodness, out=goodness)  # not its negative, which can be -0
        yield start, stop, goodness, indices


def is_same(a: Any, b: Any) -> bool:
    """Whether both are one array: the same object or the same stretch of memory."""
    if a is b:
        return True
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return False
    return a.__array_interface__ == b.__array_interface__


def as_matrix(vectors: Any, name: str) -> np.ndarray:
    """`vectors` as a (N, D) array that can be gathered from; ValueError for anything else."""
    if not isinstance(vectors, np.ndarray):
        vectors = np.asarray(vectors)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(f"{name} has shape {vectors.shape}, expected (N >= 1, D >= 1)")
    if vectors.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"{name} is {vectors.dtype}, expected float32; convert it by astype")
    if vectors.dtype == np.float64 or not vectors.dtype.isnative:
        if isinstance(vectors, np.memmap):
            raise ValueError(f"{name} maps a {vectors.dtype} file, expected native float32")
        vectors = vectors.astype(np.float32)
    return vectors


def check_options(
    queries: np.ndarray, gallery: np.ndarray, k: int, metric: str, first_pass: str
) -> None:
    """ValueError for options that do not fit; `k` counts the query itself if it is left out."""
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries are {queries.shape[1]}-dimensional, the gallery is "
            f"{gallery.shape[1]}-dimensional; both must come from the same descriptor"
        )
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k asks for {k} of {len(gallery)} gallery vectors, expected 1 to all")
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}, expected one of {', '.join(METRICS)}")
    if first_pass not in FIRST_PASSES:
        raise ValueError(f"first_pass is {first_pass!r}, expected one of {', '.join(FIRST_PASSES)}")


def drop_self(
    goodness: np.ndarray, indices: np.ndarray, first_row: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n, k + 1) -> (n, k): without the row's own index, or the last one where it is missing."""
    own = indices == np.arange(first_row, first_row + len(indices))[:, None]
    own[~own.any(axis=1), -1] = True
    shape = len(indices), indices.shape[1] - 1
    return goodness[~own].reshape(shape), indices[~own].reshape(shape)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are native, hence at least twice as fast as float32 ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    cpuinfo = Path("/proc/cpuinfo")
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or not cpuinfo.is_file():
        return False
    words = set(cpuinfo.read_text().split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})  # the last: flag on ARM


def ignore(_: int) -> None:
    """Progress that nobody watches."""


class _Search:
    """One search: its operands, and the chain of passes that every row goes through."""

    def __init__(
        self,
        queries: np.ndarray,
        gallery: np.ndarray,
        k: int,
        metric: str,
        device: str | torch.device | None = None,
        memory_budget: int = 2 << 30,
        first_pass: str = "auto",
        stats: dict[str, Any] | None = None,
    ) -> None:
        self.queries, self.gallery, self.k, self.metric = queries, gallery, k, metric
        self.budget, self.stats = memory_budget, {} if stats is None else stats
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if first_pass == "auto":
            first_pass = self._choose_first_pass()
        self.stats.update(first_pass=first_pass, pairs=0, float32_rows=0, float64_rows=0)
        self.all_in_float64 = first_pass == "float64"
        dtype = torch.bfloat16 if first_pass == "bf16" else torch.float32
        rounded = gallery.size * 2 if dtype == torch.bfloat16 else 0
        keep = rounded <= memory_budget // 2
        self.right = Operand(gallery, dtype, metric, self.device, keep)
        self.left = self.right
        if queries is not gallery:
            self.left = Operand(queries, dtype, metric, self.device, keep=False)
        self._check_sizes()
        self._plan(rounded, rounded if keep else 0)
        self.scorer = PairScorer(
            queries, gallery, metric, (self.left.norms, self.right.norms), self.device
        )

    def _plan(self, rounded: int, kept: int) -> None:
        """Whether whole rows are compared or tables are kept, of all rows or of some; tile sizes.

        `rounded`: bytes of the gallery in the precision of the pass; `kept`: those in memory.
        """
        n, width = self.gallery.shape
        side = BLOCK[self.device.type]
        per_row = 8 * (5 * self.k + 7) + 64
        tile = side * side * 6
        fits = kept + tile + len(self.queries) * per_row <= self.budget
        self.mirrored = self.left is self.right and 4 * self.k <= side and fits
        itemsize = self.right.dtype.itemsize
        buffers, at_most = RowSearch.memory(n, itemsize, self.k)
        held = n * (width + 6) * itemsize + rounded + buffers
        self.by_rows = (
            self.device.type == "cpu"
            and not self.all_in_float64
            and not (self.mirrored and n * width > LONG)
            and held <= self.budget // 2
        )
        self.block = self.width = side
        if self.by_rows:
            self.mirrored = False
            self.block = int(np.clip((self.budget - held) // at_most, 16, ROWS))
        elif not self.mirrored:
            self.width = max(side, 4 * self.k)
            row = 6 * self.width + 3 * per_row + 6 * width
            self.block = int(np.clip((self.budget - kept) // (2 * row), 64, side))

    def _choose_first_pass(self) -> str:
        if len(self.gallery) < DENSE * self.k:
            return "float64"
        few = len(self.queries) < FEW_QUERIES
        return "bf16" if not few and multiplies_bf16(self.device) else "float32"

    def _check_sizes(self) -> None:
        """ValueError for NaN, inf, and for vectors whose scores can overflow float32."""
        for name, operand in (("queries", self.left), ("gallery", self.right)):
            bad = np.flatnonzero(~np.isfinite(operand.norms))
            if len(bad):
                raise ValueError(
                    f"{name} holds NaN or inf in {len(bad)} of {len(operand.norms)} rows, first "
                    f"row {bad[0]}; make these descriptors again"
                )
        a, b = self.left.norms.max(), self.right.norms.max()
        largest = a * b if self.metric == "ip" else (a + b) ** 2
        if largest > 0.98 * FLOAT32_MAX:  # bfloat16 ends at 0.996 of it
            raise ValueError(
                f"scores can reach {largest:.3g}, beyond float32; scale the vectors (the longest "
                f"query has length {a:.3g}, the longest gallery vector {b:.3g})"
            )

    def blocks(self, progress: bool, done: np.ndarray | None = None) -> Iterator[Found]:
        """Finished rows, block after block; blocks whose rows are all marked in `done` left out."""
        n = len(self.queries)
        starts = range(0, n, self.block)
        todo = [s for s in starts if done is None or not done[s : s + self.block].all()]
        total = sum(min(self.block, n - start) for start in todo) * len(self.gallery)
        bar = tqdm(total=total, unit="pair", unit_scale=True, desc="kNN", disable=not progress)
        with bar:
            if self.all_in_float64:
                for start in todo:
                    which = np.arange(start, min(start + self.block, n))
                    yield start, start + len(which), *self._in_float64(which, bar.update)
            elif self.by_rows:
                search_rows = RowSearch(self.left, self.right, self.scorer, self.k)
                for start in todo:
                    stop = min(start + self.block, n)
                    goodness, indices, lost, n_pairs = search_rows(slice(start, stop))
                    self.stats["pairs"] += n_pairs
                    which = start + np.flatnonzero(lost)
                    self._find_again(
                        which, lost, goodness, indices, self.right.dtype == torch.float32
                    )
                    bar.update((stop - start) * len(self.gallery))
                    yield start, stop, goodness, indices
            else:
                passed = collect_candidates(
                    self.left, self.right, self.k, self.block, self.width, todo,
                    self.mirrored, bar.update,
                )  # fmt: skip
                for start, candidates in passed:
                    which = np.arange(start, min(start + self.block, n))
                    yield start, start + len(which), *self._settle(which, candidates)

    def _settle(self, which: np.ndarray, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """Exact goodness and indices of the queries `which`; spilled rows by a finer pass."""
        goodness, indices, n_pairs = settle_candidates(candidates, self.scorer, which)
        self.stats["pairs"] += n_pairs
        lost = candidates.spilled.cpu().numpy()
        self._find_again(which[lost], lost, goodness, indices, candidates.unit == 0)
        return goodness, indices

    def _find_again(
        self,
        which: np.ndarray,
        lost: np.ndarray,
        goodness: np.ndarray,
        indices: np.ndarray,
        was_float32: bool,
    ) -> None:
        """Fill in the rows `lost` (n,) bool of a block, the queries `which`, by a finer pass."""
        if len(which):
            finer = self._in_float64 if was_float32 else self._in_float32
            goodness[lost], indices[lost] = finer(which)

    def _in_float32(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The queries `which`, from a first pass in float32."""
        self.stats["float32_rows"] += len(which)
        left = Operand(self.queries[which], torch.float32, self.metric, self.device, keep=False)
        passed = collect_candidates(
            left, self.right.in_float32(), self.k, len(which), self.width, [0], False, ignore
        )
        ((_, candidates),) = passed
        return self._settle(which, candidates)

    def _in_float64(
        self, which: np.ndarray, advance: Callable[[int], object] = ignore
    ) -> tuple[np.ndarray, np.ndarray]:
        """The queries `which`, from all their scores in float64."""
        self.stats["float64_rows"] += len(which)
        return float64_search(self.scorer, which, self.k, self.budget, advance)


def build_nn_table(
    vectors: np.ndarray,
    k: int,
    cache_dir: str | Path,
    name: str,
    made_from: dict[str, Any],
    block_rows: int = 2000,
    metric: str = "ip",
    overwrite: bool = False,
    **options: Any,
) -> np.ndarray:
    """Neighbour table (N, k) int64 of a set in itself, built so that an interrupt costs little.

    Every `block_rows` finished rows go to `<cache_dir>/<name>_nn_<9-digit first row>.pkl` with a
    record of `made_from`, `metric` and the shapes; blocks found there are reused and
    said so. A block of another origin is a ValueError unless `overwrite`. Each vector is among
    its own neighbours (column 0 unless it has exact duplicates). `options` go to `search`.
    An interrupt also loses the shares of unfinished rows in tiles that were used for two
    rows at once: still at most half of what those tiles saved.
    """
    vectors = as_matrix(vectors, "vectors")
    check_options(vectors, vectors, k, metric, options.get("first_pass", "auto"))
    n = len(vectors)
    origin = {**made_from, "metric": metric, "vectors": list(vectors.shape), "k": k}
    files = {
        start: Path(cache_dir) / f"{name}_nn_{start:09d}.pkl" for start in range(0, n, block_rows)
    }
    table, done = np.empty((n, k), np.int64), np.zeros(n, bool)
    for start, path in files.items():
        if path.exists() and not overwrite:
            part = slice(start, min(start + block_rows, n))
            table[part] = load_block(path, origin, part, k, n)
            done[part] = True
    missing = {start: path for start, path in files.items() if not done[start]}
    if len(missing) < len(files):
        logger.info("%d of %d blocks found in %s", len(files) - len(missing), len(files), cache_dir)
    if not missing:
        return table
    progress = options.pop("progress", True)
    run = _Search(vectors, vectors, k, metric, **options)
    for first, last, _, indices in run.blocks(progress, done):
        table[first:last], done[first:last] = indices, True
        for start in [s for s in missing if s < last and done[s : s + block_rows].all()]:
            part = slice(start, min(start + block_rows, n))
            save_block(missing.pop(start), table[part], origin, part)
    return table
