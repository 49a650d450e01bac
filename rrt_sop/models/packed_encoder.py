"""The encoder on a CPU for a few pairs at a time: same score, a fraction of the time.

* So few pairs that a layer's hidden values stay in the cache: the published chunks of 3000 pairs
  write and read 1.2 GB for them in every layer.
* Linear maps (nine tenths of the arithmetic): oneDNN kernels with weights packed once, bias, ReLU
  and residual fused into them.
* Attention: scores in units of log2 and exp2 without the usual search for the row maximum, wherever
  a bound on the scores shows that float32 cannot overflow; no averaged weights.
* First layer: queries, keys and values come projected, once per image and role.
* Last layer: only token 0 is read, so only token 0 is computed. Its keys and values are never made:
  q^T (W_k x) = (W_k^T q)^T x, and sum_j a_j W_v x_j = W_v sum_j a_j x_j.
"""

import math
from typing import cast

import torch
from torch import Tensor

from rrt_sop.models.transformer import Encoder, EncoderLayer
from utils.packed_linear import SAFE_EXPONENT, PackedLinear, can_pack, keep_freed_memory


def is_supported(encoder: Encoder, dtype: torch.dtype = torch.float32) -> bool:
    """Whether `PackedEncoder` computes this encoder on this machine's CPU."""
    plain = (
        layer.activation == "relu" and not layer.normalize_before for layer in layers_of(encoder)
    )
    return can_pack(dtype) and all(plain)


def layers_of(encoder: Encoder) -> list[EncoderLayer]:
    """The encoder's layers as what they are; a ModuleList holds modules of any type."""
    return cast(list[EncoderLayer], list(encoder.layers))


class PackedLayer:
    """One post-norm ReLU layer on all tokens of some pairs."""

    def __init__(self, layer: EncoderLayer, dtype: torch.dtype) -> None:
        attention = layer.self_attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self.nhead = attention.nhead
        self.head_width = weight.shape[1] // self.nhead
        self.in_proj = PackedLinear.of_attention(weight, bias, self.nhead, dtype)
        self.out_proj = PackedLinear.of(attention.out_proj, dtype)
        self.linear1 = PackedLinear.of(layer.linear1, dtype)
        self.linear2 = PackedLinear.of(layer.linear2, dtype)
        self.norm1, self.norm2 = layer.norm1, layer.norm2

    def project(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, 3 nhead, T, D / nhead) float32: queries, keys, values by head."""
        qkv = self.in_proj(x.flatten(0, 1)).float()
        parts = qkv.view(*x.shape[:2], 3 * self.nhead, self.head_width)
        return parts.transpose(1, 2).contiguous()

    def __call__(self, x: Tensor, heads: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); `heads`: what `project` gives for x, if it is there already."""
        attended = attend(self.project(x) if heads is None else heads).flatten(0, 1)
        flat = self.norm1(self.out_proj.plus(attended, x.flatten(0, 1)))
        return self.norm2(self.linear2.plus(self.linear1(flat, "relu"), flat)).view(x.shape)


def attend(heads: Tensor) -> Tensor:
    """(B, 3 H, T, D / H) contiguous queries, keys and values, float32 -> (B, T, D)."""
    batch, rows, tokens, width = heads.shape
    nhead = rows // 3
    q, k, v = (part.reshape(batch * nhead, tokens, width) for part in heads.chunk(3, dim=1))
    weights = torch.bmm(q, k.transpose(1, 2))
    q_norm, k_norm = (torch.linalg.vector_norm(t, dim=-1).amax() for t in (q, k))
    if not bool(q_norm * k_norm <= SAFE_EXPONENT):
        weights.sub_(weights.amax(2, keepdim=True))
    weights.exp2_()
    total = weights.sum(2, keepdim=True)
    out = torch.bmm(weights, v).div_(total).view(batch, nhead, tokens, width)
    return out.transpose(1, 2).reshape(batch, tokens, nhead * width)


class FirstTokenLayer:
    """One post-norm ReLU layer of which only token 0 is computed, float32."""

    def __init__(self, layer: EncoderLayer) -> None:
        self.layer = layer
        attention = layer.self_attn
        d = attention.in_proj_weight.shape[1]
        self.shape = (attention.nhead, d // attention.nhead, d)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, D)."""
        nhead, width, d = self.shape
        attention = self.layer.self_attn
        w_q, w_k, w_v = attention.in_proj_weight.chunk(3)
        b_q, _, b_v = attention.in_proj_bias.chunk(3)  # a key's bias shifts all scores alike
        first = x[:, 0]
        q = (first @ w_q.T + b_q).view(-1, nhead, width).transpose(0, 1)  # (H, B, D / H)
        asked = torch.bmm(q, w_k.view(self.shape)).transpose(0, 1) / math.sqrt(width)  # (B, H, D)
        weights = torch.bmm(asked, x.transpose(1, 2)).softmax(2)  # (B, H, T)
        seen = torch.bmm(weights, x).transpose(0, 1)  # (H, B, D)
        values = torch.bmm(seen, w_v.view(self.shape).transpose(1, 2))  # (H, B, D / H)
        attended = values.transpose(0, 1).reshape(-1, d) + b_v
        return self.layer.after_attention(first, attention.out_proj(attended))


class PackedEncoder:
    """Token 0 after an encoder for which `is_supported`; weights are copied at construction."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype = torch.float32) -> None:
        """`dtype`: of the inputs of linear maps, in all layers but the last."""
        keep_freed_memory()
        *first, last = layers_of(encoder)
        self.layers = [PackedLayer(layer, dtype) for layer in first]
        self.last = FirstTokenLayer(last)

    def project(self, tokens: Tensor) -> Tensor:
        """First layer's projections of (N, n, D) tokens: (N, 3 H, n, D / H)."""
        if not self.layers:  # a single layer asks token 0 alone: there is nothing to prepare
            return tokens.new_empty(len(tokens), 0, tokens.shape[1], 0)
        return self.layers[0].project(tokens)

    def __call__(self, tokens: Tensor, heads: Tensor) -> Tensor:
        """(B, T, D) float32 with their `project` -> (B, D)."""
        x = tokens
        for i, layer in enumerate(self.layers):
            x = layer(x, heads if i == 0 else None)
        return self.last(x)
