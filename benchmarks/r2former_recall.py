"""Global recall of MSLS val's size, 740 x 18,871 x 256: search and recall@k.

    python -m benchmarks.r2former_recall [--queries Q] [--database N] [--rounds R]

Straightforward version: the table of all squared distances, sorted row by row, and a loop over
queries that looks for positives in each list. Ours: exact search (utils.knn) and one comparison of
all lists. Positions lie along streets, 25 m count. Both give the same recalls.
Claim: under 2 s.
"""

import argparse
import time

import numpy as np

from r2former.datasets.place_set import PlaceSet
from r2former.retrieval import find_neighbours
from utils.recall import compute_recalls, find_first_hits, hits_from_positives

CLAIM_SECONDS = 2.0
WIDTH, DEPTH, RADIUS, KS = 256, 100, 25.0, (1, 5, 10, 20, 100)


def make_set(queries: int, database: int) -> tuple[PlaceSet, np.ndarray, np.ndarray]:
    """Places along a street of 1 m per database image, and unit descriptors that know them."""
    generator = np.random.default_rng(0)
    along = [np.arange(database, dtype=float), generator.uniform(0, database, queries)]
    centres = generator.standard_normal((database // 20 + 2, WIDTH))
    features = []
    for metres in along:
        rows = centres[(metres // 20).astype(int)] + 6 * generator.standard_normal(
            (len(metres), WIDTH)
        )
        features.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    utm = [np.c_[metres, np.zeros(len(metres))] for metres in along]
    names = [[f"{i}.jpg" for i in range(len(metres))] for metres in along]
    return PlaceSet("street", "all", names[0], names[1], utm[0], utm[1]), features[1], features[0]


def straightforward(places: PlaceSet, queries: np.ndarray, database: np.ndarray) -> dict:
    """Whole table, whole sorts, a loop over queries."""
    table = 2 - 2 * queries @ database.T
    order = np.argsort(table, axis=1)[:, :DEPTH]
    positives = places.positives(RADIUS)
    counts = dict.fromkeys(KS, 0)
    for q, row in enumerate(order):
        for k in KS:
            counts[k] += bool(np.isin(row[:k], positives[q]).any())
    return {f"R@{k}": round(100 * count / len(order), 2) for k, count in counts.items()}


def ours(places: PlaceSet, queries: np.ndarray, database: np.ndarray) -> dict:
    _, nn_inds = find_neighbours(queries, database, DEPTH, progress=False)
    positives = places.positives(RADIUS)
    hits = hits_from_positives(nn_inds, positives.counts, positives.indices)
    return compute_recalls(find_first_hits(hits), KS, DEPTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--queries", type=int, default=740)
    parser.add_argument("--database", type=int, default=18_871)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    parts = make_set(arguments.queries, arguments.database)
    parts[0].positives(RADIUS)  # of the set, once
    times: dict[str, float] = {}
    recalls = {}
    for _ in range(arguments.rounds):
        for name, function in (("straightforward", straightforward), ("ours", ours)):
            start = time.perf_counter()
            recalls[name] = function(*parts)
            taken = time.perf_counter() - start
            times[name] = min(taken, times.get(name, taken))
    slow, fast = times["straightforward"], times["ours"]
    print(f"straightforward {slow:.2f} s, ours {fast:.2f} s (claim {CLAIM_SECONDS} s)")
    print(f"ratio {slow / fast:.1f}; recalls {recalls['ours']}")
    print(f"the same: {recalls['ours'] == recalls['straightforward']}")


if __name__ == "__main__":
    main()
