"""Ranking among a million distractors: `vitgal.global_ranking` against the whole table of ranks.

    python -m benchmarks.vitgal_million [--distractors N] [--folder DIR] [--skip-straightforward]

Synthetic unit descriptors (384-d, float32): 70 queries, 4,993 benchmark images, 1,001,001
distractors, the latter written in shards to a memory-mapped file as extraction writes them. Ours
reads it tile by tile and keeps the head of each list and the places of the benchmark images.
Straightforward version: everything in one array, one product, a full int64 argsort, and the ranking
pickled for each query's worker, as the published evaluation sends it. Each runs in a process of its
own, whose peak memory is printed; both must give the same places and heads. Claim: ours stays below
8 GB with everything (a fraction of it, in fact) and keeps 2 MB instead of 560 MB.
"""

import argparse
import json
import multiprocessing
import pickle
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from utils.revisited import GroundTruth
from vitgal.datasets.revisited_images import Photograph
from vitgal.descriptor_files import load_or_extract
from vitgal.global_ranking import rank_database
from vitgal.rank_files import save_ranking

N_QUERIES, N_BENCHMARK, WIDTH, HEAD = 70, 4993, 384, 1000
CLAIM_GB = 8.0


def unit_rows(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, WIDTH), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_benchmark() -> tuple[np.ndarray, np.ndarray, GroundTruth]:
    """Queries, and gallery images of which eight per query resemble it more or less."""
    queries, gallery = unit_rows(N_QUERIES, 0), unit_rows(N_BENCHMARK, 1)
    gnd = []
    for q, query in enumerate(queries):
        ids = [8 * q + i for i in range(8)]
        mixed = gallery[ids] + np.linspace(0.1, 0.8, 8, dtype=np.float32)[:, None] * query
        gallery[ids] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        gnd.append({"easy": ids[4:], "hard": ids[:3], "junk": ids[3:4]})
    return queries, gallery, GroundTruth([""] * N_BENCHMARK, [""] * N_QUERIES, gnd)  # type: ignore[arg-type]


def write_distractors(folder: Path, n: int) -> np.ndarray:
    """Shard after shard through the code of extraction, drawn instead of computed by a network."""
    picture = folder / "picture.jpg"
    picture.touch()
    shards = iter(range(n))

    def draw(photographs: list[Photograph], out: np.ndarray) -> None:
        out[:] = unit_rows(len(photographs), 2 + next(shards))

    photographs = [Photograph(picture)] * n
    return load_or_extract(folder, "distractors", photographs, WIDTH, {"drawn": True}, draw)


def run_ours(folder: Path, n: int) -> dict[str, Any]:
    start = time.perf_counter()
    distractors = write_distractors(folder, n)
    written = time.perf_counter()
    queries, gallery, gnd = make_benchmark()
    ranking = rank_database(queries, gallery, distractors, HEAD, progress=False)
    searched = time.perf_counter()
    values = ranking.measure(gnd)
    done = time.perf_counter()
    path = folder / "rank.npz"
    save_ranking(path, ranking, {})
    np.savez(folder / "ours.npz", head=ranking.head, positions=ranking.positions)
    return {
        "write": written - start, "search": searched - written, "measure": done - searched,
        "kept": path.stat().st_size, "map": values["medium"]["map"],
    }  # fmt: skip


def run_straightforward(folder: Path, n: int) -> dict[str, Any]:
    (path,) = folder.glob("distractors_*.npy")
    queries, gallery, _ = make_benchmark()
    start = time.perf_counter()
    everything = np.concatenate([gallery, np.load(path)])
    ranks = np.argsort(-(everything @ queries.T), axis=0)
    searched = time.perf_counter()
    size = len(pickle.dumps(ranks, protocol=4))
    sent = time.perf_counter()
    with np.load(folder / "ours.npz") as file:
        head, positions = file["head"], file["positions"]
    own = np.argsort(ranks, axis=0)[:N_BENCHMARK].T
    return {
        "search": searched - start, "pickle_once": sent - searched, "kept": size,
        # products in float32 of another order of summation may exchange near-equal neighbours
        "same_head": float((ranks[:HEAD].T == head).mean()),
        "moved": int(np.abs(own - positions).max()),
    }  # fmt: skip


def apart(function: Callable[[Path, int], dict[str, Any]], folder: Path, n: int) -> dict[str, Any]:
    """The function in a fresh process: its result and the process's peak memory in GB."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measured, (function, folder, n))


def _measured(
    function: Callable[[Path, int], dict[str, Any]], folder: Path, n: int
) -> dict[str, Any]:
    result = function(folder, n)
    status = Path("/proc/self/status").read_text()
    private = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    result["private_now_gb"] = int(private.split()[1]) / 1e6
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distractors", type=int, default=1_001_001)
    parser.add_argument("--folder", type=Path, default=None, help="for 1.5 GB of descriptors")
    parser.add_argument("--skip-straightforward", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        ours = apart(run_ours, folder, options.distractors)
        print(f"{N_QUERIES} queries, {N_BENCHMARK} + {options.distractors} images, {WIDTH}-d")
        print(
            f"ours: shards written in {ours['write']:.1f} s, ranked in {ours['search']:.1f} s, "
            f"measured in {ours['measure']:.2f} s; peak {ours['peak_gb']:.2f} GB, pages of the "
            f"mapped file included (claim: below {CLAIM_GB:g}); kept on disk "
            f"{ours['kept'] / 1e6:.1f} MB"
        )
        if not options.skip_straightforward:
            theirs = apart(run_straightforward, folder, options.distractors)
            print(
                f"straightforward: ranked in {theirs['search']:.1f} s, pickled in "
                f"{theirs['pickle_once']:.1f} s for each of {N_QUERIES} queries; peak "
                f"{theirs['peak_gb']:.2f} GB; kept {theirs['kept'] / 1e6:.0f} MB; "
                f"{100 * theirs['same_head']:.3f} % of the heads the same, no benchmark image "
                f"further away than {theirs['moved']} places"
            )
        print(json.dumps(ours))


if __name__ == "__main__":
    main()
