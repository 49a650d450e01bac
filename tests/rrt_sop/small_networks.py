"""A network of the right shape that is small enough for tests of training."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from rrt_sop.models.network import RerankNet

# options of the ingredient `model` that go with it
MODEL: dict[str, Any] = {
    "arch": "resnet18",
    "pretrained": False,
    "normalize": True,
    "num_global_features": 8,
    "num_local_features": 8,
    "ert_dim_feedforward": 16,
    "ert_nhead": 2,
    "ert_num_encoder_layers": 2,
}


class ThinResNet(ResNet):
    """One block a stage and a sixteenth of the channels."""

    def __init__(self, **options: Any) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1], **options)
        self.fc = nn.Linear(512 // 16, 10)

    def _make_layer(self, block: Any, planes: int, *rest: Any, **options: Any) -> nn.Sequential:
        return super()._make_layer(block, planes // 16, *rest, **options)


def use_thin_backbone(monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """Let resnet18 be the thin one, for the test or (without `monkeypatch`) for good."""

    def thin(weights: None = None, **options: Any) -> ThinResNet:
        return ThinResNet(**options)

    put = setattr if monkeypatch is None else monkeypatch.setattr
    put(torchvision.models, "resnet18", thin)


def thin_network(monkeypatch: pytest.MonkeyPatch, **options: Any) -> RerankNet:
    """A thin network with all weights set apart from the start (zero scales hide gradients)."""
    use_thin_backbone(monkeypatch)
    torch.manual_seed(0)
    sizes = {key: value for key, value in MODEL.items() if key != "pretrained"}
    net = RerankNet(**{"num_classes": 5, **sizes, **options})
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net.train()
