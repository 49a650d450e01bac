"""torch.hub entry points build the published models and load checkpoints strictly."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hubconf
from tests.golden_recipe import load_manifest
from tests.source_tree import ROOT, own_files
from utils.checkpoints import convert, save_checkpoint

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


@torch.no_grad()
def test_r2former_global_is_the_backbone_of_the_file_with_reranker(tmp_path):
    saved = hubconf.r2former(img_size=(96, 128), num_local=30)
    state = {f"module.{name}": value for name, value in saved.state_dict().items()}
    path = save_checkpoint(tmp_path / "r2former.pth", model_state_dict=state, epoch_num=3)
    alone = hubconf.r2former_global(path, img_size=(96, 128))
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(alone(images), saved(images)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", ["s12", "s24"])
def test_vitgal_is_the_published_network(variant):
    entries = load_manifest("vitgal", f"layout_{variant}_ae.json")
    model = hubconf.vitgal(variant)
    assert layout_of(model) == [
        (name, shape)
        for name, shape, _ in entries
        if not name.endswith(("head.weight", "head.bias"))
    ]
    with pytest.raises(ValueError, match="variant is 's13'"):
        hubconf.vitgal("s13")
    with pytest.raises(ValueError, match="variant is 's13'"):
        hubconf.vitgal_global("s13")


@torch.no_grad()
def test_vitgal_global_is_the_backbone_of_the_released_file(tmp_path):
    saved = hubconf.vitgal("s12")
    path = save_checkpoint(tmp_path / "vitgal_s12.pth", model=saved.state_dict())
    alone = hubconf.vitgal_global("s12", path)
    for name, value in alone.state_dict().items():
        other = saved.state_dict()[f"retrieval_back_bone.{name}"]
        torch.testing.assert_close(value, other, rtol=0, atol=0)
    assert alone(torch.zeros(1, 3, 32, 32))["global"].shape == (1, 384)


def test_superpoint_checkpoint_loads_as_safetensors_too(tmp_path):
    sizes = {"num_encoder_layers": 1, "dim_feedforward": 8}
    saved = hubconf.rrt_sop_superpoint(**sizes)
    path = save_checkpoint(tmp_path / "points.pt", state=saved.state_dict(), optim={})
    for file in (path, convert(path)):
        loaded = hubconf.rrt_sop_superpoint(file, **sizes)
        for name, value in saved.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


SMALL = {
    "rrt_gld_matcher": TINY["constructor"],
    "rrt_sop_model": SOP_SMALL,
    "rrt_sop_matcher": {"d_model": 8, "nhead": 2, "num_encoder_layers": 1, "d_global": 8},
    "rrt_sop_superpoint": {"num_encoder_layers": 1, "dim_feedforward": 8},
    "vitgal": {"variant": "s12"},
    "vitgal_global": {"variant": "s12"},
    "r2former": {"img_size": [32, 48], "num_local": 5},
    "r2former_global": {"img_size": [32, 48], "depth": 1},
}
FROM_CLONE = """
import json, sys, torch
clone, small = sys.argv[1], json.loads(sys.argv[2])
assert sys.argv[3] not in sys.path, sys.path
for name, options in small.items():
    model = torch.hub.load(clone, name, source="local", **options)
    assert not model.training
    print(name, sum(p.numel() for p in model.parameters()))
deit = torch.hub.load(clone, "r2former", source="local", **small["r2former"])
with torch.no_grad():
    print(tuple(deit(torch.zeros(1, 3, 32, 48))[0].shape))
"""


def test_every_entry_loads_from_a_clone_elsewhere(tmp_path):
    """A fresh interpreter in another folder, which knows this checkout by no path."""
    clone = tmp_path / "clone"
    for path in own_files():
        if path.suffix in (".py", ".csv") and "tests" not in path.relative_to(ROOT).parts:
            target = clone / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    command = [sys.executable, "-c", FROM_CLONE, str(clone), json.dumps(SMALL), str(ROOT)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "(1, 256)" in done.stdout
    assert len(done.stdout.splitlines()) == len(SMALL) + 1


def test_every_entry_is_documented_and_named():
    tree = ast.parse((ROOT / "hubconf.py").read_text())
    entries = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert {node.name for node in entries} == set(SMALL)
    readme = (ROOT / "README.md").read_text()
    for node in entries:
        assert ast.get_docstring(node)
        assert f"`{node.name}`" in readme, f"README.md names no hub entry {node.name}"
