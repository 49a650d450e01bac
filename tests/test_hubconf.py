"""torch.hub entry points build the published models and load checkpoints strictly."""

from pathlib import Path

import pytest
import torch

import hubconf
from tests.golden_recipe import load_manifest
from utils.checkpoints import save_checkpoint

REPO = Path(hubconf.__file__).parent
TINY = load_manifest("rrt_gld", "layout.json")["tiny"]
PUBLISHED = load_manifest("rrt_gld", "layout.json")["published"]


def layout_of(model: torch.nn.Module) -> list[tuple[str, list[int]]]:
    return [(name, list(value.shape)) for name, value in model.state_dict().items()]


def test_default_is_the_published_size_in_evaluation_mode():
    model = hubconf.rrt_gld_matcher()
    assert layout_of(model) == [(name, shape) for name, shape, _ in PUBLISHED["entries"]]
    assert not model.training


def test_checkpoint_with_optimiser_state_loads_through_torch_hub(tmp_path):
    saved = hubconf.rrt_gld_matcher(**TINY["constructor"])
    path = save_checkpoint(tmp_path / "tiny.pt", state=saved.state_dict(), optim={"state": {}})
    loaded = torch.hub.load(
        str(REPO), "rrt_gld_matcher", source="local", checkpoint=path, **TINY["constructor"]
    )
    assert layout_of(loaded) == [(name, shape) for name, shape, _ in TINY["entries"]]
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


def test_checkpoint_of_another_size_is_refused(tmp_path):
    tiny = hubconf.rrt_gld_matcher(**TINY["constructor"])
    path = save_checkpoint(tmp_path / "tiny.pt", state=tiny.state_dict())
    with pytest.raises(
        ValueError, match=r"(?s)tiny\.pt does not fit.*model 384 x 128, file 48 x 16"
    ):
        hubconf.rrt_gld_matcher(checkpoint=path)


SOP_LAYOUT = load_manifest("rrt_sop", "layout.json")["published"]
SOP_SMALL = {
    "arch": "resnet18",
    "num_classes": 3,
    "num_global_features": 8,
    "num_local_features": 8,
    "ert_nhead": 2,
    "ert_num_encoder_layers": 1,
    "ert_dim_feedforward": 16,
}


def test_sop_model_is_the_published_network_and_loads_its_checkpoint(tmp_path):
    """All 401 names, in order; the constructor's names of the manifest are accepted."""
    model = hubconf.rrt_sop_model(**SOP_LAYOUT["constructor"])
    assert layout_of(model) == [(name, shape) for name, shape, _ in SOP_LAYOUT["entries"]]
    assert layout_of(hubconf.rrt_sop_model()) == layout_of(model)
    path = save_checkpoint(
        tmp_path / "rrt_r50_sop_global.pt", state=model.state_dict(), optim={}, scheduler={}
    )
    loaded = torch.hub.load(str(REPO), "rrt_sop_model", source="local", checkpoint=path)
    assert not loaded.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


@torch.no_grad()
def test_sop_model_gives_features_and_pair_scores():
    model = hubconf.rrt_sop_model(**SOP_SMALL)
    logits, global_, local = model(torch.rand(2, 3, 64, 64))
    assert (logits.shape, global_.shape, local.shape) == ((2, 3), (2, 8), (2, 8, 2, 2))
    torch.testing.assert_close(global_.norm(dim=1), torch.ones(2))
    assert model.matcher(local, local.flip(0)).shape == (2,)
    alone = hubconf.rrt_sop_matcher(
        d_model=8, nhead=2, num_encoder_layers=1, dim_feedforward=16, d_global=8
    )
    alone.load_state_dict(model.matcher.state_dict())
    torch.testing.assert_close(alone(local, local), model.matcher(local, local), rtol=0, atol=0)


def test_sop_checkpoint_of_another_size_is_refused(tmp_path):
    small = hubconf.rrt_sop_model(**SOP_SMALL)
    path = save_checkpoint(tmp_path / "small.pt", state=small.state_dict())
    with pytest.raises(ValueError, match=r"(?s)small\.pt does not fit"):
        hubconf.rrt_sop_model(checkpoint=path)


R2FORMER_LAYOUTS = {"deit": "layout_rerank.json", "resnet50": "layout_resnet50.json"}


@pytest.mark.parametrize("backbone", R2FORMER_LAYOUTS)
def test_r2former_is_the_published_network(backbone):
    entries = load_manifest("r2former", R2FORMER_LAYOUTS[backbone])
    model = hubconf.r2former(backbone=backbone)
    assert layout_of(model) == [(name, shape) for name, shape, _ in entries]
    assert not model.training


@torch.no_grad()
def test_r2former_loads_a_checkpoint_with_prefix_and_gives_features_and_logits(tmp_path):
    saved = hubconf.r2former(img_size=(96, 128), num_local=30)
    state = {f"module.{name}": value for name, value in saved.state_dict().items()}
    path = save_checkpoint(tmp_path / "r2former.pth", model_state_dict=state, epoch_num=3)
    loaded = torch.hub.load(
        str(REPO), "r2former", source="local", checkpoint=path, img_size=(96, 128), num_local=30
    )
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    global_, local = loaded(images)
    assert (global_.shape, local.shape) == ((2, 256), (2, 30, 131))
    torch.testing.assert_close(global_, saved(images)[0], rtol=0, atol=0)
    assert loaded.rerank(local, local.flip(0)).shape == (2, 2)


def test_r2former_of_another_size_or_name_is_refused(tmp_path):
    small = hubconf.r2former(img_size=(96, 128))
    state = {f"module.{name}": value for name, value in small.state_dict().items()}
    path = save_checkpoint(tmp_path / "small.pth", model_state_dict=state)
    with pytest.raises(ValueError, match=r"(?s)small\.pth does not fit.*pos_embed"):
        hubconf.r2former(path)
    with pytest.raises(ValueError, match="backbone is 'vgg'"):
        hubconf.r2former(backbone="vgg")
