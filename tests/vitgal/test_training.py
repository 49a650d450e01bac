"""Steps, accuracy and guards of training."""

import logging

import pytest
import torch
from torch import nn

from utils.distributed import Ranks
from utils.divergence import TrainingDivergedError
from utils.interruption import Stop
from vitgal.losses import retrieval_loss
from vitgal.training import (
    Guard,
    Stepper,
    choose_precision,
    evaluate_accuracy,
    make_scaler,
)

CPU = torch.device("cpu")


class Linear(nn.Module):
    """Logits of a linear map, in the form of the networks."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 7)

    def forward(self, images, labels):
        return {"logits": self.map(images)}


@pytest.fixture
def stepper():
    torch.manual_seed(0)
    model = Linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    return Stepper(model, retrieval_loss, optimizer, make_scaler(CPU, None), Ranks())


def make_batch(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(7, (size,), generator=generator)
    return torch.randn(size, 4, generator=generator), labels


def test_step_sums_over_its_images_and_descends(stepper):
    images, labels = make_batch(5, 1)
    with torch.no_grad():
        logits = stepper.model.map(images)
    before = stepper.model.map.weight.clone()
    result = stepper.step((images, labels))
    expected = nn.functional.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(result.parts["loss"], expected)
    assert result.correct == (logits.argmax(dim=1) == labels).sum()
    assert (result.images, result.stop) == (5, Stop.NO)
    # SGD: half the gradient of the mean loss
    softmax = logits.softmax(dim=1) - nn.functional.one_hot(labels, 7)
    torch.testing.assert_close(
        stepper.model.map.weight, before - 0.5 * softmax.T @ images / 5, rtol=0, atol=1e-6
    )
    assert stepper.step((images, labels), Stop.TIME).stop == Stop.TIME


def test_clipping_bounds_the_step():
    model = Linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    stepper = Stepper(
        model, retrieval_loss, optimizer, make_scaler(CPU, None), Ranks(), clip_grad=1e-3
    )
    before = [p.clone() for p in model.parameters()]
    stepper.step(make_batch(5, 1))
    moved = [(p - b).norm() for p, b in zip(model.parameters(), before, strict=True)]
    assert torch.stack(moved).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_accuracy_counts_each_image_once(stepper):
    batches = [make_batch(6, 1), make_batch(6, 2), make_batch(3, 3)]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        logits = stepper.model.map(images)
    order = logits.argsort(dim=1, descending=True)
    metrics = evaluate_accuracy(stepper, batches)
    assert metrics["top1"] == pytest.approx(100 * (order[:, 0] == labels).float().mean().item())
    top5 = (order[:, :5] == labels[:, None]).any(dim=1).float().mean().item()
    assert metrics["top5"] == pytest.approx(100 * top5)
    loss = nn.functional.cross_entropy(logits, labels).item()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-6)


def test_guard_stops_what_is_no_number_and_reports_what_does_not_fall(caplog):
    model, guard = Linear(), Guard(patience=100)
    guard.check(10, 8.0, model)
    with caplog.at_level(logging.WARNING):
        guard.check(100, 5.0, model)
        assert not caplog.records
        guard.check(101, 7.99, model)
        guard.check(102, 7.99, model)
    assert len(caplog.records) == 1
    assert "nothing was learnt" in caplog.text
    with pytest.raises(TrainingDivergedError, match=r"step 7: .*not finite; lower lr"):
        guard.check(7, float("nan"), model)
    with torch.no_grad():
        model.map.bias[0] = torch.inf
    with pytest.raises(TrainingDivergedError, match="not finite"):
        guard.check(7, 1.0, model)


def test_precision_follows_the_device_unless_it_is_named():
    assert choose_precision(None, CPU) is None
    assert choose_precision(None, torch.device("cuda", 0)) == torch.float16
    assert choose_precision("float32", torch.device("cuda", 0)) is None
    assert choose_precision("bf16", CPU) == torch.bfloat16
    with pytest.raises(ValueError, match=r"precision is 'half', expected None or one of"):
        choose_precision("half", CPU)
    assert make_scaler(CPU, torch.float16).is_enabled()
    assert not make_scaler(CPU, torch.bfloat16).is_enabled()
