"""Neighbour tables of the SOP test set in itself: ours against faiss's flat search.

    python -m benchmarks.sop_neighbours [--rows 60502] [--dim 128] [--k 1001] [--rounds 3]

Squared L2 of unit vectors, k = 1000 neighbours and the image itself, as `rrt_sop.eval_global` asks.
Ours twice: `utils.knn.search`, which returns whole tables as faiss does, and what eval_global does,
`rrt_sop.retrieval`, which writes nn_dists.pkl and nn_inds.pkl while it searches.
All ways search the whole table in turns; the best round of each counts, so that no way pays for
the first touch of the machine's memory. Memory is that of a fresh process which makes the data and
searches, each way alone: its peak, and how much of that came with the search.
Goal at the default size: at least 2 times faster, or as fast with half the memory.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from rrt_sop.retrieval import TableFiles, Tables, writing_tables
from utils import knn

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PER_PRODUCT = 5  # images of a product


def make_features(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """(rows, dim) float32 unit vectors in clusters of five, as photographs of products are."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(rows) // PER_PRODUCT
    centres = rng.standard_normal((rows // PER_PRODUCT + 1, dim), dtype=np.float32)
    x = centres[labels] + rng.uniform(0.3, 1.5, (rows, 1)).astype(np.float32) * rng.standard_normal(
        (rows, dim), dtype=np.float32
    )
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def search_faiss(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The plain flat call."""
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    return index.search(x, k)


def search_ours(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return knn.search(x, x, k, metric="l2", progress=False)


def search_to_files(x: np.ndarray, k: int) -> Tables:
    """The tables as maps of files which are gone once the maps are."""
    with tempfile.TemporaryDirectory() as folder:
        with writing_tables(TableFiles(folder, {}), (len(x), k)) as written:
            for _, _, dists, nn_inds in knn.search_blocks(x, x, k, "l2", progress=False):
                written.append(dists, nn_inds)
        return written.tables()


WAYS: dict[str, Callable[[np.ndarray, int], Any]] = {
    "faiss flat": search_faiss,
    "ours": search_ours,
    "ours, to files": search_to_files,
}


def read_peak() -> int:
    """Bytes; not ru_maxrss, which a process inherits from the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def measure_peak(way: str, options: argparse.Namespace, queue: Any) -> None:
    """In a fresh process: make the data, search all of it one way, tell the peaks, bytes."""
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    x = make_features(options.rows, options.dim)
    before = read_peak()
    found = WAYS[way](x, options.k)
    queue.put((before, read_peak()))
    del found


def peaks_of(way: str, options: argparse.Namespace) -> tuple[int, int]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure_peak, args=(way, options, queue))
    process.start()
    peaks = queue.get()
    process.join()
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60502)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, default=1001)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: all threads")
    parser.add_argument("--no-memory", action="store_true", help="leave the peaks out")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    x = make_features(options.rows, options.dim)

    found: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}

    for _ in range(options.rounds):
        for way, search in WAYS.items():
            found.pop(way, None)  # its memory is used again
            start = clock()
            found[way] = search(x, options.k)
            seconds[way].append(clock() - start)
    dists, nn_inds = found["ours"]
    for mine, other in zip((dists, nn_inds), found["ours, to files"], strict=True):
        assert np.array_equal(mine, other)
    pairs = zip(found["faiss flat"][1], nn_inds, strict=True)
    same = np.mean([len(np.intersect1d(a, b)) for a, b in pairs])
    print(
        f"{options.rows} x {options.rows} x {options.dim}, k = {options.k}, {options.threads} "
        f"threads, {options.clock} clock, best of {options.rounds} rounds; "
        f"of {options.k} neighbours {same:.2f} are faiss's too"
    )
    base = min(seconds["faiss flat"])
    for way in WAYS:
        best = min(seconds[way])
        line = f"{way:15}{best:7.2f} s, {base / best:5.2f} times faiss's speed"
        if not options.no_memory:
            before, peak = peaks_of(way, options)
            line += f"; peak {peak / 2**30:5.2f} GiB, {(peak - before) / 2**30:5.2f} by the search"
        print(line)


if __name__ == "__main__":
    main()
