"""A small generated set, and tiny networks with random weights."""

from pathlib import Path

import pytest
import torch

from data import make_mini
from r2former.models.deit import DeiT
from r2former.models.network import DeiTR2Former
from utils.checkpoints import save_checkpoint
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.xcit import XCiTSizes


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two queries and eight gallery images of a small generated set, with its ground truth."""
    out = tmp_path_factory.mktemp("mini")
    sizes = ["--queries", "2", "--views", "3", "--distractors", "2", "--train-landmarks", "0"]
    assert make_mini.main(["landmarks", "--out", str(out), *sizes, "--workers", "1"]) == 0
    (out / "mini_landmarks/sheet.jpg").unlink()
    return out / "mini_landmarks"


def make_place_network() -> DeiTR2Former:
    """R2Former with images of 96 x 128, 24-d locals, random weights."""
    torch.manual_seed(0)
    deit = DeiT((96, 128), out_dim=16, embed_dim=128, depth=2, num_heads=4, patch_size=8)
    return DeiTR2Former(deit, local_dim=24, num_local=40, depth=2).eval()


@pytest.fixture(scope="session")
def place_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = make_place_network()
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    return save_checkpoint(tmp_path_factory.mktemp("w") / "place.pth", model_state_dict=state)


@pytest.fixture(scope="session")
def vitgal_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = Autoencoder(XCiTSizes(48, 2, 4), code_dim=16)
    return save_checkpoint(tmp_path_factory.mktemp("w") / "vitgal.pth", model=model.state_dict())
