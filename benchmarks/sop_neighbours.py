"""Neighbour table of the SOP test set in itself: `utils.knn.search` against faiss's flat search.

    python -m benchmarks.sop_neighbours [--rows 60502] [--dim 128] [--k 1001] [--share 4096]

Squared L2 of unit vectors, k = 1000 neighbours and the image itself, as `rrt_sop.eval_global` asks.
faiss is timed on a share of the queries against the whole set and scaled (its cost per query is
constant), before, between and after our rounds, which search the whole table; the best of each
counts. Peak memory is that of a fresh process which makes the data and searches, each way alone.
Goal at the default size: at least 2 times faster, or as fast with half the memory; on a CPU it is
not reached, see benchmarks/README.md.
"""

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

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


def search_faiss(x: np.ndarray, k: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """The plain flat call for the first `queries` rows."""
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    return index.search(x[:queries], k)


def search_ours(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return knn.search(x, x, k, metric="l2", progress=False)


def measure_peak(way: str, options: argparse.Namespace, queue: Any) -> None:
    """In a fresh process: make the data, search all of it one way, tell the peak in bytes."""
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    x = make_features(options.rows, options.dim)
    if way == "ours":
        search_ours(x, options.k)
    else:
        search_faiss(x, options.k, options.rows)
    # not ru_maxrss, which a process inherits from the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    queue.put(next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")))


def peak_of(way: str, options: argparse.Namespace) -> int:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure_peak, args=(way, options, queue))
    process.start()
    peak = queue.get()
    process.join()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60502)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, default=1001)
    parser.add_argument("--share", type=int, default=4096, help="queries that faiss is timed on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: all threads")
    parser.add_argument("--no-memory", action="store_true", help="leave the peaks out")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    x = make_features(options.rows, options.dim)
    share = min(options.share, options.rows)

    def timed_faiss() -> float:
        start = clock()
        timed_faiss.found = search_faiss(x, options.k, share)  # type: ignore[attr-defined]
        return (clock() - start) * options.rows / share

    plain, ours = [timed_faiss()], []
    for _ in range(options.rounds):
        start = clock()
        dists, nn_inds = search_ours(x, options.k)
        ours.append(clock() - start)
        plain.append(timed_faiss())
    faiss_inds = timed_faiss.found[1]  # type: ignore[attr-defined]
    same = np.mean([len(np.intersect1d(a, b)) for a, b in zip(faiss_inds, nn_inds, strict=False)])
    print(
        f"{options.rows} x {options.rows} x {options.dim}, k = {options.k}, {options.threads} "
        f"threads, {options.clock} clock, best of {options.rounds} rounds"
    )
    print(f"faiss flat  {min(plain):8.2f} s (from {share} queries)")
    print(f"ours        {min(ours):8.2f} s")
    print(f"ratio       {min(plain) / min(ours):8.2f} (goal: 2, or 1 with half the memory)")
    print(f"of {options.k} neighbours {same:.2f} are faiss's too; dists {dists[:, -1].mean():.4f}")
    if not options.no_memory:
        peaks = {way: peak_of(way, options) for way in ("faiss", "ours")}
        for way, peak in peaks.items():
            print(f"peak of a process of its own, {way:6} {peak / 2**30:6.2f} GiB")


if __name__ == "__main__":
    main()
