"""The model's options, ImageNet weights by path, checkpoints that give their number of classes."""

import hashlib

import pytest
import torch
import torchvision
from sacred import Experiment

from rrt_sop.models import pretrained
from rrt_sop.models.ingredient import load_model, make_model, model_ingredient
from rrt_sop.models.network import RerankNet
from rrt_sop.models.pretrained import load_backbone
from utils.checkpoints import save_checkpoint

SMALL = {
    "arch": "resnet18",
    "num_global_features": 16,
    "num_local_features": 16,
    "ert_nhead": 2,
    "ert_num_encoder_layers": 2,
    "ert_dim_feedforward": 32,
}


def run_with(function, *named: str, **options):
    """What `function` gives inside a run with these options of the model."""
    ex = Experiment("model_options", ingredients=[model_ingredient], save_git_info=False)

    @ex.main
    def main():
        results.append(function())

    results: list = []
    updates = {"model": options} if options else {}
    ex.run(named_configs=[f"model.{name}" for name in named], config_updates=updates)
    return results[0]


@pytest.fixture
def stock_file(tmp_path):
    """A file as torchvision's, with random weights."""
    torch.manual_seed(1)
    path = tmp_path / "resnet18-00000000.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


def test_defaults_are_those_of_the_document():
    ex = Experiment("defaults", ingredients=[model_ingredient], save_git_info=False)
    ex.main(lambda: None)
    config = ex.run().config["model"]
    published = {
        "arch": "resnet50", "pretrained": True, "dropout": 0.0, "norm_layer": None, "remap": False,
        "detach": False, "normalize": False, "set_bn_eval": True, "normalize_weight": False,
        "freeze_backbone": False, "num_global_features": 128, "num_local_features": 128,
        "ert_seq_len": 102, "ert_dim_feedforward": 1024, "ert_nhead": 4,
        "ert_num_encoder_layers": 6, "ert_dropout": 0.0, "ert_activation": "relu",
        "ert_normalize_before": False,
    }  # fmt: skip
    assert {key: config[key] for key in published} == published


def test_named_configs_make_the_networks():
    net = run_with(lambda: make_model(7), "resnet50", pretrained=False)
    assert (net.arch, net.normalize, net.classifier.out_features) == ("resnet50", True, 7)
    mini = run_with(lambda: make_model(7), "resnet10_mini")  # and nothing is fetched
    assert (mini.arch, mini.normalize) == ("resnet10", True)
    assert run_with(lambda: make_model(3), freeze_backbone=True, pretrained=False, **SMALL)


def test_frozen_parts_follow_the_option():
    net = run_with(lambda: make_model(3), freeze_backbone=True, pretrained=False, **SMALL)
    trained = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {"remap_local", "matcher"}


def test_backbone_weights_by_path_reach_the_backbone_alone(stock_file, caplog):
    net = run_with(lambda: make_model(3), backbone_weights=str(stock_file), **SMALL)
    stock = torch.load(stock_file, weights_only=True)
    for name, value in net.state_dict().items():
        if name.split(".")[0] in pretrained.PARTS:
            torch.testing.assert_close(value, stock[name], rtol=0, atol=0)
    assert not net.classifier.weight.any()
    assert "is not torchvision's V1 file of resnet18" in caplog.text


def test_nothing_is_fetched_for_a_checkpoint():
    missing = {"backbone_weights": "nowhere.pth", **SMALL}
    assert run_with(lambda: make_model(3, for_checkpoint=True), **missing).arch == "resnet18"
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth does not exist.*f37072fd"):
        run_with(lambda: make_model(3), **missing)


def test_weights_of_another_network_are_refused(tmp_path, stock_file):
    net = RerankNet(**{**SMALL, "arch": "resnet50"}, num_classes=2)
    with pytest.raises(ValueError, match=r"(?s)does not hold ImageNet weights of resnet50.*conv3"):
        load_backbone(net, "resnet50", stock_file)


def test_v2_weights_are_refused(stock_file, monkeypatch):
    """They have the same names and would give other numbers without a word."""
    digest = hashlib.sha256(stock_file.read_bytes()).hexdigest()
    monkeypatch.setitem(pretrained.V2_SHA256, "resnet18", digest[:8])
    with pytest.raises(ValueError, match=r"V2 weights of resnet18.*V1"):
        load_backbone(RerankNet(**SMALL, num_classes=2), "resnet18", stock_file)


def test_files_without_counters_are_accepted(tmp_path, stock_file):
    state = torch.load(stock_file, weights_only=True)
    old = {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    net = load_backbone(RerankNet(**SMALL, num_classes=2), "resnet18", tmp_path / "old.pth")
    torch.testing.assert_close(net.conv1.weight, state["conv1.weight"], rtol=0, atol=0)


def test_checkpoint_gives_the_number_of_classes(tmp_path):
    saved = RerankNet(**SMALL, num_classes=13)
    path = save_checkpoint(tmp_path / "net.pt", state=saved.state_dict(), optim={}, scheduler={})
    net = run_with(lambda: load_model(str(path)), **SMALL)
    assert net.classifier.out_features == 13
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=0)


def test_missing_and_foreign_checkpoints_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"resume is not set.*untrained=True"):
        run_with(lambda: load_model(None), **SMALL)
    with pytest.raises(FileNotFoundError, match="fetch the released checkpoints"):
        run_with(lambda: load_model("nowhere.pt"), **SMALL)
    path = save_checkpoint(tmp_path / "other.pt", state={"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"other\.pt does not fit the model"):
        run_with(lambda: load_model(str(path)), **SMALL)
    assert run_with(lambda: load_model(None, 4), pretrained=False, **SMALL).matcher is not None
