"""Optimisers and learning-rate schedules."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from rrt_gld.optimisation import make_optimizer, make_scheduler
from tests.golden_recipe import cases_of_kind, load_manifest, load_outputs

SYSTEM = "rrt_gld"
CASES = cases_of_kind(SYSTEM, "learning rate per epoch")


def rates(name: str, steps: int, lr: float = 1e-4, **options) -> np.ndarray:
    """The rate used at each step of the schedule, then the one after the last."""
    optimizer = make_optimizer(nn.Linear(2, 2), lr=lr)
    scheduler = make_scheduler(optimizer, name, **options)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return np.array(found)


@pytest.mark.parametrize("case", CASES)
def test_rates_equal_reference(case):
    entry = load_manifest(SYSTEM)["cases"][case]
    got = rates(
        entry["scheduler"],
        entry["epochs"],
        entry["lr"],
        epochs=entry["epochs"],
        steps_per_epoch=7,
        scheduler_tau=entry["scheduler_tau"],
        scheduler_gamma=entry["scheduler_gamma"] or 0.1,
    )
    np.testing.assert_allclose(got, load_outputs(SYSTEM)[case], rtol=1e-9, atol=1e-15)


def test_warmstep_rises_over_100_steps_and_drops_tenfold():
    got = rates("warmstep", 400, lr=1.0, epochs=4, steps_per_epoch=100, lr_step=2)
    i = np.arange(401)
    expected = np.minimum((i + 1) / 100, 1) * 0.1 ** (i // 200)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_cosine_by_steps_falls_to_its_floor():
    got = rates("cos_step", 20, lr=1e-3, epochs=4, steps_per_epoch=5)
    # floor + (lr - floor) (1 + cos(pi i / 20)) / 2
    half = (1 + np.cos(np.pi * np.arange(21) / 20)) / 2
    np.testing.assert_allclose(got, 1e-6 + (1e-3 - 1e-6) * half, rtol=1e-9)


def test_warm_cosine_by_steps_rises_first():
    got = rates("warmcos_step", 40, lr=1e-3, epochs=4, steps_per_epoch=10, warmup_steps=9)
    np.testing.assert_allclose(got[:9], 1e-3 * np.arange(1, 10) / 10, rtol=1e-9)
    assert got.argmax() == 9
    assert (np.diff(got[9:]) < 0).all()
    assert math.isclose(got[-1], 1e-6)


@pytest.mark.parametrize("name", ["none", "multistp"])
def test_any_other_name_keeps_the_rate_and_says_so(name, caplog):
    got = rates(name, 20, epochs=4, steps_per_epoch=10)
    np.testing.assert_array_equal(got, 1e-4)
    assert name in caplog.text


@pytest.mark.parametrize(
    ("optim", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimizer_of_that_name(optim, kind, caplog):
    optimizer = make_optimizer(nn.Linear(2, 2), optim, 0.5, 0.25, momentum=0.75)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    if optim == "sgd":
        assert group["momentum"] == 0.75
    else:
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
    assert not caplog.text
    assert type(make_optimizer(nn.Linear(2, 2), "other")) is torch.optim.AdamW
    assert "'other'" in caplog.text


def test_no_bias_decay_parts_the_parameters():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    decayed, free = make_optimizer(model, no_bias_decay=True, weight_decay=0.1).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert [p.shape for p in decayed["params"]] == [(3, 2)]
    assert [p.shape for p in free["params"]] == [(3,), (3,), (3,)]


def test_state_of_an_older_adamw_is_taken_over():
    torch.manual_seed(0)
    old_model = nn.Linear(3, 2)
    old = torch.optim.AdamW(old_model.parameters(), lr=1e-3, weight_decay=5e-4)
    x = torch.randn(4, 3)
    for _ in range(3):
        old.zero_grad()
        old_model(x).square().mean().backward()
        old.step()
    new_model = nn.Linear(3, 2)
    new_model.load_state_dict(old_model.state_dict())
    state = copy.deepcopy(old.state_dict())
    for entry in state["state"].values():
        entry["step"] = int(entry["step"])  # a plain number in the releases of the time
    for key in ("foreach", "fused", "capturable", "maximize", "differentiable"):
        state["param_groups"][0].pop(key, None)
    new = make_optimizer(new_model, lr=1e-3, weight_decay=5e-4)
    new.load_state_dict(state)
    for model, optimizer in ((old_model, old), (new_model, new)):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(new_model.weight, old_model.weight, rtol=1e-6, atol=1e-7)
