"""Transformers as backbones of the VG benchmark: ViT-B/16 and CCT; `trunc_te` and `freeze_te`."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from r2former.models.cct import DEPTH, SOURCE, CompactTransformer, start_cct
from r2former.models.weights import WEIGHTS_HINT, read_pretrained
from utils.paths import require_file

VIT, CCT = "vit", "cct384"
DEPTHS = {VIT: 12, CCT: DEPTH}
VIT_MODEL = "vit_base_patch16_224"  # of timm
STRIDE = 16  # pixels of a token, in both


class ViT(nn.Module):
    """timm's ViT-B/16: all tokens after the last norm, the class token first."""

    prefix = 1

    def __init__(
        self, pretrained: bool, depth: int | None = None, weights: str | None = None
    ) -> None:
        """`depth`: only the first blocks, before the last norm; None: all twelve.

        `weights`: file of the pretrained ones; None: timm's cache, or its download.
        """
        super().__init__()
        import timm

        given = {} if weights is None else {"file": str(require_file(weights, WEIGHTS_HINT))}
        self.vit: Any = timm.create_model(
            VIT_MODEL, pretrained=pretrained, num_classes=0, dynamic_img_size=True,
            pretrained_cfg_overlay=given,
        )  # fmt: skip
        blocks: Any = self.vit.blocks
        self.vit.blocks = blocks[:depth]

    @property
    def width(self) -> int:
        """D, 768."""
        return int(self.vit.embed_dim)

    @property
    def blocks(self) -> nn.Sequential:
        """The blocks of the transformer."""
        return self.vit.blocks

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + T, D)."""
        return self.vit.forward_features(images)


Transformer = ViT | CompactTransformer


def make_transformer(
    name: str, with_class: bool, pretrained: bool, trunc_te: int | None, weights: str | None
) -> tuple[Transformer, dict[str, Tensor]]:
    """`vit` or `cct384` with its first `trunc_te` blocks (None: all), and its attention pooling.

    `weights`: file of the pretrained ones; timm fetches those of ViT without one. Only the compact
    transformer brings a pooling. `with_class`: it gets a class token.
    """
    depth = DEPTHS[name]
    if trunc_te is not None and not 1 <= trunc_te <= depth:
        raise ValueError(f"trunc_te is {trunc_te}, expected None or 1 to {depth}, blocks of {name}")
    if name == VIT:
        return ViT(pretrained, trunc_te, weights if pretrained else None), {}
    net = CompactTransformer(with_class, trunc_te or depth)
    return net, start_cct(net, read_cct(weights), str(weights)) if pretrained else {}


def read_cct(weights: str | None) -> dict[str, Tensor]:
    """The published file of the compact transformer."""
    if weights is None:
        raise FileNotFoundError(
            f"cct384 starts from {SOURCE}, which no library fetches: give the path of the "
            "downloaded file as model.backbone_weights=FILE, or model.pretrained=False"
        )
    return read_pretrained(CCT, weights)


def freeze_transformer(net: Transformer, freeze_te: int | None) -> None:
    """Leave all but the blocks with an index above `freeze_te` as they are; -1: all blocks train.

    None: everything trains.
    """
    if freeze_te is None:
        return
    if not -1 <= freeze_te < len(net.blocks):
        raise ValueError(
            f"freeze_te is {freeze_te}, expected None or -1 to {len(net.blocks) - 1}, the last of "
            "the blocks that stay as they are"
        )
    net.requires_grad_(False)
    for block in net.blocks[freeze_te + 1 :]:
        block.requires_grad_(True)


def tokens_to_map(tokens: Tensor, prefix: int, size: Sequence[int]) -> Tensor:
    """(B, prefix + T, D) tokens of images of `size` (H, W) -> (B, D, H // 16, W // 16)."""
    grid = size[0] // STRIDE, size[1] // STRIDE
    return tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)
