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
