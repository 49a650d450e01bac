"""CCT-14/7x2, a compact convolutional transformer, as a backbone of the VG benchmark (cct384).

*Escaping the Big Data Paradigm with Compact Transformers*, 2021: two convolutions (7 x 7, stride 2)
with max pooling make the tokens, 14 blocks of width 384 follow. Names of parameters are those of
the published file for images of 384 x 384, which has 22.5 million numbers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from utils.checkpoints import load_exactly

WIDTH, DEPTH, HEADS, MLP = 384, 14, 6, 1152
SIZE, STRIDE = 384, 16  # pixels; of a token
CLASSIFIER = "classifier."
POOL, TOP = f"{CLASSIFIER}attention_pool.", f"{CLASSIFIER}fc."
SOURCE = "cct_14_7x2_384_imagenet.pth of https://github.com/SHI-Labs/Compact-Transformers"


class SelfAttention(nn.Module):
    """Attention of all tokens to all, without a bias in its first map."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """x <- x + attention(pre_norm x); x <- norm1 x; x <- x + linear2(gelu(linear1 x)).

    The second norm stands in the main path, as published.
    """

    def __init__(self, dim: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(dim)
        self.self_attn = SelfAttention(dim, heads)
        self.linear1 = nn.Linear(dim, mlp)
        self.norm1 = nn.LayerNorm(dim)
        self.linear2 = nn.Linear(mlp, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = self.norm1(x + self.self_attn(self.pre_norm(x)))
        return x + self.linear2(nn.functional.gelu(self.linear1(x)))


class Tokenizer(nn.Module):
    """Twice: convolution, ReLU, max pooling; a quarter of the side each time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv_layers = nn.Sequential(*(self._layer(*c) for c in ((3, 64), (64, dim))))

    @staticmethod
    def _layer(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 7, stride=2, padding=3, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, (H / 16) * (W / 16), D), row by row."""
        return self.conv_layers(images).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """Positions, blocks and the last norm; in the published file beside pooling and classes."""

    def __init__(self, places: int, with_class: bool, depth: int) -> None:
        super().__init__()
        self.class_emb = nn.Parameter(torch.zeros(1, 1, WIDTH)) if with_class else None
        self.positional_emb = nn.Parameter(torch.empty(1, places + with_class, WIDTH))
        nn.init.trunc_normal_(self.positional_emb, std=0.2)
        self.blocks = nn.ModuleList(EncoderBlock(WIDTH, HEADS, MLP) for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D), or (B, 1 + T, D) with a class token."""
        if self.class_emb is not None:
            x = torch.cat([self.class_emb.expand(len(x), -1, -1), x], dim=1)
        x = x + self.positional_emb
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class CompactTransformer(nn.Module):
    """Tokens of CCT-14/7x2 for images of 384 x 384."""

    width = WIDTH

    def __init__(self, with_class: bool = False, depth: int = DEPTH) -> None:
        """`with_class`: a class token comes first (aggregation cls); the published file has none,
        it starts at zero. `depth`: blocks, 14 in the published file."""
        super().__init__()
        self.prefix = int(with_class)  # tokens before those of places
        self.grid = (SIZE // STRIDE, SIZE // STRIDE)
        self.tokenizer = Tokenizer(WIDTH)
        for module in self.tokenizer.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.classifier = Encoder(self.grid[0] * self.grid[1], with_class, depth)

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks of the transformer."""
        return self.classifier.blocks

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 384, 384) -> (B, 576, 384), with a class token (B, 577, 384)."""
        if images.shape[-2:] != (SIZE, SIZE):
            raise ValueError(
                f"images are {images.shape[-2]} x {images.shape[-1]}, cct384 takes {SIZE} x "
                f"{SIZE}: set dataset.resize='[{SIZE}, {SIZE}]'"
            )
        return self.classifier(self.tokenizer(images))


def start_cct(
    net: CompactTransformer, weights: Mapping[str, Tensor], path: str
) -> dict[str, Tensor]:
    """Begin with the published file for images of 384 x 384, strictly.

    Its classes are left out, and blocks that `net` has not. Returns its `weight` and `bias` of
    attention pooling, which aggregation seqpool starts from.
    """
    last = len(net.blocks)
    state = {}
    for name, value in weights.items():
        block = name.removeprefix(f"{CLASSIFIER}blocks.")
        beyond = block != name and int(block.split(".")[0]) >= last
        if not (name.startswith((POOL, TOP)) or beyond):
            state[name] = value
    if net.prefix and f"{CLASSIFIER}positional_emb" in state:
        positions, cls = f"{CLASSIFIER}positional_emb", f"{CLASSIFIER}class_emb"
        state[cls] = net.state_dict()[cls]
        own = net.state_dict()[positions][:, : net.prefix]
        state[positions] = torch.cat([own, state[positions]], dim=1)
    load_exactly(net, state, path)
    return {name.removeprefix(POOL): v for name, v in weights.items() if name.startswith(POOL)}
