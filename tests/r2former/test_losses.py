"""Losses, gradients and learning rates of the reference; cases by hand."""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from r2former.losses import global_terms, rerank_terms, total_loss
from r2former.models.vg_network import VGNetwork
from r2former.optimisation import (
    Schedule,
    choose_parameters,
    make_groups,
    make_optimizer,
    scale_rate,
    set_rate,
    split_crn,
)
from r2former.training import RerankStage
from tests.golden_recipe import array, load_manifest
from tests.r2former.golden_models import (
    PREFIX,
    SYSTEM,
    golden_images,
    golden_network,
    golden_state,
    small_network,
)

LOSSES, GRADS, RATES = "losses.json", "grads.json", "lr_schedule.json"
GROUPS, SLOTS, LOCALS = 3, 4, 120  # of the losses: groups, images in each, local features
RERANKS = ("ce", "triplet", "infoNCE", "combine")
GRAD_CASE = ("grads", 2, 3, 64, 96)  # groups, images in each, height, width
RATE_CASES = ("rerank", "finetune", "end_to_end")


@cache
def loss_inputs() -> tuple[Tensor, Tensor]:
    """Descriptors (3, 4, 256) and local features (3, 4, 120, 131)."""
    rows = array(f"{PREFIX}loss/global", (GROUPS * SLOTS, 256)).reshape(GROUPS, SLOTS, 256)
    base = array(f"{PREFIX}loss/base", (GROUPS, 256))
    made = np.empty_like(rows)
    made[:, 0] = base
    for slot, share in ((1, 0.7), (2, 0.6), (3, 0.72)):
        made[:, slot] = np.float32(share) * base + np.float32(0.7) * rows[:, slot]
    made /= np.linalg.norm(made, axis=-1, keepdims=True)
    local = array(f"{PREFIX}loss/local", (GROUPS * SLOTS, LOCALS, 131))
    local[..., :3] = np.abs(local[..., :3]) * np.float32(0.4)
    local = local.reshape(GROUPS, SLOTS, LOCALS, 131)
    local[:, 1] = np.float32(0.8) * local[:, 0] + np.float32(0.6) * local[:, 1]
    return torch.from_numpy(made), torch.from_numpy(local)


@cache
def loss_logits() -> Tensor:
    """(3, 3, 2) of the pairs (query, positive), (query, negative j)."""
    local = loss_inputs()[1]
    queries = local[:, :1].expand(-1, SLOTS - 1, -1, -1).flatten(0, 1)
    with torch.no_grad():
        logits = golden_network("deit").rerank(queries, local[:, 1:].flatten(0, 1))
    return logits.view(-1, SLOTS - 1, 2)


@pytest.mark.parametrize("fix", [0, 1])
@pytest.mark.parametrize("kind", RERANKS)
def test_losses_are_those_of_the_reference(fix, kind):
    expected = load_manifest(SYSTEM, LOSSES)[f"fix{fix}_{kind}"]
    of_global = None if fix else global_terms(loss_inputs()[0])
    of_rerank = rerank_terms(loss_logits(), kind)
    total = total_loss(of_global, of_rerank, GROUPS)
    assert float(total) == pytest.approx(expected["total"], rel=1e-4)
    sums = torch.zeros(SLOTS - 2) if of_global is None else of_global.sum(dim=0)
    made = torch.stack([sums, of_rerank.mean(dim=0)], dim=1)
    per_negative = torch.tensor(expected["per_negative_[global_sum,rerank]"])
    torch.testing.assert_close(made, per_negative, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("criterion", ["sare_joint", "sare_ind"])
def test_sare_losses_are_those_of_the_reference(criterion):
    made = total_loss(global_terms(loss_inputs()[0], criterion), None, GROUPS)
    assert float(made) == pytest.approx(load_manifest(SYSTEM, LOSSES)[criterion], rel=1e-5)


def test_triplet_terms_equal_torchs_loss():
    torch.manual_seed(0)
    features = functional.normalize(torch.randn(5, 5, 12), dim=-1)
    expected = torch.stack(
        [
            functional.triplet_margin_loss(
                features[:, 0], features[:, 1], features[:, 2 + j], margin=0.1, reduction="none"
            )
            for j in range(3)
        ],
        dim=1,
    )
    torch.testing.assert_close(global_terms(features), expected, rtol=1e-5, atol=1e-6)


def test_rerank_terms_by_hand():
    # P = 1/2 and 1/4: logits (0, 0) and (ln 3, 0)
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]])
    expected = {
        "ce": (math.log(2) - math.log(0.75)) / 2,
        "triplet": 0.0,
        "infoNCE": math.log(1 + math.exp(-0.25 / 0.07)),
    }
    for kind, value in expected.items():
        assert float(rerank_terms(logits, kind)) == pytest.approx(value, rel=1e-5, abs=1e-7)
    assert float(rerank_terms(logits, "triplet", margin=0.35)) == pytest.approx(0.1, rel=1e-5)


def test_parts_of_a_batch_add_up_to_its_loss():
    features, _ = loss_inputs()
    of_global, of_rerank = global_terms(features), rerank_terms(loss_logits())
    whole = total_loss(of_global, of_rerank, GROUPS)
    parts = [total_loss(of_global[i : i + 1], of_rerank[i : i + 1], GROUPS) for i in range(GROUPS)]
    torch.testing.assert_close(sum(parts, torch.zeros(())), whole)


