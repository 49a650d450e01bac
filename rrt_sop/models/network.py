"""ResNet with a global head, a local head and the pair matcher (RRT, ICCV'21, on products)."""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from rrt_sop.models.matcher import Matcher

ARCHS = ("resnet50", "resnet18", "resnet34", "resnet101", "resnet152", "resnet10")
NORM_LAYERS = (None, "layer", "batch")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STEM = ("conv1", "bn1", "relu", "maxpool")
STAGES = ("layer1", "layer2", "layer3", "layer4")
FROZEN = ("conv1", "bn1", *STAGES, "remap", "norm_layer", "classifier")

Pair = tuple[Tensor | None, Tensor]  # global feature (may be None), local map


class RerankNet(nn.Module):
    """Global feature g and local map l of an image, and the matcher's logit for two maps.

    With F the last stage's output, (B, 2048, ceil(H/32), ceil(W/32)) for resnet50:

        g = remap(norm_layer(mean_hw F)), divided by its L2 norm if `normalize`
        l = remap_local(F), never normalised

    Images come as RGB in [0, 1]; mean and standard deviation are taken off here. Names and order
    of the state dict are those of the released checkpoints.
    """

    mean: Tensor
    std: Tensor
    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self,
        arch: str = "resnet50",
        num_classes: int = 11318,
        num_global_features: int = 128,
        num_local_features: int = 128,
        normalize: bool = False,
        set_bn_eval: bool = True,
        remap: bool = False,
        norm_layer: str | None = None,
        dropout: float = 0.0,
        detach: bool = False,
        normalize_weight: bool = False,
        freeze_backbone: bool = False,
        ert_seq_len: int | None = 102,
        ert_dim_feedforward: int = 1024,
        ert_nhead: int = 4,
        ert_num_encoder_layers: int = 6,
        ert_dropout: float = 0.0,
        ert_activation: str = "relu",
        ert_normalize_before: bool = False,
    ) -> None:
        """`ert_*`: sizes of the matcher (`ert_seq_len` is accepted and not used).

        Args:
            remap: map the pooled feature even where its width is `num_global_features` already.
            norm_layer: layer or batch: normalisation without affine part before the map.
            set_bn_eval: 2-d batch norms keep their running statistics in training too.
            dropout, detach, normalize_weight: of the classifier: on its input, no gradient from
                it into g, rows of its weight divided by their L2 norms.
            freeze_backbone: gradients for `remap_local` and the matcher alone.
        """
        super().__init__()
        if arch not in ARCHS:
            raise ValueError(f"model.arch is {arch!r}, expected one of {ARCHS}")
        if norm_layer not in NORM_LAYERS:
            raise ValueError(f"model.norm_layer is {norm_layer!r}, expected one of {NORM_LAYERS}")
        self.arch, self.num_global_features = arch, num_global_features
        self.normalize, self.set_bn_eval, self.detach = normalize, set_bn_eval, detach
        self.normalize_weight, self.ert_seq_len = normalize_weight, ert_seq_len
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        stock = make_stock(arch)
        width = stock.fc.in_features
        self.norm_layer = make_norm(norm_layer, width)
        needs_map = remap or num_global_features != width
        self.remap = zero_bias(nn.Linear(width, num_global_features)) if needs_map else None
        self.remap_local = zero_bias(nn.Conv2d(width, num_local_features, 1))
        self.classifier = zero_bias(nn.Linear(num_global_features, num_classes))
        nn.init.zeros_(self.classifier.weight)
        self.dropout = nn.Dropout(dropout)
        self.matcher = Matcher(
            num_global_features, num_local_features, ert_nhead, ert_num_encoder_layers,
            ert_dim_feedforward, ert_dropout, ert_activation, ert_normalize_before,
        )  # fmt: skip
        for name in (*STEM, *STAGES):
            self.add_module(name, getattr(stock, name))
        if freeze_backbone:
            freeze(self)

    def train(self, mode: bool = True) -> "RerankNet":
        """As usual, but with `set_bn_eval` every 2-d batch norm stays in evaluation mode."""
        super().train(mode)
        if self.set_bn_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def stem(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> input of the first residual stage."""
        x = (images - self.mean) / self.std
        for name in STEM:
            x = getattr(self, name)(x)
        return x

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> F, the output of the last residual stage."""
        x = self.stem(images)
        for name in STAGES:
            x = getattr(self, name)(x)
        return x

    def stages(self, images: Tensor) -> list[Tensor]:
        """Outputs of all four residual stages; `features` does not hold on to the earlier ones."""
        outputs = [self.stem(images)]
        for name in STAGES:
            outputs.append(getattr(self, name)(outputs[-1]))
        return outputs[1:]

    def global_feature(self, features: Tensor) -> Tensor:
        """(B, W, h, w) of the last stage -> (B, num_global_features)."""
        g = features.mean(dim=(2, 3))
        g = g if self.norm_layer is None else self.norm_layer(g)
        g = g if self.remap is None else self.remap(g)
        return functional.normalize(g, dim=1) if self.normalize else g

    def classify(self, global_: Tensor) -> Tensor:
        """(B, num_global_features) -> (B, num_classes)."""
        weight = self.classifier.weight
        weight = functional.normalize(weight, dim=1) if self.normalize_weight else weight
        x = self.dropout(global_.detach() if self.detach else global_)
        return functional.linear(x, weight, self.classifier.bias)

    def embed_global(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_global_features)."""
        return self.global_feature(self.features(images))

    def embed_local(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_local_features, h, w), not normalised."""
        return self.local_map(self.features(images))

    def local_map(self, features: Tensor) -> Tensor:
        """(B, W, h, w) of the last stage -> (B, num_local_features, h, w), not normalised."""
        return self.remap_local(features)

    def forward(
        self,
        images: Tensor | None = None,
        src_global: Tensor | None = None,
        src_local: Tensor | None = None,
        tgt_global: Tensor | None = None,
        tgt_local: Tensor | None = None,
        pair: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor] | tuple[Tensor, Pair, Pair]:
        """Images (B, 3, H, W) -> (logits (B, num_classes), global, local).

        With `pair`: two local maps, the query first, -> (matcher logits (B,), (src global, src
        local), (tgt global, tgt local)); the global features may be None, nothing reads them.
        """
        if pair:
            if src_local is None or tgt_local is None:
                raise ValueError("pair=True needs src_local and tgt_local, two local maps")
            logits = self.matcher(src_local, tgt_local)
            return logits, (src_global, src_local), (tgt_global, tgt_local)
        if images is None:
            raise ValueError("give images (B, 3, H, W), or pair=True with two local maps")
        features = self.features(images)
        global_ = self.global_feature(features)
        return self.classify(global_), global_, self.local_map(features)


def make_stock(arch: str) -> Any:
    """torchvision's network with random weights; the last scale of every branch starts at 0.

    resnet10 is none of torchvision's: one basic block a stage, and no stride in the last stage, so
    that the map of a small image keeps some cells (6 x 6 of 96 x 96 pixels).
    """
    if arch != "resnet10":
        return getattr(torchvision.models, arch)(weights=None, zero_init_residual=True)
    block = torchvision.models.resnet.BasicBlock
    stock = torchvision.models.ResNet(block, [1, 1, 1, 1], zero_init_residual=True)
    first = stock.layer4[0]
    first.conv1.stride = first.downsample[0].stride = (1, 1)
    return stock


def make_norm(name: str | None, width: int) -> nn.Module | None:
    """LayerNorm or BatchNorm1d without affine part; None for none."""
    if name == "layer":
        return nn.LayerNorm(width, elementwise_affine=False)
    return nn.BatchNorm1d(width, affine=False) if name == "batch" else None


def zero_bias(layer: Any) -> Any:
    """The layer with its bias at 0."""
    nn.init.zeros_(layer.bias)
    return layer


def freeze(net: RerankNet) -> None:
    """No gradient for the backbone, the global head and the classifier."""
    for name in FROZEN:
        part = getattr(net, name)
        if part is not None:
            part.requires_grad_(False)
