"""Training steps of both stages: reference answers, gradients, the guard, autocast, chunks."""

import logging
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rrt_sop.datasets.batches import Batch
from rrt_sop.losses import LN2, contrastive_loss
from rrt_sop.models.network import RerankNet
from rrt_sop.optimisation import make_optimizer, make_scheduler
from rrt_sop.training import (
    GlobalStage,
    Guard,
    RerankStage,
    check_batch_norms,
    train_one_epoch,
    train_step,
    triplet_logits,
)
from tests.golden_recipe import array, cases_of_kind, load_manifest, load_outputs
from tests.rrt_sop.golden_models import SYSTEM, TRAIN, TRAIN_MAP_SIZE, golden_matcher
from tests.rrt_sop.small_networks import thin_network
from utils.distributed import Ranks
from utils.divergence import TrainingDivergedError
from utils.interruption import Stop

MANIFEST, OUTPUTS = load_manifest(SYSTEM)["cases"], load_outputs(SYSTEM)
RATES = cases_of_kind(SYSTEM, "learning rate per epoch")
ROLES = ("anchor", "positive", "negative")


# ------------------------------------------------------------------ reference answers


class MapNet(torch.nn.Module):
    """Stands for a network whose images are local maps already."""

    def __init__(self, matcher: torch.nn.Module) -> None:
        super().__init__()
        self.matcher = matcher

    def embed_local(self, maps: torch.Tensor) -> torch.Tensor:
        return maps


@pytest.mark.parametrize("case", cases_of_kind(SYSTEM, TRAIN))
def test_matcher_steps_equal_reference(case):
    entry = MANIFEST[case]
    matcher = golden_matcher(entry)
    net: Any = MapNet(matcher)
    optimizer = make_optimizer(net, "adamw", entry["lr"], entry["weight_decay"])
    shape = (entry["batch_triplets"], entry["constructor"]["d_model"], *TRAIN_MAP_SIZE)
    losses = []
    for step in range(entry["steps"]):
        maps = [torch.from_numpy(array(f"{case}/{step}/{role}", shape)) for role in ROLES]
        images = torch.stack(maps, dim=1).flatten(0, 1)  # anchor, positive, negative, anchor, ...
        labels = torch.zeros(len(images), dtype=torch.int64)
        batch = Batch(images, torch.arange(len(images)), labels)
        result = train_step(net, optimizer, batch, RerankStage())
        assert result.count == 2 * entry["batch_triplets"]
        losses.append(float(result.loss) / result.count)
    np.testing.assert_allclose(losses, OUTPUTS[f"{case}/losses"], rtol=1e-4)
    finals = {"seg_final": matcher.seg_encoder, "classifier_final": matcher.classifier}
    for name, layer in finals.items():
        expected = torch.from_numpy(OUTPUTS[f"{case}/{name}"])
        torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", RATES)
def test_learning_rates_equal_reference(case):
    entry = MANIFEST[case]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=entry["lr"])
    scheduler = make_scheduler(
        optimizer, "multistep", entry["epochs"], 7, entry["scheduler_tau"], entry["scheduler_gamma"]
    )
    rates = []
    for _ in range(entry["epochs"]):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, OUTPUTS[case], rtol=1e-9)


# ------------------------------------------------------------------ gradients


