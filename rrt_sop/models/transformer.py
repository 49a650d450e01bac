"""Encoder of the reranking transformer (RRT, ICCV'21, section 3.3): plain softmax attention.

The one of rrt_gld, with the steps of a layer apart, so that a scorer can enter after the first
layer's projections.

Parameter names and their order are those of the released checkpoints and are never changed.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "glu": functional.glu,
}


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(d / nhead)) v per head, then the output map.

    Names and shapes as in `nn.MultiheadAttention`, but averaged weights are never made: writing
    them for a batch of pairs costs more time than the attention itself.
    """

    def __init__(self, d_model: int, nhead: int, dropout: float = 0.0) -> None:
        super().__init__()
        if d_model % nhead:
            raise ValueError(f"d_model {d_model} is no multiple of nhead {nhead}")
        self.nhead = nhead
        self.dropout = dropout
        # rows 0..d-1 make the queries, d..2d-1 the keys, 2d..3d-1 the values
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, x: Tensor, key_mask: Tensor | None = None, num_queries: int | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, num_queries or T, D).

        `key_mask`: (B, T) bool, True = padding, at least one False in every row.
        `num_queries`: only the first that many tokens ask; all tokens are still asked.
        """
        d = x.shape[-1]
        if num_queries is None:
            q, k, v = functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            q = functional.linear(
                x[:, :num_queries], self.in_proj_weight[:d], self.in_proj_bias[:d]
            )
            k, v = functional.linear(x, self.in_proj_weight[d:], self.in_proj_bias[d:]).chunk(
                2, dim=-1
            )
        return self.attend(q, k, v, key_mask)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Projected q (B, S, D), k and v (B, T, D) -> (B, S, D); the output map included."""
        q, k, v = (t.unflatten(-1, (self.nhead, -1)).transpose(1, 2) for t in (q, k, v))
        keep = None if key_mask is None else ~key_mask[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        heads = functional.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=dropout)
        return self.out_proj(heads.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Attention and feed-forward map, each with a residual and a LayerNorm.

    x <- LN1(x + attention(x)), x <- LN2(x + ffn(x)); with `normalize_before`
    x <- x + attention(LN1(x)), x <- x + ffn(LN2(x)).
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        activation: str = "relu",
        normalize_before: bool = False,
    ) -> None:
        """`activation`: relu, gelu (exact erf form) or glu (halves the hidden width)."""
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, expected one of {list(ACTIVATIONS)}")
        hidden = dim_feedforward // 2 if activation == "glu" else dim_feedforward
        self.self_attn = SelfAttention(d_model, nhead, dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(hidden, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.activation = activation
        self.normalize_before = normalize_before

    def feed_forward(self, x: Tensor) -> Tensor:
        """W_2 dropout(act(W_1 x + b_1)) + b_2, any leading shape."""
        return self.linear2(self.dropout(ACTIVATIONS[self.activation](self.linear1(x))))

    def forward(
        self, x: Tensor, key_mask: Tensor | None = None, num_queries: int | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, num_queries or T, D); arguments as in `SelfAttention.forward`."""
        attended = self.self_attn(self.attention_input(x), key_mask, num_queries)
        return self.after_attention(x[:, :num_queries], attended)

    def attention_input(self, x: Tensor) -> Tensor:
        """What the attention's projections are applied to."""
        return self.norm1(x) if self.normalize_before else x

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer: `x` as it entered, `attended` the attention's output."""
        if self.normalize_before:
            x = x + self.dropout(attended)
            return x + self.dropout(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout(attended))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class Encoder(nn.Module):
    """Equal copies of one layer; a final LayerNorm only with `normalize_before`."""

    def __init__(self, layer: EncoderLayer, num_layers: int) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_encoder_layers is {num_layers}, expected at least 1")
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        d_model = layer.norm1.normalized_shape
        self.norm = nn.LayerNorm(d_model) if layer.normalize_before else None

    def forward(
        self, x: Tensor, key_mask: Tensor | None = None, num_queries: int | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, num_queries or T, D).

        With `num_queries` the last layer computes those first tokens only: what a reader of these
        tokens gets, and every gradient, stay the same.
        """
        *first, last = self.layers
        for layer in first:
            x = layer(x, key_mask)
        x = last(x, key_mask, num_queries)
        return x if self.norm is None else self.norm(x)
