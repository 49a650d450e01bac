"""Distilled DeiT as a global descriptor and as the source of local features (R2Former, Sec. 3).

g = L2((head(z_CLS) + head_dist(z_DIST)) / 2) with z the last LayerNorm's output. timm's model
carries the parameters, under the names of the released files (`layout_global.json`).
"""

from typing import NamedTuple

import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from r2former.models.blocks import run_first_tokens
from r2former.models.position_grid import fit_grid
from r2former.models.stem import ConvStem

PREFIX = 2  # tokens before the patches: CLS and DIST
STEMS = ("patch", "conv")


class Attended(NamedTuple):
    """What the last block gives: the descriptor, and what local features are chosen from."""

    descriptor: Tensor  # (B, out_dim) unit rows
    tokens: Tensor  # (B, 2 + T, D) input of the last block, or the hypercolumn
    attention: Tensor  # (B, T) of CLS and DIST to the patches, summed over heads; no gradient


class DeiT(VisionTransformerDistilled):
    """DeiT for images of any size; called with (B, 3, H, W) it gives unit rows (B, out_dim)."""

    cls_token: nn.Parameter
    pos_embed: nn.Parameter

    def __init__(
        self,
        img_size: tuple[int, int] = (480, 640),
        out_dim: int = 256,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        patch_size: int = 16,
        hypercolumn: int = 0,
        stem: str = "patch",
    ) -> None:
        """`img_size`: height, width that the position embedding is built for.

        `hypercolumn`: 100 * s + e takes the outputs of blocks s..e-1, concatenated, in place of the
        last block's input. `stem`: patch is published; conv makes the patches by `ConvStem` and
        begins with the weights of `start_large`, for training from random ones.
        """
        if stem not in STEMS:
            raise ValueError(f"stem is {stem!r}, expected one of {STEMS}")
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}")
        if min(img_size) < patch_size:
            raise ValueError(f"img_size is {img_size}, smaller than a patch of {patch_size}")
        super().__init__(
            img_size=tuple(img_size), patch_size=patch_size, num_classes=out_dim,
            embed_dim=embed_dim, depth=depth, num_heads=num_heads,
        )  # fmt: skip
        self.built_for = (int(img_size[0]), int(img_size[1]))
        self.grid = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.patch = patch_size
        self.columns = read_hypercolumn(hypercolumn, depth)
        self.local_width = embed_dim * max(1, len(self.columns))
        self.out_dim = out_dim
        if stem == "conv":
            self.patch_embed.proj = ConvStem(patch_size, embed_dim)
            start_large(self)
            self.to(memory_format=torch.channels_last)  # on CPUs faster

    def embed_patches(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 2 + T, D) tokens with their positions; T = (H // 16) * (W // 16).

        A remainder at the right or bottom is cut.
        """
        height, width = images.shape[-2:]
        if min(height, width) < self.patch:
            raise ValueError(f"images are {height} x {width}, smaller than a patch of {self.patch}")
        patches = self.patch_embed.proj(images)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        prefix = torch.cat([self.cls_token, self.dist_token], dim=1).expand(len(tokens), -1, -1)
        positions: Tensor = self.pos_embed
        if (height, width) != self.built_for:
            grid = positions[0, PREFIX:].unflatten(0, self.grid)
            fitted = fit_grid(grid, rows, columns, landscape=height < width).flatten(0, 1)
            positions = torch.cat([positions[:, :PREFIX], fitted[None]], dim=1)
        return torch.cat([prefix, tokens], dim=1) + positions

    def attend(self, images: Tensor) -> Attended:
        """Descriptor, tokens and attention in one pass.

        Of the last block only CLS and DIST are ever used, so only they are computed.
        """
        x = self.embed_patches(images)
        kept = []
        for index, block in enumerate(self.blocks[:-1]):
            x = block(x)
            if index in self.columns:
                kept.append(x)
        head, attention = run_first_tokens(self.blocks[-1], x, PREFIX)
        z = self.norm(head)
        descriptor = (self.head(z[:, 0]) + self.head_dist(z[:, 1])) / 2
        return Attended(
            nn.functional.normalize(descriptor, dim=1),
            torch.cat(kept, dim=-1) if kept else x,
            attention.detach()[..., PREFIX:].sum(dim=(1, 2)),
        )

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        """(B, 3, H, W) -> (B, out_dim) unit rows."""
        return self.attend(images).descriptor

    def attend_local(self, images: Tensor) -> Attended:
        """As `attend`, with `tokens` row p the published feature of patch p: (B, T, D).

        The published code looks patches up in an array that still begins with CLS and DIST: patch p
        gets the token of patch p - 2, patches 0 and 1 get CLS and DIST. Released weights were
        trained so.
        """
        found = self.attend(images)
        return found._replace(tokens=found.tokens[:, : found.attention.shape[1]])

    def count_columns(self, width: int) -> int:
        """Columns that patch coordinates are counted in: ceil(W / 16), one too many where a rest
        is cut, as published."""
        return -(-width // self.patch)


def start_large(net: nn.Module) -> None:
    """Xavier's weights for every linear layer, as in the reranker, in place of N(0, 0.02)."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def read_hypercolumn(value: int, depth: int) -> range:
    """100 * s + e -> the blocks (or stages of a CNN) s..e-1, never the last one; 0: none."""
    start, stop = divmod(value, 100)
    if value and not 0 <= start < stop < depth:
        raise ValueError(
            f"hypercolumn is {value}, expected 100 * first + last with first < last < {depth}"
        )
    return range(start, stop)
