"""Reranking of pairs of 500 + 500 local features: ours against the straightforward form.

    python -m benchmarks.r2former_rerank [--pairs N] [--batch B] [--rounds R] [--threads T]

Straightforward version, as the text of the method reads: for every pair the table of all 250,000
7-vectors, whole sorts in both directions, attention as a table, all tokens of every layer. Ours:
every image encoded once, the five best partners found without a sort, only chosen pairs gathered,
fused attention, of the last layers the class token only. Both run in turns in this process, with
the published size and random weights; on a GPU where there is one. Memory: what the process grows
beyond stored features while 10 pairs are scored, per pair.
Claim: at least 3 times the pairs per second in float32, logits within 2e-4, under 6 MB a pair.
"""

import argparse
import ctypes
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from r2former.models.network import DeiTR2Former
from r2former.models.pair_scoring import PairScorer
from tests.r2former.plain_reranker import plain_logits

CLAIM_RATIO, CLAIM_LOGITS, CLAIM_BYTES = 3.0, 2e-4, 6e6
FEATURES, WIDTH, IMAGES = 500, 131, 10
SHARPEN = 1.5  # random weights times this: logits then depend on the pair


def make_inputs(device: torch.device) -> tuple[DeiTR2Former, torch.Tensor, torch.Tensor]:
    """The network, and local features of queries and of database images that resemble them."""
    torch.manual_seed(0)
    net = DeiTR2Former().eval().to(device)
    with torch.no_grad():
        for parameter in net.Reranker.parameters():
            if parameter.dim() == 2:
                parameter.mul_(SHARPEN)
    query = torch.randn(IMAGES, FEATURES, WIDTH)
    database = 0.7 * query + 0.7 * torch.randn(IMAGES, FEATURES, WIDTH)
    for local in (query, database):
        local[..., :3] = local[..., :3].abs() * 0.5
    return net, query, database


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def growth(run: Callable[[], object]) -> int:
    """Bytes that the process grows at most while `run` works, looked at every millisecond."""
    # what the allocator keeps of earlier calls would hide what this one takes
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(0, peak - before)


def measure_memory(run: Callable[[], object], device: torch.device) -> int:
    """Bytes beyond what is held before, at the peak."""
    if device.type != "cuda":
        return growth(run)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=100, help="of ours in a round")
    parser.add_argument("--batch", type=int, default=10, help="pairs of the straightforward form")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, query, database = make_inputs(device)
    scorer = PairScorer(net, device)
    table = np.stack(np.meshgrid(np.arange(IMAGES), np.arange(IMAGES)), axis=-1).reshape(-1, 2)
    pairs = np.resize(table, (arguments.pairs, 2))
    few = table[: arguments.batch]
    q, p = (local[few[:, i]].to(device) for i, local in enumerate((query, database)))

    def plain() -> torch.Tensor:
        with torch.inference_mode():
            return plain_logits(net.Reranker, q, p)

    ours = scorer.compute_logits(query, database, few)
    difference = float(np.abs(plain().cpu().numpy() - ours).max())
    spread = float(ours.std(axis=0).max())
    memory = measure_memory(lambda: scorer.score(query, database, few), device) / len(few)
    rates: list[list[float]] = [[], []]
    for _ in range(arguments.rounds):
        rates[0].append(len(few) / timed(plain, device))
        call = timed(lambda: scorer.score(query, database, pairs), device)
        rates[1].append(len(pairs) / call)
    slow, fast = (statistics.median(part) for part in rates)
    print(f"device {device}, {torch.get_num_threads()} threads, median of {arguments.rounds}")
    print(f"straightforward {slow:.2f} pairs/s, ours {fast:.2f} pairs/s")
    print(f"ratio {fast / slow:.1f} (claim {CLAIM_RATIO})")
    print(f"logits within {difference:.1e} (claim {CLAIM_LOGITS}), spread {spread:.2f}")
    print(f"memory {memory / 1e6:.2f} MB a pair (claim {CLAIM_BYTES / 1e6:.0f})")


if __name__ == "__main__":
    main()
