"""The encoder on a CPU, one pair at a time: same score, a fraction of the time.

Where the time of a pair goes, and what is done about it here:

* Linear maps (three fifths of the arithmetic): oneDNN kernels with weights packed once, bias, ReLU
  and residual fused into them. They beat `torch.mm` by 10 % on the processors tried.
* Attention: the score and value products of a head go through the same kernels; their head width
  of 32 leaves them bound by the exponentials in between. Those are exp2 without the usual search
  for the row maximum, wherever a bound on the scores shows that float32 cannot overflow.
* Last layer: only token 0 is read, so only token 0 is computed. Its keys and values are never made:
  q^T (W_k x) = (W_k^T q)^T x, and sum_j a_j W_v x_j = W_v sum_j a_j x_j.
"""

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from rrt_gld.models.transformer import Encoder, EncoderLayer
from utils.packed_linear import SAFE_EXPONENT, PackedLinear, can_pack, keep_freed_memory

# Rows are padded to a multiple of this: oneDNN builds a kernel for every shape it meets (about
# 3 ms for the six of one length) and remembers 1024 of them, fewer than there are lengths.
ROW_MULTIPLE = 8


def is_supported(encoder: Encoder, dtype: torch.dtype = torch.float32) -> bool:
    """Whether `PackedEncoder` computes this encoder on this machine's CPU."""
    plain = (
        layer.activation == "relu" and not layer.normalize_before for layer in layers_of(encoder)
    )
    return can_pack(dtype) and all(plain)


def layers_of(encoder: Encoder) -> list[EncoderLayer]:
    """The encoder's layers as what they are; a ModuleList holds modules of any type."""
    return cast(list[EncoderLayer], list(encoder.layers))


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a b^T: (M, K), (N, K) -> (M, N), in the dtype of both."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


class PackedLayer:
    """One post-norm ReLU layer on all tokens of one pair."""

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

    def __call__(self, x: Tensor, num_tokens: int) -> Tensor:
        """(T, D) -> (T, D); rows from `num_tokens` on are padding and are not attended to."""
        qkv = self.in_proj(x).unflatten(1, (3 * self.nhead, self.head_width))
        # contiguous: oneDNN takes strided keys too, by a reference kernel a hundred times slower
        heads = qkv.transpose(0, 1).contiguous()
        x = self.norm1(self.out_proj.plus(self._attend(heads, num_tokens), x))
        hidden = self.linear1(x, "relu")
        return self.norm2(self.linear2.plus(hidden, x))

    def _attend(self, heads: Tensor, num_tokens: int) -> Tensor:
        """(3 nhead, T, D / nhead) queries, keys and values -> (T, D), same dtype.

        Scores, exponentials and their sums are float32; the weighted values have the heads' dtype.
        """
        q, k, v = heads.chunk(3)
        q, k = q.float(), k.float()
        q_norm, k_norm = (torch.linalg.vector_norm(t, dim=-1).amax(1) for t in (q, k))
        exceeds = bool((q_norm * k_norm).amax() > SAFE_EXPONENT)
        out = heads.new_empty(heads.shape[1], self.nhead, self.head_width)
        for h in range(self.nhead):
            weights = multiply(q[h], k[h])
            if exceeds:
                weights.sub_(weights[:, :num_tokens].amax(1, keepdim=True))
            weights.exp2_()[:, num_tokens:] = 0.0
            total = weights.sum(1, keepdim=True)
            torch.div(multiply(weights.to(v.dtype), v[h].T), total, out=out[:, h])
        return out.flatten(1)


class FirstTokenLayer:
    """One post-norm ReLU layer of which only token 0 is computed, float32."""

    def __init__(self, layer: EncoderLayer) -> None:
        self.layer = layer
        attention = layer.self_attn
        d = attention.in_proj_weight.shape[1]
        self.shape = (attention.nhead, d // attention.nhead, d)

    def __call__(self, x: Tensor) -> Tensor:
        """(T, D), no padding -> (D,)."""
        attention = self.layer.self_attn
        w_q, w_k, w_v = attention.in_proj_weight.chunk(3)
        b_q, _, b_v = attention.in_proj_bias.chunk(3)  # a key's bias shifts all scores alike
        q = (w_q @ x[0] + b_q).view(self.shape[0], 1, self.shape[1])
        asked = torch.bmm(q, w_k.view(self.shape)).squeeze(1) / math.sqrt(self.shape[1])  # (H, D)
        weights = (asked @ x.T).softmax(1)  # (H, T)
        seen = (weights @ x).unsqueeze(2)  # (H, D, 1)
        attended = attention.out_proj(torch.bmm(w_v.view(self.shape), seen).flatten() + b_v)
        first = self.layer.norm1(x[0] + attended)
        return self.layer.norm2(first + self.layer.feed_forward(first))


class PackedEncoder:
    """Token 0 after an encoder for which `is_supported`; weights are copied at construction."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype = torch.float32) -> None:
        """`dtype`: of the inputs of linear maps and of values, in all layers but the last."""
        keep_freed_memory()
        *first, last = layers_of(encoder)
        self.layers = [PackedLayer(layer, dtype) for layer in first]
        self.last = FirstTokenLayer(last)

    def __call__(self, tokens: Tensor) -> Tensor:
        """(T, D) float32 -> (D,)."""
        num_tokens = len(tokens)
        x = functional.pad(tokens, (0, 0, 0, -num_tokens % ROW_MULTIPLE))
        for layer in self.layers:
            x = layer(x, num_tokens)
        return self.last(x[:num_tokens])
