"""Scores of many image pairs: every image encoded once, no padding, one pair at a time.

On a CPU each thread takes whole pairs: a pair is 20 ms of work in kernels of about 1 ms, too little
to share each of them between threads. On CUDA, pairs of similar length are batched and masked.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rrt_gld.models import matcher
from rrt_gld.models.matcher import Matcher
from rrt_gld.models.packed_encoder import PackedEncoder, is_supported
from utils.torch_threads import map_in_threads

PRECISIONS = ("float32", "bf16")
BATCH_TOKENS = 65_536  # of a batch on CUDA, padding included: 65 pairs of 1004 tokens


class PairScorer:
    """The matcher's logits without its padding; weights are copied at construction.

    A pair's score depends on the pair alone: on a CPU to the last bit, on CUDA to the rounding of
    the batch that it falls into.
    """

    def __init__(
        self,
        model: Matcher,
        device: torch.device | str | None = None,
        precision: str = "float32",
        threads: int | None = None,
    ) -> None:
        """`device`: default that of `model`. `threads`: on a CPU, default torch's setting.

        `precision`: float32, or bf16 for the inputs of the linear maps and the weighted values
        (logits move by some 0.01; about 1.3 times as fast on processors with bf16 instructions).
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}, expected one of {PRECISIONS}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        self.device = torch.device(device or next(model.parameters()).device)
        self.model = copy.deepcopy(model).to(self.device).eval().requires_grad_(False)
        self.precision = precision
        self.threads = threads
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.packed: PackedEncoder | None = None
        if self.device.type == "cpu" and is_supported(self.model.encoder, dtype):
            self.packed = PackedEncoder(self.model.encoder, dtype)

    @torch.inference_mode()
    def encode(
        self,
        global_: np.ndarray | Tensor,
        local: np.ndarray | Tensor,
        scales: np.ndarray | Tensor,
    ) -> Tensor:
        """Tokens of one image before the segment rows, (n + 1, D) float32: global one first.

        `global_` (d_global,), `local` (n, D), `scales` (n,) integers in 0..6; n = 0 is allowed.
        """
        global_ = torch.as_tensor(global_, dtype=torch.float32, device=self.device)
        local = torch.as_tensor(local, dtype=torch.float32, device=self.device)
        scales = torch.as_tensor(scales, dtype=torch.int64, device=self.device)
        n, d_global, d_model = len(scales), self.model.d_global, self.model.d_model
        if global_.shape != (d_global,) or local.shape != (n, d_model) or scales.dim() != 1:
            raise ValueError(
                f"descriptors are {tuple(global_.shape)}, {tuple(local.shape)} with scales "
                f"{tuple(scales.shape)}; this model expects ({d_global},), (n, {d_model}), (n,)"
            )
        global_token = self.model.global_token(global_).unsqueeze(0)
        return torch.cat([global_token, self.model.local_tokens(local, scales)])

    def score_pairs(
        self, query_blocks: Sequence[Tensor], gallery_blocks: Sequence[Tensor], pairs: Any
    ) -> np.ndarray:
        """Logits (P,) float32 of `pairs` (P, 2) int: rows of the two lists of `encode` results.

        The query is the first image of a pair. Needs memory for `threads` pairs at a time (about
        10 MB each at 1004 tokens); on CUDA for one batch.
        """
        pairs = np.asarray(pairs, dtype=np.int64)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(f"pairs are {pairs.shape}, expected (P, 2)")
        for column, blocks, name in zip(
            pairs.T, (query_blocks, gallery_blocks), ("query", "gallery"), strict=True
        ):
            if len(column) and not 0 <= column.min() <= column.max() < len(blocks):
                raise ValueError(
                    f"pairs name {name} images {column.min()}..{column.max()}, "
                    f"but {len(blocks)} are given"
                )
        if self.device.type == "cuda":
            return self._score_in_batches(query_blocks, gallery_blocks, pairs)

        def score(pair: np.ndarray) -> float:
            return self._score_alone(query_blocks[pair[0]], gallery_blocks[pair[1]])

        threads = self.threads or torch.get_num_threads()
        return np.array(map_in_threads(score, pairs, threads), dtype=np.float32)

    def _make_tokens(self, query: Tensor, target: Tensor) -> Tensor:
        """The sequence that enters the encoder, (2 + Nq + Ng, D)."""
        seg = self.model.seg_encoder.weight
        cls, sep = seg[matcher.SEG_CLS, None], seg[matcher.SEG_SEP, None]
        tokens = torch.cat([cls, query, sep, target])
        middle = len(query) + 1  # row of the separator
        tokens[1] += seg[matcher.SEG_SRC_GLOBAL]
        tokens[2:middle] += seg[matcher.SEG_SRC_LOCAL]
        tokens[middle + 1] += seg[matcher.SEG_TGT_GLOBAL]
        tokens[middle + 2 :] += seg[matcher.SEG_TGT_LOCAL]
        return tokens

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @torch.inference_mode()
    def _score_alone(self, query: Tensor, target: Tensor) -> float:
        tokens = self._make_tokens(query, target)
        if self.packed is not None:
            return self.model.classifier(self.packed(tokens)).item()
        with self._autocast():
            first = self.model.encoder(tokens.unsqueeze(0), num_queries=1)[0, 0]
        return self.model.classifier(first.float()).item()

    @torch.inference_mode()
    def _score_in_batches(
        self, query_blocks: Sequence[Tensor], gallery_blocks: Sequence[Tensor], pairs: np.ndarray
    ) -> np.ndarray:
        lengths = np.array([2 + len(query_blocks[q]) + len(gallery_blocks[g]) for q, g in pairs])
        order = np.argsort(-lengths, kind="stable")
        scores = torch.empty(len(pairs), device=self.device)
        for rows in split_by_tokens(order, lengths, BATCH_TOKENS):
            sequences = [
                self._make_tokens(query_blocks[q], gallery_blocks[g]) for q, g in pairs[rows]
            ]
            counts = torch.from_numpy(lengths[rows]).to(self.device)
            tokens = pad_sequence(sequences, batch_first=True)
            mask = torch.arange(tokens.shape[1], device=self.device) >= counts.unsqueeze(1)
            with self._autocast():
                first = self.model.encoder(tokens, mask, num_queries=1)[:, 0]
            where = torch.from_numpy(rows).to(self.device)
            scores[where] = self.model.classifier(first.float()).squeeze(1)
        return scores.cpu().numpy()


def split_by_tokens(order: np.ndarray, lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Cut `order`, rows of `lengths` from long to short, so that no padded batch exceeds `budget`.

    A single row may exceed it.
    """
    start = 0
    while start < len(order):
        size = max(1, budget // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size
