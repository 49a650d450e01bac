"""The retrieval network of ViTGaL (ACCV 2022): XCiT, multi-atrous block, a class block twice."""

import math
from functools import partial

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional

from vitgal.models.xcit import (
    MLP_RATIO,
    ClassAttentionBlock,
    LayerNorm,
    XCiTSizes,
    init_weights,
    make_blocks,
    make_class_token,
    make_patch_embed,
    make_position_encoding,
)

DILATIONS = (1, 3, 6, 9, 12)
BRANCHES = len(DILATIONS) + 1  # and one of the image's mean
SMALLEST_SINE2 = 1e-12  # floor of 1 - cos^2, which keeps the gradient of its root finite


class MultiAtrous(nn.Module):
    """Convolutions of five dilations and the image's mean, then an MLP; both as residuals.

    Kept as published: GELU before the batch norm (the mean's branch has it twice), eps 1e-5.
    """

    def __init__(self, dim: int, eta: float, drop: float = 0.0) -> None:
        super().__init__()
        width = dim // BRANCHES
        self.gamma = nn.Parameter(eta * torch.ones(dim))
        self.gamma2 = nn.Parameter(eta * torch.ones(dim))
        self.gap_branch = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, width, 1))
        self.dilated_convs = nn.ModuleList(
            nn.Conv2d(dim, width, 3, padding=d, dilation=d) for d in DILATIONS
        )
        self.depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm = nn.BatchNorm2d(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * MLP_RATIO), drop=drop)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C) of a grid (Hp, Wp), N = Hp * Wp row by row -> the same shape."""
        batch, length, dim = tokens.shape
        image = tokens.transpose(1, 2).reshape(batch, dim, *grid)
        mean = functional.gelu(self.gap_branch(image)).expand(-1, -1, *grid)
        branches = [*(conv(image) for conv in self.dilated_convs), mean]
        mixed = self.depthwise(self.norm(functional.gelu(torch.cat(branches, dim=1))))
        tokens = tokens + self.gamma * mixed.view(batch, dim, length).transpose(1, 2)
        return tokens + self.gamma2 * self.mlp(self.norm2(tokens))


class ArcFace(nn.Module):
    """Additive angular margin (Deng et al., CVPR 2019), always computed in float32.

    In half precision a cosine may exceed 1, and the root of 1 - cos^2 is then no number.
    """

    def __init__(self, dim: int, num_classes: int, scale: float = 30.0, margin: float = 0.15):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, dim))
        nn.init.xavier_uniform_(self.weight)
        self.scale, self.margin = scale, margin

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, C) descriptors of any length and (B,) labels -> (B, classes) logits, float32.

        s cos(theta + m) for the label, s cos(theta) for other classes; where theta + m exceeds pi
        the label's is s (cos(theta) - m sin(pi - m)).
        """
        with torch.autocast(features.device.type, enabled=False):
            cosine = functional.linear(
                functional.normalize(features.float()), functional.normalize(self.weight.float())
            )
            target = cosine.gather(1, labels[:, None])
            sine = (1 - target.square()).clamp(min=SMALLEST_SINE2).sqrt()
            shifted = target * math.cos(self.margin) - sine * math.sin(self.margin)
            linear = target - math.sin(math.pi - self.margin) * self.margin
            with_margin = torch.where(target > math.cos(math.pi - self.margin), shifted, linear)
            return self.scale * cosine.scatter(1, labels[:, None], with_margin)


class RetrievalNetwork(nn.Module):
    """XCiT with the multi-atrous block; its class row is the global descriptor.

    Entries of the state dict have the published names and order (layout of a training checkpoint;
    without `num_classes` there is no head.weight).
    """

    def __init__(self, sizes: XCiTSizes, num_classes: int = 0) -> None:
        """`num_classes`: rows of the ArcFace head for training; 0: none."""
        super().__init__()
        dim = sizes.embed_dim
        self.sizes = sizes
        self.cls_token = make_class_token(dim)
        self.patch_embed = make_patch_embed(sizes)
        self.blocks = make_blocks(sizes)
        # one block, applied twice
        self.cls_attn_blocks = nn.ModuleList([ClassAttentionBlock(dim, sizes.num_heads, sizes.eta)])
        self.norm = LayerNorm(dim)
        self.local_atrous = MultiAtrous(dim, sizes.eta, sizes.drop)
        self.head = ArcFace(dim, num_classes) if num_classes else None
        self.pos_embeder = make_position_encoding(sizes)
        self.apply(partial(init_weights, std=sizes.weight_std))

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) normalised images -> tokens with positions (B, N, C), grid (Hp, Wp)."""
        tokens, grid = self.patch_embed(images)
        positions = self.pos_embeder(1, *grid).flatten(2).transpose(1, 2)
        return tokens + positions, grid

    def encode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens after the cross-covariance blocks and the multi-atrous block, (B, N, C)."""
        for block in self.blocks:
            tokens = block(tokens, *grid)
        return self.local_atrous(tokens, grid)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised images of any size -> descriptors; logits where labels are given.

        Returns:
            global: (B, C), the class row after the last norm, not normalised to unit length.
            cls_attn: (B, heads, N) class attention of the second application, see
                ClassAttentionBlock; N = ceil(H / 16) * ceil(W / 16), row by row.
            tokens: (B, N, C) patch rows after the last norm.
            logits: (B, num_classes) of the ArcFace head; needs `labels` (B,) int64.
        """
        tokens = self.encode(*self.embed(images))
        rows = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        rows, _ = self.cls_attn_blocks[0](rows)
        rows, attention = self.cls_attn_blocks[0](rows)
        rows = self.norm(rows)
        outputs = {"global": rows[:, 0], "cls_attn": attention, "tokens": rows[:, 1:]}
        if labels is not None:
            if self.head is None:
                raise ValueError("labels were given, but the network was made without num_classes")
            outputs["logits"] = self.head(rows[:, 0], labels)
        return outputs
