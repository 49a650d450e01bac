"""Scores of many pairs with the matcher on points: sequences cut to the points that are there."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rrt_sop.models.scoring import PRECISIONS
from rrt_sop.models.superpoint import PointMatcher

BATCH_TOKENS = {"cpu": 8_192, "cuda": 131_072}  # of a batch, padding included


class PointScorer:
    """The matcher's logits; weights are copied at construction. Same calls as `PairScorer`."""

    def __init__(
        self,
        matcher: PointMatcher,
        device: torch.device | str | None = None,
        precision: str = "float32",
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}, expected one of {PRECISIONS}")
        self.device = torch.device(device or next(matcher.parameters()).device)
        self.matcher = copy.deepcopy(matcher).to(self.device).eval().requires_grad_(False)
        self.precision = precision

    def encode(self, rows: np.ndarray | Tensor, role: str) -> Tensor:
        """(N, 1 + L, D) rows of `SuperPointNet.embed_local`, as they are, on the device."""
        return torch.as_tensor(rows, dtype=torch.float32, device=self.device)

    @torch.inference_mode()
    def score_pairs(self, queries: Tensor, gallery: Tensor, pairs: Any) -> np.ndarray:
        """Logits (P,) float32 of `pairs` (P, 2) int: rows of the two results of `encode`."""
        index = torch.as_tensor(np.asarray(pairs, dtype=np.int64), device=self.device)
        # pairs of like lengths together, long ones first
        of_query, of_gallery = (count_points(part) for part in (queries, gallery))
        lengths = of_query[index[:, 0]] + of_gallery[index[:, 1]]
        order = torch.argsort(lengths, descending=True, stable=True)
        scores = torch.empty(len(index), device=self.device)
        budget, start = BATCH_TOKENS[self.device.type], 0
        while start < len(order):
            longest = int(lengths[order[start]]) + 4
            where = order[start : start + max(1, budget // longest)]
            src, tgt = index[where].T
            cut_src, cut_tgt = int(of_query[src].max()) + 1, int(of_gallery[tgt].max()) + 1
            autocast = torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.precision == "bf16"
            )
            with autocast:
                logits = self.matcher(queries[src, :cut_src], gallery[tgt, :cut_tgt])
            scores[where] = logits.float()
            start += len(where)
        return scores.cpu().numpy()


def count_points(rows: Tensor) -> Tensor:
    """(N, 1 + L, D) -> (N,) points of each image: the rows after the global one that are not 0."""
    return (rows[:, 1:] != 0).any(dim=2).sum(dim=1)
