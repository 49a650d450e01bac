"""Network: reference answers, layout of the released checkpoints, freezing, initialisation."""

import pytest
import torch

from rrt_sop.models.network import STAGES, RerankNet
from tests.golden_recipe import GOLDEN_DIR, cases_of_kind, load_manifest, load_outputs
from tests.rrt_sop.golden_models import BACKBONE, SYSTEM, golden_images, golden_network

CASES = cases_of_kind(SYSTEM, BACKBONE)
MANIFEST = load_manifest(SYSTEM)["cases"]
OUTPUTS = load_outputs(SYSTEM)
LAYOUT = load_manifest(SYSTEM, "layout.json")
SMALL = {
    "arch": "resnet18",
    "num_classes": 5,
    "num_global_features": 16,
    "num_local_features": 16,
    "ert_nhead": 2,
    "ert_num_encoder_layers": 2,
    "ert_dim_feedforward": 32,
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_heads_and_pair_score_equal_reference(case):
    entry = MANIFEST[case]
    net = golden_network(entry).eval()
    logits, global_, local = net(golden_images(case))
    global_tolerance = 2e-5 if entry["constructor"]["normalize"] else 2e-4
    pair_logit, _, _ = net(src_local=local[:1], tgt_local=local[1:2], pair=True)
    answers = {
        "logits": (logits, 1e-4),
        "global": (global_, global_tolerance),
        "local": (local, 5e-5),
        "pair_logit": (pair_logit, 2e-3),
    }
    for name, (got, tolerance) in answers.items():
        expected = torch.from_numpy(OUTPUTS[f"{case}/{name}"])
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_stages_equal_reference(case):
    stages = golden_network(MANIFEST[case]).eval().stages(golden_images(case))
    got = torch.tensor([[s.double().mean(), s.double().std(correction=0)] for s in stages])
    expected = torch.from_numpy(OUTPUTS[f"{case}/stage_mean_std"])
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", list(LAYOUT))
def test_names_order_shapes_and_trainable_parts_are_those_of_the_checkpoints(size):
    entry = LAYOUT[size]
    net = RerankNet(**entry["constructor"], freeze_backbone=True)
    state = net.state_dict()
    got = [[n, list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in state.items()]
    assert got == entry["entries"]
    trainable = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert sorted(trainable) == sorted(entry["trainable_when_frozen"])
    assert sum(p.numel() for p in trainable.values()) == entry["n_trainable_when_frozen"]
    assert sum(p.numel() for p in net.parameters()) == entry["n_parameters"]


def test_initialisation_follows_the_published_rules():
    net = RerankNet(**SMALL)
    assert not net.classifier.weight.any()
    for layer in (net.classifier, net.remap, net.remap_local):
        assert not layer.bias.any()
    assert net.remap.weight.any()
    assert not net.layer2[0].bn2.weight.any()  # the last scale of a residual branch
    assert net.layer2[0].bn1.weight.all()
    bottleneck = RerankNet(**{**SMALL, "arch": "resnet50"})
    assert not bottleneck.layer1[2].bn3.weight.any()


def test_local_map_is_not_normalised_and_has_the_size_of_the_last_stage():
    net = RerankNet(**SMALL, normalize=True).eval()
    logits, global_, local = net(torch.rand(2, 3, 65, 96))
    assert logits.shape == (2, 5)
    assert local.shape == (2, 16, 3, 3)  # ceil(65 / 32), ceil(96 / 32)
    torch.testing.assert_close(global_.norm(dim=1), torch.ones(2), rtol=0, atol=1e-5)
    assert not torch.allclose(local.norm(dim=1), torch.ones(2, 3, 3), atol=1e-2)


@pytest.mark.parametrize("set_bn_eval", [True, False])
def test_batch_norms_stay_frozen_in_training_mode_when_asked(set_bn_eval):
    net = RerankNet(**SMALL, set_bn_eval=set_bn_eval, norm_layer="batch").train()
    before = net.bn1.running_mean.clone()
    net(torch.rand(4, 3, 32, 32))
    assert torch.equal(before, net.bn1.running_mean) == set_bn_eval
    assert net.bn1.weight.requires_grad
    assert net.norm_layer.running_mean.any()  # the 1-d norm of the global head trains
    assert net.matcher.training


@pytest.mark.parametrize(("remap", "exists"), [(False, False), (True, True)])
def test_remap_exists_where_widths_differ_or_on_request(remap, exists):
    net = RerankNet(**{**SMALL, "num_global_features": 512, "remap": remap})
    assert ("remap.weight" in net.state_dict()) == exists


def test_gradients_of_classifier_reach_the_backbone_unless_detached():
    for detach in (False, True):
        net = RerankNet(**SMALL, detach=detach).train()
        torch.nn.init.normal_(net.classifier.weight)
        net(torch.rand(2, 3, 32, 32))[0].sum().backward()
        assert (net.remap.weight.grad is None) == detach
        assert net.classifier.weight.grad is not None


@torch.no_grad()
def test_classifier_rows_are_normalised_on_request():
    net = RerankNet(**SMALL, normalize_weight=True).eval()
    torch.nn.init.normal_(net.classifier.weight, std=7.0)
    logits, global_, _ = net(torch.rand(2, 3, 32, 32))
    rows = net.classifier.weight / net.classifier.weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(logits, global_ @ rows.T, rtol=1e-5, atol=1e-5)


def test_pair_call_equals_the_matcher_and_hands_its_input_back():
    net = RerankNet(**SMALL).eval()
    src, tgt = torch.randn(3, 16, 2, 2), torch.randn(3, 16, 2, 2)
    with torch.no_grad():
        logits, first, second = net(src_local=src, tgt_local=tgt, pair=True)
        torch.testing.assert_close(logits, net.matcher(src, tgt), rtol=0, atol=0)
    assert first == (None, src)
    assert second == (None, tgt)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "vgg"}, "resnet50"),
        ({"norm_layer": "group"}, "batch"),
        ({"ert_nhead": 3}, "nhead"),
    ],
)
def test_bad_option_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RerankNet(**{**SMALL, **change})


def test_call_without_input_is_refused():
    net = RerankNet(**SMALL)
    with pytest.raises(ValueError, match="two local maps"):
        net(src_local=torch.zeros(1, 16, 2, 2), pair=True)
    with pytest.raises(ValueError, match="give images"):
        net()


def test_reference_cases_were_found():
    assert CASES, f"no '{BACKBONE}' case in {GOLDEN_DIR / SYSTEM / 'manifest.json'}"


def test_ten_layers_keep_six_by_six_cells_of_a_small_image():
    net = RerankNet(**SMALL | {"arch": "resnet10", "num_classes": 3}).eval()
    logits, global_, local = net(torch.rand(2, 3, 96, 96))
    assert (logits.shape, global_.shape) == ((2, 3), (2, SMALL["num_global_features"]))
    assert local.shape == (2, SMALL["num_local_features"], 6, 6)
    assert [len(getattr(net, name)) for name in STAGES] == [1, 1, 1, 1]
