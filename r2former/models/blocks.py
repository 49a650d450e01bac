"""Transformer blocks, whole or for their first tokens only.

Block: x <- x + proj(attention(norm1 x)); x <- x + fc2(gelu(fc1(norm2 x))), with pre-norm, exact
GELU and LayerNorm eps 1e-6. timm's block carries the parameters; its names are those of the
released files (`norm1`, `attn.qkv`, `attn.proj`, `norm2`, `mlp.fc1`, `mlp.fc2`).
"""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

EPS = 1e-6


def make_block(dim: int, num_heads: int, mlp_ratio: float = 4.0) -> Block:
    """A block of width `dim` without dropout."""
    norm: Any = partial(nn.LayerNorm, eps=EPS)
    return Block(dim, num_heads, mlp_ratio, qkv_bias=True, norm_layer=norm)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, D) -> (B, heads, N, D / heads)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


def run_first_tokens(block: nn.Module, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The block's first `count` tokens (B, count, D) and their attention (B, heads, count, N).

    Every token is a key, only those asked for are queries: the same numbers as from the whole
    block at a fraction of its cost.
    """
    parts: Any = block
    attn = parts.attn
    dim = x.shape[-1]
    normed = parts.norm1(x)
    weight, bias = attn.qkv.weight, attn.qkv.bias
    queries = nn.functional.linear(normed[:, :count], weight[:dim], bias[:dim])
    keys, values = nn.functional.linear(normed, weight[dim:], bias[dim:]).chunk(2, dim=-1)
    q, k, v = (split_heads(part, attn.num_heads) for part in (queries, keys, values))
    attention = torch.softmax((q * attn.scale) @ k.transpose(-2, -1), dim=-1)
    mixed = (attention @ v).transpose(1, 2).flatten(2)
    head = x[:, :count] + attn.proj(mixed)
    return head + parts.mlp(parts.norm2(head)), attention
