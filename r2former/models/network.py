"""R2Former: one network for global retrieval, local features and reranking (CVPR 2023)."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from r2former.models import resnet
from r2former.models.deit import Attended, DeiT
from r2former.models.reranker import Reranker
from r2former.models.selection import XYA, gather_rows, select_patches


class R2Former(nn.Module, ABC):
    """`net(images)`: global (B, 256) and local (B, K, 131) features; `net.rerank(q, r)`: logits.

    A local feature is X, Y (divided by the longer side of the image), A (attention, the largest
    being 1) and a 128-d descriptor, not normalised; K = min(num_local, number of patches), in
    descending order of A. Subclasses say where descriptor, tokens and attention come from.
    """

    backbone: nn.Module
    local_head: nn.Linear
    Reranker: Reranker
    num_local: int
    out_dim: int
    patch: int

    @abstractmethod
    def attend(self, images: Tensor) -> Attended:
        """Descriptor (B, 256), tokens (B, T, D) by patch, attention (B, T)."""

    def count_columns(self, width: int) -> int:
        """Columns of the grid that coordinates are counted in."""
        return -(-width // self.patch)

    def embed_global(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 256) unit rows."""
        return self.attend(images).descriptor

    def forward(self, images: Tensor, detach_local: bool = True) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) normalised images -> global (B, 256), local (B, K, 131).

        `detach_local`: no gradient from local features into the backbone (finetune=0).
        """
        descriptor, places, tokens = self.choose(images)
        return descriptor, self.make_local(places, tokens.detach() if detach_local else tokens)

    def choose(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All that fix=1 does not train: global (B, 256), X, Y, A (B, K, 3), tokens (B, K, D)."""
        found = self.attend(images)
        height, width = images.shape[-2:]
        index, places = select_patches(
            found.attention, self.num_local, self.count_columns(width), self.patch,
            max(height, width),
        )  # fmt: skip
        return found.descriptor, places, gather_rows(found.tokens, index)

    def make_local(self, places: Tensor, tokens: Tensor) -> Tensor:
        """X, Y, A (B, K, 3) and tokens (B, K, D) -> local features (B, K, 131)."""
        return torch.cat([places, self.local_head(tokens)], dim=-1)

    def pack(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, L) float32: what `choose` gives, flat, to be kept for `unpack`."""
        descriptor, places, tokens = self.choose(images)
        return torch.cat([descriptor, torch.cat([places, tokens], dim=-1).flatten(1)], dim=1)

    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) of `pack` -> global (B, 256), local (B, K, 131), as from the images."""
        rows = packed[:, self.out_dim :].unflatten(1, (-1, XYA + self.local_head.in_features))
        return packed[:, : self.out_dim], self.make_local(rows[..., :XYA], rows[..., XYA:])

    def rerank(self, local_query: Tensor, local_reference: Tensor) -> Tensor:
        """(B, Kq, 131), (B, Kr, 131) -> (B, 2) logits; the second is "same place"."""
        return self.Reranker(local_query, local_reference)

    def _add_reranking(self, width: int, local_dim: int, num_local: int, **sizes: int) -> None:
        """`local_head` and `Reranker`, registered last as in the released file."""
        self.num_local = num_local
        self.local_head = nn.Linear(width, local_dim)
        nn.init.normal_(self.local_head.weight, std=0.01)
        nn.init.zeros_(self.local_head.bias)
        self.Reranker = Reranker(num_local, **sizes)


class DeiTR2Former(R2Former):
    """The published network on DeiT (265 entries)."""

    backbone: DeiT

    def __init__(
        self, backbone: DeiT | None = None, local_dim: int = 128, num_local: int = 500, **sizes: int
    ) -> None:
        """`sizes`: of `Reranker`."""
        super().__init__()
        self.backbone = DeiT() if backbone is None else backbone
        self.out_dim, self.patch = self.backbone.out_dim, self.backbone.patch
        self._add_reranking(self.backbone.local_width, local_dim, num_local, **sizes)

    def attend(self, images: Tensor) -> Attended:
        """See `DeiT.attend_local`."""
        return self.backbone.attend_local(images)

    def embed_global(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 256) unit rows."""
        return self.backbone(images)


class ResNetR2Former(R2Former):
    """The variant on ResNet-50 with GeM (Table 6), or on a small ResNet."""

    backbone: resnet.ResNetFeatures

    def __init__(
        self,
        out_dim: int = 256,
        local_dim: int = 128,
        num_local: int = 500,
        backbone: resnet.ResNetFeatures | None = None,
        **sizes: int,
    ) -> None:
        """`backbone`: None is resnet50. `sizes`: of `Reranker`."""
        super().__init__()
        self.backbone = resnet.ResNetFeatures() if backbone is None else backbone
        self.aggregation = resnet.GeMHead(self.backbone.width, out_dim)
        self.out_dim, self.patch = out_dim, self.backbone.stride
        self._add_reranking(self.backbone.local_width, local_dim, num_local, **sizes)

    def attend(self, images: Tensor) -> Attended:
        """See `resnet.attend`."""
        height, width = images.shape[-2:]
        layer3, layer4 = self.backbone(images)
        grid = resnet.ceil_div(height, self.patch), resnet.ceil_div(width, self.patch)
        return resnet.attend(layer3, layer4, self.aggregation, grid)