def random_batch(size: int, per_id: int = 3, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, 40, 40, generator=generator)
    return Batch(images, torch.arange(size), torch.arange(size // per_id).repeat_interleave(per_id))


def gradients(net: RerankNet, stage: Any, batch: Batch) -> dict[str, torch.Tensor]:
    net.zero_grad(set_to_none=True)
    net.train()
    stage.backward(net, batch)
    return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def test_global_stage_trains_backbone_and_map_alone(monkeypatch):
    net = thin_network(monkeypatch)
    found = gradients(net, GlobalStage(), random_batch(6))
    parts = {name.split(".")[0] for name in found}
    assert parts == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "remap"}


def test_parameters_without_gradient_are_neither_moved_nor_decayed(monkeypatch):
    net = thin_network(monkeypatch)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for optim in ("sgd", "adamw"):
        optimizer = make_optimizer(net, optim, 0.1, 0.5)
        train_step(net, optimizer, random_batch(6), GlobalStage())
    for name, value in net.state_dict().items():
        untouched = name.startswith(("matcher", "remap_local", "classifier", "mean", "std"))
        running = "running" in name or "num_batches" in name  # batch norms stand still
        assert torch.equal(value, before[name]) is (untouched or running), name


@pytest.mark.parametrize("frozen", [True, False])
def test_rerank_stage_trains_matcher_and_local_head_and_backbone_unless_frozen(monkeypatch, frozen):
    net = thin_network(monkeypatch, freeze_backbone=frozen)
    found = gradients(net, RerankStage(), random_batch(6))
    parts = {name.split(".")[0] for name in found}
    backbone = {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    assert parts == {"matcher", "remap_local"} | (set() if frozen else backbone)


def test_pairs_are_anchor_positive_then_anchor_negative():
    def score(src: torch.Tensor, tgt: torch.Tensor) -> torch.Tensor:
        return 10 * src[:, 0, 0, 0] + tgt[:, 0, 0, 0]

    matcher: Any = score
    maps = torch.arange(6.0).reshape(6, 1, 1, 1)
    assert triplet_logits(matcher, maps).tolist() == [1, 34, 2, 35]


@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
def test_chunks_give_the_gradients_of_the_whole_batch(monkeypatch, chunk):
    net, batch = thin_network(monkeypatch), random_batch(9)
    whole = gradients(net, GlobalStage(), batch)
    parts = gradients(net, GlobalStage(chunk=chunk), batch)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)


class OtherRank(Ranks):
    """A process whose partner's features are known beforehand."""

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.add_(self.partner)  # type: ignore[attr-defined]


def test_features_of_two_processes_give_loss_and_gradients_of_one(monkeypatch):
    """The sum over two halves of a batch; real processes: test_experiment_resumption.py."""
    net, batch = thin_network(monkeypatch), random_batch(9)
    whole = gradients(net, GlobalStage(), batch)
    net.zero_grad(set_to_none=True)
    with torch.no_grad():
        features = torch.nn.functional.normalize(net.embed_global(batch.images), dim=1)
    losses = []
    for rank in range(2):
        places = torch.arange(rank, 9, 2)
        ranks = OtherRank(rank, 2)
        partner = features.clone()
        partner[places] = 0
        object.__setattr__(ranks, "partner", partner)
        part = Batch(batch.images[places], places, batch.labels)
        losses.append(GlobalStage(ranks=ranks).backward(net, part)[0])
    for name, parameter in net.named_parameters():
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-3, atol=1e-6)
    loss = contrastive_loss(features, batch.labels)
    torch.testing.assert_close(losses[0], 9 * loss)
    assert losses[1] == 0, "the first process alone reports"


def test_gradient_is_clipped_to_max_norm(monkeypatch):
    net = thin_network(monkeypatch)
    optimizer = make_optimizer(net, "sgd", 0.0, 0.0)
    loose = train_step(net, optimizer, random_batch(6), GlobalStage(), max_norm=1e9).grad_norm
    assert loose is not None
    tight = float(loose) / 10
    train_step(net, optimizer, random_batch(6), GlobalStage(), max_norm=tight)
    grads = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
    assert float(torch.cat(grads).norm()) == pytest.approx(tight, rel=1e-4)


@pytest.mark.parametrize("make", [GlobalStage, RerankStage])
def test_autocast_changes_little_and_keeps_float32_weights(monkeypatch, make):
    net = thin_network(monkeypatch)
    optimizer = make_optimizer(net, "sgd", 0.0, 0.0)
    plain = train_step(net, optimizer, random_batch(6), make()).loss
    mixed = train_step(net, optimizer, random_batch(6), make(autocast=True)).loss
    assert plain != mixed
    torch.testing.assert_close(mixed, plain, rtol=0.1, atol=0)  # bfloat16: 8 bits
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_batch_statistics_need_one_process_and_one_pass(monkeypatch):
    own = thin_network(monkeypatch, set_bn_eval=False)
    normed = thin_network(monkeypatch, norm_layer="batch")
    for net in (own, normed):
        check_batch_norms(net, GlobalStage())
        for stage in (GlobalStage(chunk=4), GlobalStage(ranks=Ranks(0, 2)),
                      RerankStage(ranks=Ranks(0, 2))):  # fmt: skip
            with pytest.raises(
                ValueError, match="needs the whole batch in one pass of one process"
            ):
                check_batch_norms(net, stage)
    check_batch_norms(thin_network(monkeypatch), GlobalStage(chunk=4, ranks=Ranks(0, 2)))


