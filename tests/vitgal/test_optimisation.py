"""Parameter groups and learning rates against the reference answers."""

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from tests.vitgal.golden_models import load_json
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.retrieval import RetrievalNetwork
from vitgal.models.xcit import VARIANTS, XCiTSizes
from vitgal.optimisation import Schedule, make_optimizer, make_parameter_groups, set_rate

SCHEDULES = load_json("lr_schedule.json")
GROUPS = load_json("param_groups.json")
KINDS = {"retrieval": RetrievalNetwork, "autoencoder": Autoencoder}


@pytest.mark.parametrize("case", SCHEDULES)
def test_rates_of_all_epochs_equal_the_reference(case):
    entry = SCHEDULES[case]
    schedule = Schedule(epochs=entry["epochs"], **entry["options"])
    expected = entry["lr_used_in_epoch"]
    rates = [schedule.used_in(epoch) for epoch in range(len(expected))]
    assert rates == pytest.approx(expected, rel=1e-9)


def test_rates_are_those_of_timm():
    schedule = Schedule(epochs=7, lr=1e-3, min_lr=1e-5, warmup_lr=1e-4, warmup_epochs=3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = CosineLRScheduler(optimizer, 7, lr_min=1e-5, warmup_t=3, warmup_lr_init=1e-4)
    for epoch in range(10):
        theirs.step(epoch)
        assert schedule.at(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize("case", GROUPS)
def test_groups_equal_the_reference(case):
    entry = GROUPS[case]
    variant, kind = case.split("_")
    with torch.device("meta"):
        model = KINDS[kind](VARIANTS[variant], num_classes=50)
    names = {id(p): name for name, p in model.named_parameters()}
    without, with_decay = make_parameter_groups(model, 0.005)
    assert (without["weight_decay"], with_decay["weight_decay"]) == (0.0, 0.005)
    assert len(without["params"]) == entry["no_decay"]
    assert len(with_decay["params"]) == entry["decay"]
    multi = [names[id(p)] for p in without["params"] if p.ndim > 1]
    odd = [names[id(p)] for p in with_decay["params"] if "temperature" in names[id(p)]]
    assert multi == entry["no_decay_multi_dim"]
    assert odd == entry["decay_odd"]


def test_optimiser_has_the_published_numbers_and_a_common_rate():
    model = RetrievalNetwork(XCiTSizes(embed_dim=48, depth=1, num_heads=4), num_classes=3)
    optimizer = make_optimizer(model, "adamw", 5e-5, 0.005)
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
    set_rate(optimizer, 3e-5)
    assert [group["lr"] for group in optimizer.param_groups] == [3e-5, 3e-5]
    with pytest.raises(ValueError, match="opt is 'sgd'"):
        make_optimizer(model, "sgd", 5e-5, 0.005)
