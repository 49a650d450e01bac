"""Pair scoring of rrt_sop at the published size: ours against the published evaluation's way.

    python -m benchmarks.sop_matcher [--threads 2] [--pairs 3000] [--precision bf16] [--clock cpu]

The straightforward way scores chunks of 3000 pairs: maps gathered by pair, tokens built for each
pair, all tokens in all layers, softmax matrices stored and averaged over heads. The same in batches
of 8 pairs, which stay in the cache, is timed too. Ours (`rrt_sop.reranking.score_block`) begins at
the same maps; encoding them is part of its time. All take turns in one process; the best round of
each counts. Weights are random, with attention far from flat.
Claim: at least 3 times the pairs per second of the published chunks, float32, logits within 1e-4.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import multi_head_attention_forward

from rrt_sop.models.matcher import Matcher
from rrt_sop.models.packed_encoder import layers_of
from rrt_sop.models.scoring import PairScorer
from rrt_sop.models.transformer import EncoderLayer
from rrt_sop.reranking import score_block

CHUNK = 3000  # pairs, of the published evaluation
SMALL_CHUNK = 8
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DEPTH = 100  # neighbours of a query


def make_matcher() -> Matcher:
    torch.manual_seed(0)
    model = Matcher().eval().requires_grad_(False)
    for layer in layers_of(model.encoder):
        layer.self_attn.in_proj_weight.mul_(3.0)
    return model


def straightforward_layer(layer: EncoderLayer, x: Tensor) -> Tensor:
    """(T, B, D): softmax matrices are stored, averaged over heads and thrown away."""
    attention = layer.self_attn
    attended, _ = multi_head_attention_forward(
        x,
        x,
        x,
        embed_dim_to_check=x.shape[-1],
        num_heads=attention.nhead,
        in_proj_weight=attention.in_proj_weight,
        in_proj_bias=attention.in_proj_bias,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=attention.out_proj.weight,
        out_proj_bias=attention.out_proj.bias,
        training=False,
        need_weights=True,
    )
    x = layer.norm1(x + attended)
    return layer.norm2(x + layer.feed_forward(x))


def score_straightforward(model: Matcher, src: Tensor, tgt: Tensor) -> Tensor:
    """Logits (B,) of two batches of maps."""
    x = model.make_tokens(src, tgt).transpose(0, 1)
    for layer in layers_of(model.encoder):
        x = straightforward_layer(layer, x)
    return model.classifier(x[0]).squeeze(1)


def score_in_chunks(model: Matcher, maps: Tensor, pairs: np.ndarray, chunk: int) -> np.ndarray:
    parts = np.array_split(pairs, range(chunk, len(pairs), chunk))
    scores = [score_straightforward(model, maps[p[:, 0]], maps[p[:, 1]]) for p in parts]
    return torch.cat(scores).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=CHUNK, help="scored in a round")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: all threads")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)

    model = make_matcher()
    maps = torch.randn(options.pairs, 128, 7, 7)
    rng = np.random.default_rng(0)
    num_queries = max(1, options.pairs // DEPTH)
    table = rng.permuted(np.tile(np.arange(options.pairs), (num_queries, 1)), axis=1)[:, :DEPTH]
    pairs = np.stack([np.arange(num_queries).repeat(table.shape[1]), table.ravel()], axis=1)
    few = pairs[: min(len(pairs), 40 * SMALL_CHUNK)]
    scorer = PairScorer(model, precision=options.precision)
    runs: dict[str, tuple[Callable[[], np.ndarray], int]] = {
        f"straightforward, chunks of {CHUNK}": (
            lambda: score_in_chunks(model, maps, pairs, CHUNK),
            len(pairs),
        ),
        f"straightforward, chunks of {SMALL_CHUNK}": (
            lambda: score_in_chunks(model, maps, few, SMALL_CHUNK),
            len(few),
        ),
        "ours": (lambda: score_block(scorer, maps[:num_queries], maps, table).ravel(), len(pairs)),
    }
    best: dict[str, float] = {}
    scores: dict[str, np.ndarray] = {}
    for _ in range(options.rounds):
        for name, (run, count) in runs.items():
            start = clock()
            scores[name] = run()
            best[name] = max(best.get(name, 0.0), count / (clock() - start))
    plain, small, ours = runs
    print(
        f"{options.threads} threads, {options.precision}, {len(pairs)} pairs of 100 tokens, "
        f"best of {options.rounds} rounds, {options.clock} clock"
    )
    for name, rate in best.items():
        print(f"{name:34} {rate:8.1f} pairs/s")
    print(f"ratio to chunks of {CHUNK:5}  {best[ours] / best[plain]:6.2f} (claim: 3)")
    print(f"ratio to chunks of {SMALL_CHUNK:5}  {best[ours] / best[small]:6.2f}")
    change = np.abs(scores[ours] - scores[plain]).max()
    print(f"largest logit change {change:.1e} at a spread of {scores[plain].std():.2f}")


if __name__ == "__main__":
    main()
