"""XCiT (El-Nouby et al., NeurIPS 2021) from timm's parts, with the published parameter names.

timm supplies patch embedding, positional encoding and the cross-covariance blocks, bit for bit
those of the published code. The class-attention block is ours: timm's returns no attention map.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.xcit import ConvPatchEmbed, PositionalEncodingFourier, XCABlock
from torch import Tensor, nn
from torch.nn import functional

PATCH_SIZE = 16  # pixels; four convolutions of stride 2
NORM_EPS = 1e-6
MLP_RATIO = 4.0
WEIGHT_STD = 0.02  # of class tokens at the start, and of linear maps as published


class LayerNorm(nn.LayerNorm):
    """Over the last dimension, with the epsilon of XCiT."""

    def __init__(self, dim: int, **placement: Any) -> None:
        """`placement`: device and dtype, which newer timm hands on."""
        super().__init__(dim, eps=NORM_EPS, **placement)


@dataclass(frozen=True)
class XCiTSizes:
    """Numbers that fix an XCiT; the width divides by 24 (six branches, eighths in the stem)."""

    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 8
    eta: float = 1.0  # start of every layer scale
    drop: float = 0.0  # dropout on projections
    drop_path: float = 0.1  # rate of dropped branches, the same in all blocks
    weight_std: float = WEIGHT_STD  # of linear maps at the start

    def __post_init__(self) -> None:
        if self.embed_dim < 24 or self.embed_dim % 24 or self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim={self.embed_dim}, num_heads={self.num_heads}: expected a multiple of "
                "24 which num_heads divides"
            )
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}, expected at least 1")


VARIANTS = {"s12": XCiTSizes(depth=12, eta=1.0), "s24": XCiTSizes(depth=24, eta=1e-5)}


class ClassAttention(nn.Module):
    """Attention of the class row to all rows; one linear map holds query, key and value."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1 + N, C) -> the new class row (B, 1, C), and its weights (B, heads, 1 + N)."""
        batch, length, dim = rows.shape
        width = dim // self.num_heads
        # the query is needed for the class row alone
        q = functional.linear(rows[:, 0], self.qkv.weight[:dim], self.qkv.bias[:dim])
        kv = functional.linear(rows, self.qkv.weight[dim:], self.qkv.bias[dim:])
        k, v = kv.view(batch, length, 2, self.num_heads, width).permute(2, 0, 3, 1, 4)
        q = q.view(batch, self.num_heads, 1, width) * width**-0.5
        weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
        merged = (weights @ v).transpose(1, 2).reshape(batch, 1, dim)
        return self.proj(merged), weights.squeeze(2)


class ClassAttentionBlock(nn.Module):
    """Class attention and an MLP on the class row; patch rows take part in the norms (CaiT, XCiT).

    Kept as published: patch rows receive their own normalised value in place of an attention
    result, and are doubled at the end.
    """

    def __init__(self, dim: int, num_heads: int, eta: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = ClassAttention(dim, num_heads)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * MLP_RATIO))
        self.gamma1 = nn.Parameter(eta * torch.ones(dim))
        self.gamma2 = nn.Parameter(eta * torch.ones(dim))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1 + N, C) -> the same shape, and the class attention over patches (B, heads, N).

        The entry of the class row itself is left out of the attention, which is not renormalised.
        """
        normed = self.norm1(rows)
        attended, weights = self.attn(normed)
        rows = rows + self.gamma1 * torch.cat([attended, normed[:, 1:]], dim=1)
        rows = self.norm2(rows)
        first = rows[:, :1]
        first = first + self.gamma2 * self.mlp(first)
        return torch.cat([first, 2 * rows[:, 1:]], dim=1), weights[:, :, 1:]


def make_patch_embed(sizes: XCiTSizes) -> nn.Module:
    """(B, 3, H, W) -> (B, N, C) and the grid (ceil(H / 16), ceil(W / 16)), N row by row."""
    return ConvPatchEmbed(patch_size=PATCH_SIZE, embed_dim=sizes.embed_dim)


def make_position_encoding(sizes: XCiTSizes) -> nn.Module:
    """(B, Hp, Wp) -> (B, C, Hp, Wp): sines of the place relative to the grid, mapped to C."""
    return PositionalEncodingFourier(dim=sizes.embed_dim)


def make_blocks(sizes: XCiTSizes) -> nn.ModuleList:
    """Cross-covariance blocks: attention, local interaction, MLP."""
    blocks = nn.ModuleList(
        XCABlock(
            sizes.embed_dim,
            sizes.num_heads,
            mlp_ratio=MLP_RATIO,
            qkv_bias=True,
            proj_drop=sizes.drop,
            drop_path=sizes.drop_path,
            norm_layer=LayerNorm,
            eta=sizes.eta,
        )
        for _ in range(sizes.depth)
    )
    for block in blocks:  # to the end, where the published order of the entries has them
        for entries, name in (
            ("_parameters", "gamma3"),
            ("_modules", "norm3"),
            ("_modules", "local_mp"),
        ):
            setattr(block, name, getattr(block, entries).pop(name))
    return blocks


def init_weights(module: nn.Module, std: float = WEIGHT_STD) -> None:
    """For `module.apply`: linear maps; norms and convolutions keep torch's start."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def make_class_token(dim: int) -> nn.Parameter:
    """(1, 1, C), as published."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=WEIGHT_STD))


# ------------------------------------------------------------------ names

POSITION_NAMES = ("pos_embeder.", "pos_embed.")  # published (sic), timm
SPLIT = ("q", "k", "v")  # timm has three maps where the published code has one
CLASS_QKV = ("cls_attn_blocks.", ".attn.")


def rename_to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names -> those of timm's XCiT; query, key and value of class blocks come apart.

    What timm has no place for (local_atrous.*) is left as it is, and so is a head.
    """
    renamed = {}
    for name, value in state.items():
        name = _replace_start(name, *POSITION_NAMES)
        if name.startswith(CLASS_QKV[0]) and ".attn.qkv." in name:
            for letter, part in zip(SPLIT, value.chunk(3), strict=True):
                renamed[name.replace(".attn.qkv.", f".attn.{letter}.")] = part
        else:
            renamed[name] = value
    return renamed


def rename_from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `rename_to_timm`. KeyError when a class block lacks query, key or value."""
    renamed = {}
    for name, value in state.items():
        name = _replace_start(name, *reversed(POSITION_NAMES))
        if not name.startswith(CLASS_QKV[0]):
            renamed[name] = value
        elif ".attn.q." in name:
            parts = [state[name.replace(".attn.q.", f".attn.{letter}.")] for letter in SPLIT]
            renamed[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
        elif ".attn.k." not in name and ".attn.v." not in name:
            renamed[name] = value
    return renamed


def has_timm_names(state: Mapping[str, Tensor]) -> bool:
    """Whether `state` is one of timm's XCiT."""
    return any(name.startswith(POSITION_NAMES[1]) for name in state)


def _replace_start(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name
