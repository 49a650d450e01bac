"""Sizes are read off the checkpoint: the network of each file is rebuilt and gives the same."""

import pytest
import torch

import hubconf
from r2former.models.deit import DeiT
from r2former.models.network import ResNetR2Former
from r2former.models.resnet import MiniResNetFeatures
from rrt_gld.models.ingredient import RRT_MINI_SIZES
from search.weights import load_matcher, load_r2former, load_vitgal
from tests.search.conftest import make_place_network
from utils.checkpoints import save_checkpoint


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return model.state_dict()


def require_equal(first: torch.nn.Module, second: torch.nn.Module) -> None:
    torch.testing.assert_close(state_of(first), state_of(second), rtol=0, atol=0)


@pytest.mark.parametrize(("sizes", "heads"), [({}, 4), (RRT_MINI_SIZES, 2)])
def test_matchers_of_both_sizes_are_rebuilt(tmp_path, sizes, heads):
    saved = hubconf.rrt_gld_matcher(**sizes)
    path = save_checkpoint(tmp_path / "m.pt", state=state_of(saved))
    loaded = load_matcher(path)
    require_equal(loaded, saved)
    assert loaded.encoder.layers[0].self_attn.nhead == heads
    assert not loaded.training


def test_vitgal_is_rebuilt(vitgal_weights):
    loaded = load_vitgal(vitgal_weights)
    saved = torch.load(vitgal_weights, weights_only=True)["model"]
    torch.testing.assert_close(dict(state_of(loaded)), dict(saved), rtol=0, atol=0)
    assert not loaded.training


def test_published_vitgal_is_rebuilt(tmp_path):
    saved = hubconf.vitgal("s12")
    path = save_checkpoint(tmp_path / "s12.pth", model=state_of(saved))
    require_equal(load_vitgal(path), saved)


def test_r2former_is_rebuilt(place_weights):
    loaded = load_r2former(place_weights)
    require_equal(loaded.net, make_place_network())
    assert (loaded.size, loaded.has_reranking, loaded.net.num_local) == ((96, 128), True, 40)


def test_a_deit_with_a_stem_of_convolutions_is_rebuilt(tmp_path):
    saved = DeiT((96, 128), 16, 128, depth=2, num_heads=4, patch_size=8, stem="conv").eval()
    path = save_checkpoint(tmp_path / "stem.pth", model_state_dict=state_of(saved))
    loaded = load_r2former(path)
    assert (loaded.size, loaded.has_reranking) == ((96, 128), False)
    require_equal(loaded.net.backbone, saved)


@pytest.mark.parametrize("backbone", ["deit", "resnet50"])
def test_published_r2former_is_rebuilt(tmp_path, backbone):
    saved = hubconf.r2former(backbone=backbone)
    path = save_checkpoint(tmp_path / "r.pth", model_state_dict=state_of(saved))
    loaded = load_r2former(path)
    require_equal(loaded.net, saved)
    assert (loaded.size, loaded.has_reranking) == ((480, 640), True)


def test_r2former_on_the_mini_network_is_rebuilt(tmp_path):
    saved = ResNetR2Former(128, 64, 64, MiniResNetFeatures(), depth=2, pair_depth=1).eval()
    path = save_checkpoint(tmp_path / "mini.pth", model_state_dict=state_of(saved))
    loaded = load_r2former(path)
    require_equal(loaded.net, saved)
    assert (loaded.size, loaded.has_reranking, loaded.net.num_local) == ((96, 128), True, 64)


def test_a_global_model_of_r2former_has_no_reranking(tmp_path):
    net = make_place_network()
    path = save_checkpoint(tmp_path / "g.pth", model_state_dict=state_of(net.backbone))
    loaded = load_r2former(path)
    assert not loaded.has_reranking
    require_equal(loaded.net.backbone, net.backbone)


@pytest.mark.parametrize(
    ("load", "complaint"),
    [
        (load_matcher, "holds no matcher of rrt_gld: remap.weight"),
        (load_vitgal, "holds no autoencoder of vitgal: whitening_layer.weight"),
        (load_r2former, "holds no DeiT of r2former: backbone.pos_embed"),
    ],
)
def test_files_of_other_models_are_refused(tmp_path, load, complaint):
    state = state_of(torch.nn.Linear(2, 3))
    path = save_checkpoint(tmp_path / "other.pt", state=state, model=state, model_state_dict=state)
    with pytest.raises(ValueError, match=rf"other\.pt {complaint}"):
        load(path)


def test_sizes_that_no_shape_tells_are_refused(tmp_path):
    matcher = hubconf.rrt_gld_matcher(num_encoder_layers=3)
    path = save_checkpoint(tmp_path / "m.pt", state=state_of(matcher))
    with pytest.raises(ValueError, match="3 layers with 1024 hidden numbers; known are"):
        load_matcher(path)
    other = {"backbone.0.weight": torch.zeros(32, 3, 3, 3), "local_head.weight": torch.zeros(8, 4)}
    path = save_checkpoint(tmp_path / "cnn.pth", model_state_dict=other)
    with pytest.raises(ValueError, match=r"first layer is \(32, 3, 3, 3\); known are DeiTs, "):
        load_r2former(path)
    net = make_place_network()
    net.backbone.pos_embed = torch.nn.Parameter(torch.zeros(1, 2 + 50, 128))
    path = save_checkpoint(tmp_path / "r.pth", model_state_dict=state_of(net))
    with pytest.raises(ValueError, match="width 128 with 50 positions"):
        load_r2former(path)
