"""The Revisited metric: `utils.revisited.evaluate_ranks` against one query at a time.

    python -m benchmarks.revisited_metric [--rounds R]

Straightforward version: as the published evaluator goes about it, for each query and each protocol
a search of the whole ranking for the positives and for the ignored images. Both versions evaluate
the same rankings, in turns, best round each. Then 70 rankings of 1,005,000 images (ROxf + 1M).
Claim: these take less than 2 s beyond the time to hold them, with int32 and with int64 ranks, and
less than 200 MB of working memory.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from utils.revisited import KINDS, PROTOCOLS, evaluate_ranks

N_QUERIES, N_GALLERY, N_LARGE = 70, 4993, 1_005_000
KS = (1, 5, 10)
CLAIM_SECONDS, CLAIM_MEGABYTES = 2.0, 200.0


def evaluate_straightforward(ranks: np.ndarray, raw: dict[str, Any]) -> dict[str, list[float]]:
    """mAP and mP@k of each protocol, one query at a time."""
    results = {}
    for protocol, (positive, ignored) in PROTOCOLS.items():
        aps, precisions = [], []
        for row, entry in zip(ranks, raw["gnd"], strict=True):
            wanted = [i for kind in positive for i in entry[kind]]
            if not wanted:
                continue
            found = np.flatnonzero(np.isin(row, wanted))
            dropped = np.flatnonzero(np.isin(row, [i for kind in ignored for i in entry[kind]]))
            places = [int(p - np.sum(dropped < p)) for p in found]
            terms = [(1.0 if p == 0 else j / p) + (j + 1) / (p + 1) for j, p in enumerate(places)]
            aps.append(sum(terms) / (2 * len(wanted)))
            within = [min(places[-1] + 1, k) for k in KS]
            precisions.append([sum(1 for p in places if p < k) / k for k in within])
        results[protocol] = [float(np.mean(aps)), *np.mean(precisions, axis=0)]
    return results


def make_set(n_gallery: int, rng: np.random.Generator) -> dict[str, Any]:
    """A ground truth with about as many easy, hard and junk images as ROxf has."""
    entries = []
    for _ in range(N_QUERIES):
        counts = rng.integers([1, 1, 1], [90, 70, 40])
        chosen = rng.permutation(n_gallery)[: counts.sum()]
        parts = np.split(chosen, np.cumsum(counts)[:-1])
        entries.append({kind: part.tolist() for kind, part in zip(KINDS, parts, strict=True)})
    return {"imlist": [""] * n_gallery, "qimlist": [""] * N_QUERIES, "gnd": entries}


def make_ranks(n_gallery: int, dtype: type, rng: np.random.Generator) -> np.ndarray:
    """(Q, G) random rankings."""
    ranks: np.ndarray = np.empty((N_QUERIES, n_gallery), dtype)
    for row in ranks:
        row[:] = rng.permutation(n_gallery)
    return ranks


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(rounds: int) -> None:
    """The ratio at the size of ROxf."""
    rng = np.random.default_rng(0)
    raw, ranks = make_set(N_GALLERY, rng), make_ranks(N_GALLERY, np.int64, rng)
    ours, theirs = evaluate_ranks(ranks, raw, KS), evaluate_straightforward(ranks, raw)
    for protocol, expected in theirs.items():
        found = [ours[protocol]["map"], *ours[protocol]["mp"]]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    best_ours = best_theirs = float("inf")
    for _ in range(rounds):
        best_ours = min(best_ours, seconds(lambda: evaluate_ranks(ranks, raw, KS)))
        best_theirs = min(best_theirs, seconds(lambda: evaluate_straightforward(ranks, raw)))
    print(f"{N_QUERIES} x {N_GALLERY}, best of {rounds} rounds in turns, same values to 1e-12")
    print(f"one query at a time {1e3 * best_theirs:8.1f} ms")
    print(f"evaluate_ranks      {1e3 * best_ours:8.1f} ms, ratio {best_theirs / best_ours:.1f}")


def measure_large(dtype: type, rounds: int) -> None:
    """Time and working memory with a million distractors."""
    rng = np.random.default_rng(1)
    raw, ranks = make_set(N_LARGE, rng), make_ranks(N_LARGE, dtype, rng)
    best = min(seconds(lambda: evaluate_ranks(ranks, raw, KS)) for _ in range(rounds))
    tracemalloc.start()
    evaluate_ranks(ranks, raw, KS)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    print(
        f"{N_QUERIES} x {N_LARGE} {np.dtype(dtype)} ({ranks.nbytes / 1e6:.0f} MB): {best:.2f} s "
        f"(claim: below {CLAIM_SECONDS:.0f} s), {peak:.0f} MB beside them "
        f"(claim: below {CLAIM_MEGABYTES:.0f} MB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    compare(options.rounds)
    for dtype in (np.int32, np.int64):
        measure_large(dtype, options.rounds)


if __name__ == "__main__":
    main()
