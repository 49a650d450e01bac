"""R2Former: one network for global retrieval, local features and reranking (CVPR 2023)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from r2former.models import resnet
from r2former.models.deit import Attended, DeiT
from r2former.models.reranker import Reranker
from r2former.models.selection import gather_rows, select_patches


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
        found = self.attend(images)
        height, width = images.shape[-2:]
        index, places = select_patches(
            found.attention, self.num_local, self.count_columns(width), self.patch,
            max(height, width),
        )  # fmt: skip
        tokens = found.tokens.detach() if detach_local else found.tokens
        features = self.local_head(gather_rows(tokens, index))
        return found.descriptor, torch.cat([places, features], dim=-1)

    def rerank(self, local_query: Tensor, local_reference: Tensor) -> Tensor:
        """(B, Kq, 131), (B, Kr, 131) -> (B, 2) logits; the second is "same place"."""
        return self.Reranker(local_query, local_reference)

    def reranking_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that fix=1 trains: `local_head` and `Reranker`."""
        yield from self.local_head.parameters()
        yield from self.Reranker.parameters()

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
    """The variant on ResNet-50 with GeM (Table 6)."""

    def __init__(
        self, out_dim: int = 256, local_dim: int = 128, num_local: int = 500, **sizes: int
    ) -> None:
        """`sizes`: of `Reranker`."""
        super().__init__()
        self.backbone = resnet.ResNetFeatures()
        self.aggregation = resnet.GeMHead(2048, out_dim)
        self.out_dim, self.patch = out_dim, resnet.STRIDE
        self._add_reranking(1024, local_dim, num_local, **sizes)

    def attend(self, images: Tensor) -> Attended:
        """See `resnet.attend`."""
        height, width = images.shape[-2:]
        layer3, layer4 = self.backbone(images)
        return resnet.attend(layer3, layer4, self.aggregation, (height, width))
