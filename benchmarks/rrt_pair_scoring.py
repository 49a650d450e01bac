"""Pair scoring at the published size: ours against the straightforward forward of the paper's code.

    python -m benchmarks.rrt_pair_scoring [--threads 2] [--lengths mixed|full] [--precision bf16]

Both variants and large matrix products take turns in one process; the best round of each counts.
Ours includes encoding every image once. Weights are random, with attention far from flat. Where
other jobs share the processor, `--clock cpu --threads 1` still gives steady figures.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import multi_head_attention_forward

from rrt_gld.models.matcher import Matcher
from rrt_gld.models.packed_encoder import layers_of
from rrt_gld.models.scoring import PairScorer
from rrt_gld.models.transformer import EncoderLayer
from utils.packed_linear import PackedLinear

MAX_FEATURES = 500  # rows of an image in the straightforward variant, always
BATCH = 8  # pairs of a batch there; larger ones were no faster
NUM_QUERIES, NUM_GALLERY = 6, 8  # all their pairs are scored
MATRIX = 2048  # side of the square product that gives the processor's rate
PRODUCTS = 6  # in a row, so that they take about as long as a round of pairs
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Image(NamedTuple):
    """One image as the datasets give it, unpadded."""

    global_: np.ndarray
    local: np.ndarray
    scales: np.ndarray


def make_images(count: int, lengths: str, seed: int) -> list[Image]:
    """Random descriptors; "mixed": 165..765 features found, evenly spread, the first 500 kept."""
    rng = np.random.default_rng(seed)
    found = rng.permutation(np.linspace(165, 765, count).astype(int))
    images = []
    for n in np.minimum(found, MAX_FEATURES) if lengths == "mixed" else [MAX_FEATURES] * count:
        global_ = rng.standard_normal(2048, dtype=np.float32)
        local = rng.standard_normal((n, 128), dtype=np.float32)
        images.append(Image(global_, local, rng.choice([0, 2, 4, 6], size=n)))
    return images


def make_matcher() -> Matcher:
    torch.manual_seed(0)
    model = Matcher().eval().requires_grad_(False)
    for layer in layers_of(model.encoder):
        layer.self_attn.in_proj_weight.mul_(3.0)
    model.classifier.weight.mul_(4.0)
    return model


def straightforward_layer(layer: EncoderLayer, x: Tensor, mask: Tensor) -> Tensor:
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
        key_padding_mask=mask,
        need_weights=True,
    )
    x = layer.norm1(x + attended)
    return layer.norm2(x + layer.feed_forward(x))


def pad_images(images: list[Image]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Global, local, scales, mask (True = padding) of a batch, every image with 500 rows."""
    missing = [MAX_FEATURES - len(image.local) for image in images]
    pads = list(zip(images, missing, strict=True))
    return (
        torch.from_numpy(np.stack([image.global_ for image in images])),
        torch.from_numpy(np.stack([np.pad(i.local, ((0, pad), (0, 0))) for i, pad in pads])),
        torch.from_numpy(np.stack([np.pad(i.scales, (0, pad)) for i, pad in pads])),
        torch.arange(MAX_FEATURES) >= MAX_FEATURES - torch.tensor(missing).unsqueeze(1),
    )


def score_straightforward(model: Matcher, queries: list[Image], gallery: list[Image]) -> Tensor:
    """Logits (B,) of one batch: every image padded to 500 rows, all tokens in every layer."""
    src, tgt = pad_images(queries), pad_images(gallery)
    tokens = model.make_tokens(*src[:3], *tgt[:3])
    never = torch.zeros(len(tokens), 2, dtype=torch.bool)
    mask = torch.cat([never, src[3], never, tgt[3]], dim=1)
    x = tokens.transpose(0, 1)
    for layer in layers_of(model.encoder):
        x = straightforward_layer(layer, x, mask)
    return model.classifier(x[0]).squeeze(1)


def count_flop(model: Matcher, tokens: int) -> int:
    """Floating point operations that one pair of so many real tokens needs, two per multiply-add.

    All layers but the last: linear maps of every token, scores and weighted values of every pair of
    tokens. Last layer: token 0 alone, its scores and weighted sum taken on the tokens themselves.
    """
    *first, last = layers_of(model.encoder)
    d, nhead = model.d_model, last.self_attn.nhead
    maps = 4 * d * d + 2 * d * last.linear1.out_features
    every = tokens * maps + 2 * tokens * tokens * d
    single = maps + 2 * tokens * nhead * d
    return 2 * (len(first) * every + single + d)


