"""The reranker as the text of the method says it, pair by pair and without shortcuts."""

from typing import Any

import torch
from torch import Tensor, nn

from r2former.models.reranker import Reranker


def plain_logits(net: Reranker, query: Tensor, reference: Tensor) -> Tensor:
    """(B, Nq, 3 + D), (B, Nr, 3 + D) -> (B, 2): all 7-vectors, whole sorts, whole blocks."""
    rows = [plain_vectors(q, r, net.num_corr) for q, r in zip(query, reference, strict=True)]
    vectors = torch.stack(rows)  # (B, R, c, 7)
    tokens = plain_tokens(net, vectors)
    x = tokens + plain_sinusoid(vectors[:, :, 0, 0:2], tokens.shape[-1])
    x = torch.cat([net.cls_token.expand(len(x), -1, -1), x], dim=1)
    for block in net.blocks:
        x = plain_block(block, x)
    return net.decoder_pred(net.decoder_norm(x)[:, 0])


def plain_vectors(query: Tensor, reference: Tensor, count: int) -> Tensor:
    """(Nq, 3 + D), (Nr, 3 + D) -> (Nq + Nr, c, 7), from the table of all pairs."""
    u_q, u_r = query[:, :3].clamp(0, 1), reference[:, :3].clamp(0, 1)
    f_q, f_r = (nn.functional.normalize(x[:, 3:], dim=1) for x in (query, reference))
    similarity = f_q @ f_r.T
    nq, nr = similarity.shape
    table = torch.cat(
        [
            u_q[:, None].expand(nq, nr, 3),
            u_r[None].expand(nq, nr, 3),
            similarity[..., None],
        ],
        dim=-1,
    )
    by_query = similarity.sort(dim=1, descending=True).indices[:, :count]
    by_reference = similarity.sort(dim=0, descending=True).indices[:count].T
    first = table.gather(1, by_query[..., None].expand(-1, -1, 7))
    second = table.transpose(0, 1).gather(1, by_reference[..., None].expand(-1, -1, 7))
    return torch.cat([first, second])


def plain_tokens(net: Reranker, vectors: Tensor) -> Tensor:
    """Block-1: (B, R, c, 7) -> (B, R, 32), output of pair_head_2."""
    x = net.pair_head(vectors)
    x = x + plain_sinusoid(vectors[..., 3:5], x.shape[-1])
    x = x.flatten(0, 1)
    x = torch.cat([net.cls_token_2.expand(len(x), -1, -1), x], dim=1)
    for block in net.blocks_2:
        x = plain_block(block, x)
    return net.pair_head_2(net.decoder_norm(x)[:, 0]).view(*vectors.shape[:2], -1)


def plain_sinusoid(places: Tensor, dim: int) -> Tensor:
    """(..., 2) -> (..., dim)."""
    count = dim // 4
    omega = torch.tensor([10000 ** (-m / count) for m in range(count)])
    a, b = places[..., :1] * omega, places[..., 1:] * omega
    return torch.cat([a.sin(), a.cos(), b.sin(), b.cos()], dim=-1)


def plain_block(block: Any, x: Tensor) -> Tensor:
    """A transformer block with its table of attention."""
    batch, length, dim = x.shape
    attn = block.attn
    qkv = attn.qkv(block.norm1(x)).view(batch, length, 3, attn.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    table = (q @ k.transpose(-2, -1) * (dim // attn.num_heads) ** -0.5).softmax(dim=-1)
    x = x + attn.proj((table @ v).transpose(1, 2).reshape(batch, length, dim))
    return x + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(x))))
