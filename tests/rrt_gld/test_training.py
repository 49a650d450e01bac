"""Training steps: reference answers, the loss, the guard, clipping, autocast."""

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch

from rrt_gld.datasets.pairs import PaddedImages, TripletBatch
from rrt_gld.models.matcher import Matcher
from rrt_gld.optimisation import make_optimizer
from rrt_gld.training import (
    LN2,
    Guard,
    compute_loss,
    pair_logits,
    train_one_epoch,
    train_step,
)
from tests.golden_recipe import array, cases_of_kind, load_manifest, load_outputs
from tests.rrt_gld.data_folders import drawn
from tests.rrt_gld.golden_models import golden_images, golden_matcher
from utils.divergence import TrainingDivergedError
from utils.interruption import Stop

SYSTEM = "rrt_gld"
MANIFEST, OUTPUTS = load_manifest(SYSTEM)["cases"], load_outputs(SYSTEM)
LOSS_CASES = cases_of_kind(SYSTEM, "loss")
TRAIN_CASES = cases_of_kind(SYSTEM, "training steps")
NUM_LOGITS = 64  # of the loss case's text
SMALL: dict[str, Any] = {
    "d_global": 24,
    "d_model": 16,
    "nhead": 2,
    "num_encoder_layers": 2,
    "dim_feedforward": 32,
}


@pytest.mark.parametrize("case", LOSS_CASES)
def test_loss_equals_reference(case):
    logits = 4 * torch.from_numpy(array(f"{case}/logits", (NUM_LOGITS,)))
    loss, correct = compute_loss(logits)
    mean = torch.from_numpy(OUTPUTS[f"{case}/mean"])
    torch.testing.assert_close(loss / NUM_LOGITS, mean, rtol=0, atol=1e-6)
    assert correct / NUM_LOGITS == pytest.approx(OUTPUTS[f"{case}/acc"])


def golden_batch(case: str, entry: dict[str, Any], step: int) -> TripletBatch:
    """Anchors, positives and negatives of one step."""
    batch, longest = entry["batch_triplets"], entry["max_sequence_len"]
    anchors, *partners = (
        golden_images(
            f"{case}/{step}/{role}",
            drawn(f"{case}/{step}/{role}/lens", (batch,)) % longest + 1,
            longest,
            entry["constructor"],
        )
        for role in ("anchor", "positive", "negative")
    )
    return TripletBatch(anchors, PaddedImages(*map(torch.cat, zip(*partners, strict=True))))


@pytest.mark.parametrize("case", TRAIN_CASES)
def test_training_steps_equal_reference(case):
    entry = MANIFEST[case]
    model = golden_matcher(entry)
    optimizer = make_optimizer(model, "adamw", entry["lr"], entry["weight_decay"])
    pairs = 2 * entry["batch_triplets"]
    first = pair_logits(model, golden_batch(case, entry, 0))
    expected = torch.from_numpy(OUTPUTS[f"{case}/logits_step0"])
    torch.testing.assert_close(first, expected, rtol=2e-4, atol=2e-4)
    found: dict[str, list[float]] = {"losses": [], "grad_norms": [], "accs": []}
    for step in range(entry["steps"]):
        batch = golden_batch(case, entry, step)
        result = train_step(model, optimizer, batch, pairs, entry["max_norm"])
        assert result.grad_norm is not None
        found["losses"].append(float(result.loss) / pairs)
        found["grad_norms"].append(float(result.grad_norm))
        found["accs"].append(float(result.correct) / pairs)
    for name, rtol in (("losses", 1e-4), ("grad_norms", 1e-3), ("accs", 1e-9)):
        np.testing.assert_allclose(found[name], OUTPUTS[f"{case}/{name}"], rtol=rtol)
    finals = {
        "classifier_weight_final": model.classifier.weight,
        "scale_encoder_final": model.scale_encoder.weight,
        "in_proj0_final": model.state_dict()["encoder.layers.0.self_attn.in_proj_weight"][:8],
    }
    for name, weights in finals.items():
        expected = torch.from_numpy(OUTPUTS[f"{case}/{name}"])
        torch.testing.assert_close(weights.detach(), expected, rtol=0, atol=2e-5)


def random_images(count: int, length: int) -> PaddedImages:
    mask = torch.zeros(count, length, dtype=torch.bool)
    return PaddedImages(
        torch.randn(count, SMALL["d_global"]),
        torch.randn(count, length, SMALL["d_model"]),
        mask,
        torch.randint(7, (count, length)),
        torch.zeros(count, length, 2),
    )


def random_batch(triplets: int = 3) -> TripletBatch:
    # anchors and partners are each padded to their own longest image
    return TripletBatch(random_images(triplets, 5), random_images(2 * triplets, 8))


def test_pair_logits_are_those_of_the_pairs_one_by_one():
    torch.manual_seed(0)
    model, batch = Matcher(**SMALL), random_batch(3)
    alone = [
        model(*(part[i % 3][None] for part in batch.anchors), *(p[i][None] for p in batch.partners))
        for i in range(6)
    ]
    torch.testing.assert_close(pair_logits(model, batch), torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_gradient_is_clipped_to_max_norm():
    torch.manual_seed(0)
    model = Matcher(**SMALL)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batch = random_batch()
    loose = train_step(model, optimizer, batch, 6, max_norm=1e9).grad_norm
    assert loose is not None
    tight = float(loose) / 10
    train_step(model, optimizer, batch, 6, max_norm=tight)
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    assert float(torch.cat(grads).norm()) == pytest.approx(tight, rel=1e-4)
    assert train_step(model, optimizer, batch, 6, max_norm=0.0).grad_norm is None


def test_autocast_changes_little_and_keeps_float32_weights():
    torch.manual_seed(0)
    model, batch = Matcher(**SMALL), random_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    plain = train_step(model, optimizer, batch, 6).loss
    mixed = train_step(model, optimizer, batch, 6, autocast=True).loss
    assert plain != mixed
    torch.testing.assert_close(mixed, plain, rtol=0.05, atol=0)  # bfloat16: 8 bits
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_epoch_stops_after_the_step_that_was_asked_to():
    model = Matcher(**SMALL)
    optimizer = make_optimizer(model)
    answers = iter([Stop.NO, Stop.TIME])
    told = []
    batches = [(random_batch(), 6)] * 4
    stop = train_one_epoch(
        model, optimizer, batches, lambda result, pairs: told.append(pairs), lambda: next(answers)
    )
    assert stop is Stop.TIME
    assert told == [6, 6]


def test_guard_speaks_once_about_a_loss_at_ln2(caplog):
    guard, model = Guard(patience=50), Matcher(**SMALL)
    with caplog.at_level(logging.WARNING):
        guard.check(49, LN2, model)
        guard.check(60, 0.5, model)
        assert not caplog.text
        guard.check(70, LN2 + 0.005, model)
        guard.check(80, LN2, model)
    assert caplog.text.count("still stands at ln 2") == 1


@pytest.mark.parametrize("loss", [math.nan, math.inf, 10 * LN2])
def test_guard_stops_a_run_that_falls_apart(loss):
    with pytest.raises(TrainingDivergedError, match=r"step 3: .*lower lr"):
        Guard().check(3, loss, Matcher(**SMALL))


def test_guard_finds_weights_that_are_not_finite():
    model = Matcher(**SMALL)
    with torch.no_grad():
        model.remap.bias[0] = math.inf
    with pytest.raises(TrainingDivergedError, match="not finite"):
        Guard().check(3, 0.5, model)