def test_unknown_losses_are_refused():
    with pytest.raises(ValueError, match="criterion is 'best'"):
        global_terms(torch.zeros(1, 3, 2), "best")
    with pytest.raises(ValueError, match="rerank_loss is 'best'"):
        rerank_terms(torch.zeros(1, 2, 2), "best")
    with pytest.raises(ValueError, match="neither"):
        total_loss(None, None, 1)


@pytest.mark.parametrize("fix, finetune", [(0, 0), (0, 1), (1, 0)])
def test_gradients_are_those_of_the_reference(fix, finetune):
    name, groups, slots, height, width = GRAD_CASE
    expected = load_manifest(SYSTEM, GRADS)[f"fix{fix}_finetune{finetune}"]
    net = type(golden_network("deit"))()
    net.load_state_dict(golden_state("deit"))
    images = golden_images(name, groups * slots, height, width).view(groups, slots, 3, height, -1)
    images[:, 1] = 0.7 * images[:, 0] + 0.7 * images[:, 1]
    choose_parameters(net, bool(fix), 0)
    sums = RerankStage(fix=bool(fix), finetune=bool(finetune)).backward(net, images, groups)
    assert float(sums.loss) == pytest.approx(expected["loss"], rel=1e-4)
    made = {n: None if p.grad is None else float(p.grad.norm()) for n, p in net.named_parameters()}
    norms: dict[str, Any] = expected["grad_norm"]
    assert {n for n, v in made.items() if v is None} == {n for n, v in norms.items() if v is None}
    for entry, norm in norms.items():
        if norm is not None:
            assert made[entry] == pytest.approx(norm, rel=2e-4, abs=1e-6), entry


@pytest.mark.parametrize("case", RATE_CASES)
def test_rates_are_those_of_the_reference(case):
    expected = load_manifest(SYSTEM, RATES)[case]
    schedule = Schedule(**expected["args"])
    made = [schedule.at(epoch) for epoch in range(len(expected["lr_per_epoch"]))]
    np.testing.assert_allclose(made, expected["lr_per_epoch"], rtol=1e-12)


def test_rates_by_steps_and_constant_ones():
    steps = Schedule(1.0, 100, schedule=(2, 4))
    assert [steps.at(e) for e in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert Schedule(1.0, 100, cos=True, warmup=5, constant=True).at(0) == 1.0
    assert Schedule(1.0, 100, cos=True, warmup=0).at(0) == 1.0


def test_the_linear_rule_scales_the_rate():
    assert scale_rate(1e-5, 16, 64) == 2.5e-6
    assert scale_rate(1e-5, 16, None) == 1e-5
    with pytest.raises(ValueError, match="lr_batch_size is 0"):
        scale_rate(1e-5, 16, 0)


@pytest.mark.parametrize("optim, decay", [("adam", 0), ("sgd", 1e-3), ("adamw", 0.03)])
def test_optimisers_have_the_published_settings(optim, decay):
    made = make_optimizer(make_groups(small_network()), optim, 0.1)
    assert made.param_groups[0]["weight_decay"] == decay
    set_rate(made, 0.5)
    assert [group["lr"] for group in made.param_groups] == [0.5]
    with pytest.raises(ValueError, match="optim is 'best'"):
        make_optimizer(make_groups(small_network()), "best", 0.1)


def test_reweighting_layers_have_a_rate_of_their_own():
    net = VGNetwork("resnet18conv4", "crn", netvlad_clusters=4)
    optimizer = make_optimizer(split_crn(net, 1e-5, 5e-3, 5e-4), "adam", 1e-5)
    set_rate(optimizer, 1e-6)
    own, rest = optimizer.param_groups
    assert (own["lr"], rest["lr"]) == pytest.approx((5e-4, 5e-5))
    # three filters and the accumulating layer, each with weight and bias
    assert len(own["params"]) == 8
    choose_parameters(net, False, 0)  # the first layers of the backbone stay frozen
    assert len(own["params"]) + len(rest["params"]) == len(trained(net)) < 55
    with pytest.raises(ValueError, match="no reweighting layers"):
        split_crn(small_network(), 1e-5, 5e-3, 5e-4)


def trained(net: torch.nn.Module) -> set[str]:
    return {name for name, p in net.named_parameters() if p.requires_grad}


def test_fix_trains_local_head_and_reranker_alone():
    net = small_network()
    choose_parameters(net, True, 0)
    names = {name for name, _ in net.named_parameters()}
    assert trained(net) == {n for n in names if n.startswith(("local_head.", "Reranker."))}


def test_freeze_compares_whole_numbers():
    net = type(golden_network("deit"))()
    names = {name for name, _ in net.named_parameters()}
    choose_parameters(net, False, 0)
    assert trained(net) == names
    choose_parameters(net, False, 2)
    # the published code would have frozen blocks 10 and 11 too
    assert names - trained(net) == {
        n for n in names if n.startswith(("backbone.blocks.0.", "backbone.blocks.1."))
    }
    with pytest.raises(ValueError, match="freeze is 13, expected 0 to 12"):
        choose_parameters(net, False, 13)
