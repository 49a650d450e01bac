"""Scores of many pairs with one matcher: what depends on one image alone is computed once."""

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rrt_sop.models.matcher import SEG_CLS, SEG_SEP, SEG_SRC, SEG_TGT, Matcher
from rrt_sop.models.packed_encoder import PackedEncoder, is_supported, layers_of
from utils.torch_threads import map_in_threads

PRECISIONS = ("float32", "bf16")
BATCH_TOKENS = 65_536  # of a batch on CUDA: 655 pairs of 100 tokens
# hidden values of a batch on a CPU: 8 pairs of 100 tokens at width 1024
BATCH_HIDDEN = 800 * 1024
ROLES = {"query": SEG_SRC, "gallery": SEG_TGT}


class Encoded(NamedTuple):
    """What the matcher needs of some images in one role; row i belongs to image i."""

    tokens: Tensor  # (N, n, D) float32: cells with segment and position
    heads: Tensor  # (N, 3 H, n, D / H) float32: their projections in the first layer
    role: str  # "query" or "gallery"

    def __len__(self) -> int:
        return len(self.tokens)


class PairScorer:
    """The matcher's logits; weights are copied at construction.

    On a CPU a pair's score depends on the pair alone up to the rounding of the batch it falls into.
    """

    def __init__(
        self,
        matcher: Matcher,
        device: torch.device | str | None = None,
        precision: str = "float32",
        threads: int | None = None,
    ) -> None:
        """`device`: default that of `matcher`. `threads`: on a CPU, default torch's setting.

        `precision`: float32, or bf16 for the inputs of the linear maps (logits move by some 0.01).
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}, expected one of {PRECISIONS}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        self.device = torch.device(device or next(matcher.parameters()).device)
        self.matcher = copy.deepcopy(matcher).to(self.device).eval().requires_grad_(False)
        self.precision = precision
        self.threads = threads
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.packed: PackedEncoder | None = None
        if self.device.type == "cpu" and is_supported(self.matcher.encoder, dtype):
            self.packed = PackedEncoder(self.matcher.encoder, dtype)
        self.seg_cls = self._project(self.matcher.seg_encoder.weight[SEG_CLS].view(1, 1, -1))
        self.seg_sep = self._project(self.matcher.seg_encoder.weight[SEG_SEP].view(1, 1, -1))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @torch.inference_mode()
    def _project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, n, D) tokens and their first layer's projections (N, 3 H, n, D / H)."""
        if self.packed is not None:
            return tokens, self.packed.project(tokens)
        layer = layers_of(self.matcher.encoder)[0]
        attention = layer.self_attn
        with self._autocast():
            qkv = torch.nn.functional.linear(
                layer.attention_input(tokens), attention.in_proj_weight, attention.in_proj_bias
            ).float()
        return tokens, qkv.unflatten(2, (3 * attention.nhead, -1)).transpose(1, 2).contiguous()

    @torch.inference_mode()
    def encode(self, maps: np.ndarray | Tensor, role: str) -> Encoded:
        """Local maps (N, C, h, w) -> what is kept of them as "query" (source) or "gallery".

        About 16 n D bytes an image: 0.1 MB at the published size.
        """
        if role not in ROLES:
            raise ValueError(f"role is {role!r}, expected one of {list(ROLES)}")
        maps = torch.as_tensor(maps, dtype=torch.float32, device=self.device)
        tokens, heads = self._project(self.matcher.cell_tokens(maps, ROLES[role]))
        return Encoded(tokens, heads, role)

    def score_pairs(self, queries: Encoded, gallery: Encoded, pairs: Any) -> np.ndarray:
        """Logits (P,) float32 of `pairs` (P, 2) int: rows of the two results of `encode`."""
        pairs = np.asarray(pairs, dtype=np.int64)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(f"pairs are {pairs.shape}, expected (P, 2)")
        for column, encoded, role in zip(pairs.T, (queries, gallery), ROLES, strict=True):
            if encoded.role != role:
                raise ValueError(f"images encoded as {encoded.role!r} were given as {role}")
            if len(column) and not 0 <= column.min() <= column.max() < len(encoded):
                raise ValueError(
                    f"pairs name {role} images {column.min()}..{column.max()}, "
                    f"but {len(encoded)} are given"
                )
        if not len(pairs):
            return np.empty(0, np.float32)
        num_tokens = 2 + queries.tokens.shape[1] + gallery.tokens.shape[1]
        index = torch.from_numpy(pairs).to(self.device)
        if self.device.type != "cpu":
            batches = index.split(max(1, BATCH_TOKENS // num_tokens))
            scores = [self._score(queries, gallery, batch) for batch in batches]
            return torch.cat(scores).cpu().numpy()
        hidden = layers_of(self.matcher.encoder)[0].linear1.out_features
        batches = index.split(max(1, BATCH_HIDDEN // (num_tokens * hidden)))
        threads = self.threads or torch.get_num_threads()
        scores = map_in_threads(lambda b: self._score(queries, gallery, b), batches, threads)
        return torch.cat(scores).numpy()

    @torch.inference_mode()
    def _score(self, queries: Encoded, gallery: Encoded, batch: Tensor) -> Tensor:
        """(B,) logits of a batch (B, 2) of pairs."""
        of_query, of_gallery = batch[:, 0], batch[:, 1]
        cls, sep = self.seg_cls, self.seg_sep
        tokens = join(cls[0], queries.tokens[of_query], sep[0], gallery.tokens[of_gallery], 1)
        heads = join(cls[1], queries.heads[of_query], sep[1], gallery.heads[of_gallery], 2)
        if self.packed is not None:
            return self.matcher.classifier(self.packed(tokens, heads)).squeeze(1)
        with self._autocast():
            first = self._encode_rest(tokens, heads)
        return self.matcher.classifier(first.float()).squeeze(1)

    def _encode_rest(self, tokens: Tensor, heads: Tensor) -> Tensor:
        """Token 0 (B, D) after the encoder, from the first layer's projections on."""
        layers = layers_of(self.matcher.encoder)
        x = tokens
        for i, layer in enumerate(layers):
            num_queries = 1 if i == len(layers) - 1 else None
            if i:
                x = layer(x, num_queries=num_queries)
                continue
            q, k, v = (part.transpose(1, 2).flatten(2) for part in heads.chunk(3, dim=1))
            attended = layer.self_attn.attend(q[:, :num_queries], k, v)
            x = layer.after_attention(x[:, :num_queries], attended)
        norm = self.matcher.encoder.norm
        return (x if norm is None else norm(x))[:, 0]


def join(cls: Tensor, query: Tensor, sep: Tensor, gallery: Tensor, dim: int) -> Tensor:
    """The four parts of a sequence along `dim`; `cls` and `sep` are the same for all pairs."""
    single = (len(query), *(-1 for _ in cls.shape[1:]))
    return torch.cat([cls.expand(single), query, sep.expand(single), gallery], dim=dim)