def test_running_statistics_of_a_frozen_backbone_must_stand_still(monkeypatch):
    net = thin_network(monkeypatch, freeze_backbone=True, set_bn_eval=False)
    with pytest.raises(ValueError, match="would move the running statistics of a frozen backbone"):
        check_batch_norms(net, RerankStage())
    check_batch_norms(thin_network(monkeypatch, freeze_backbone=True), RerankStage())


# ------------------------------------------------------------------ optimisers and schedules


def test_no_bias_decay_spares_one_dimensional_parameters(monkeypatch):
    net = thin_network(monkeypatch)
    decayed, spared = make_optimizer(net, "sgd", 0.1, 4e-4, no_bias_decay=True).param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (4e-4, 0)
    (one,) = make_optimizer(net, "sgd", 0.1, 4e-4).param_groups
    assert len(one["params"]) == len(decayed["params"]) + len(spared["params"])


def test_frozen_parameters_are_left_out_of_the_optimiser(monkeypatch):
    net = thin_network(monkeypatch, freeze_backbone=True)
    (group,) = make_optimizer(net, "adamw", 0.1, 4e-4).param_groups
    trained = sum(p.numel() for p in group["params"])
    parts = (net.matcher, net.remap_local)
    assert trained == sum(p.numel() for part in parts for p in part.parameters())


def test_unknown_names_are_refused(monkeypatch):
    net = thin_network(monkeypatch)
    with pytest.raises(ValueError, match="optim is 'adam', expected one of"):
        make_optimizer(net, "adam", 0.1, 0.0)
    optimizer = make_optimizer(net, "sgd", 0.1, 0.0)
    with pytest.raises(ValueError, match="scheduler is 'cosine', expected one of"):
        make_scheduler(optimizer, "cosine", 1, 1, [])


def test_cosine_schedules_rise_and_fall_by_steps():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = make_scheduler(optimizer, "warmcos_step", 2, 50, [], warmup_steps=9)
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates[:10], 2.0 * np.arange(1, 11) / 10)
    assert np.argmax(rates) == 9
    assert np.all(np.diff(rates[9:]) < 0)
    assert rates[100] == pytest.approx(2e-3)


# ------------------------------------------------------------------ the loop and its guard


def test_epoch_stops_after_the_step_that_was_asked_to(monkeypatch):
    net = thin_network(monkeypatch)
    optimizer = make_optimizer(net, "sgd", 0.01, 0.0)
    answers = iter([Stop.NO, Stop.TIME])
    told = []
    stop = train_one_epoch(
        net,
        optimizer,
        [random_batch(6)] * 4,
        RerankStage(),
        lambda result: told.append(result.count),
        lambda: next(answers),
    )
    assert stop is Stop.TIME
    assert told == [4, 4]


WEIGHTS: Any = torch.nn.Linear(2, 2)


def test_guard_speaks_once_about_a_loss_that_stands_still(caplog):
    guard = Guard(level=4.1, patience=50, ceiling=20.0)
    with caplog.at_level(logging.WARNING):
        guard.check(49, 4.1, WEIGHTS)
        guard.check(60, 3.9, WEIGHTS)
        assert not caplog.text
        guard.check(70, 4.12, WEIGHTS)
        guard.check(80, 4.1, WEIGHTS)
    assert caplog.text.count("still stands at 4.100") == 1


def test_guard_without_a_level_says_nothing(caplog):
    Guard(level=None, patience=0, ceiling=9.0).check(10, 4.1, WEIGHTS)
    assert not caplog.text


@pytest.mark.parametrize("loss", [math.nan, math.inf, 10 * LN2])
def test_guard_stops_a_run_that_falls_apart(loss):
    with pytest.raises(TrainingDivergedError, match=r"step 3: .*lower lr"):
        Guard().check(3, loss, WEIGHTS)


def test_guard_finds_weights_that_are_not_finite():
    broken: Any = SimpleNamespace(parameters=lambda: [torch.tensor([1.0, math.inf])])
    with pytest.raises(TrainingDivergedError, match="not finite"):
        Guard().check(3, 0.5, broken)