def seconds(function: Callable[[], object], clock: Callable[[], float], repeats: int = 1) -> float:
    start = clock()
    for _ in range(repeats):
        function()
    return (clock() - start) / repeats


def matrix_products() -> dict[str, Callable[[], object]]:
    """Large float32 products by name, each of 2 MATRIX^3 operations."""
    a, b, out = (torch.randn(MATRIX, MATRIX) for _ in range(3))
    packed = PackedLinear(b, torch.zeros(MATRIX), torch.float32)
    bias = torch.zeros(MATRIX)
    return {
        "torch.mm": lambda: torch.mm(a, b, out=out),
        "torch.addmm": lambda: torch.addmm(bias, a, b, out=out),
        "oneDNN packed": lambda: packed(a),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", choices=["mixed", "full"], default="mixed")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--rounds", type=int, default=8, help="6 and more compare every logit")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: all threads")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)

    model = make_matcher()
    queries = make_images(NUM_QUERIES, options.lengths, seed=1)
    gallery = make_images(NUM_GALLERY, options.lengths, seed=2)
    pairs = np.stack(np.divmod(np.arange(NUM_QUERIES * NUM_GALLERY), NUM_GALLERY), axis=1)
    lengths = [4 + len(queries[q].scales) + len(gallery[g].scales) for q, g in pairs]
    batches = np.array_split(np.arange(len(pairs)), len(pairs) // BATCH)
    scorer = PairScorer(model, precision=options.precision)
    plain, ours = np.full(len(pairs), np.nan), np.empty(len(pairs))

    def run_plain(rows: np.ndarray) -> None:
        images = [queries[q] for q in pairs[rows, 0]], [gallery[g] for g in pairs[rows, 1]]
        plain[rows] = score_straightforward(model, *images).numpy()

    def run_ours() -> None:
        query_blocks = [scorer.encode(*image) for image in queries]
        gallery_blocks = [scorer.encode(*image) for image in gallery]
        ours[:] = scorer.score_pairs(query_blocks, gallery_blocks, pairs)

    products = matrix_products()
    times: dict[str, list[float]] = {"plain": [], "ours": [], **{name: [] for name in products}}
    run_ours()
    for turn in range(options.rounds):
        rows = batches[turn % len(batches)]
        times["plain"].append(seconds(partial(run_plain, rows), clock) / len(rows))
        times["ours"].append(seconds(run_ours, clock) / len(pairs))
        for name, product in products.items():
            times[name].append(seconds(product, clock, PRODUCTS))
    report(options, model, lengths, times)
    compare(plain, ours)


def report(
    options: argparse.Namespace, model: Matcher, lengths: list[int], times: dict[str, list[float]]
) -> None:
    best = {name: min(values) for name, values in times.items()}
    flop = sum(count_flop(model, n) for n in lengths) / len(lengths)
    rate = flop / best["ours"] / 1e9
    print(
        f"{options.threads} threads, {options.lengths} lengths ({np.mean(lengths):.0f} tokens a "
        f"pair on average), {options.precision}, best of {options.rounds} rounds, "
        f"{options.clock} clock"
    )
    print(
        f"straightforward  {1 / best['plain']:7.2f} pairs/s (float32, 1004 tokens, batch {BATCH})"
    )
    print(f"ours             {1 / best['ours']:7.2f} pairs/s")
    print(f"ratio            {best['plain'] / best['ours']:7.2f}")
    print(f"ours             {rate:7.1f} GFLOP/s of {flop / 1e9:.2f} GFLOP really needed per pair")
    for name in ("torch.mm", "torch.addmm", "oneDNN packed"):
        peak = 2 * MATRIX**3 / best[name] / 1e9
        print(f"{name:16} {peak:7.1f} GFLOP/s float32, {MATRIX} square: share {rate / peak:.1%}")


def compare(plain: np.ndarray, ours: np.ndarray) -> None:
    done = np.isfinite(plain)
    plain, ours = plain[done], ours[done]
    print(f"largest logit change {np.abs(plain - ours).max():.1e} (spread {plain.std():.2f})")
    print(f"order of {len(plain)} pairs identical: {(plain.argsort() == ours.argsort()).all()}")


if __name__ == "__main__":
    main()
