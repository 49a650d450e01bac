"""Ways in which a training run ends before its time, and what two runs have to agree in."""

from types import ModuleType

import pytest
import torch


class Interrupted(BaseException):
    """Stands for a kill: nothing of the run gets to react."""


def kill_after(monkeypatch: pytest.MonkeyPatch, training_run: ModuleType, steps: int) -> None:
    """Let a run of this module die in its `steps`-th step from now."""
    left = [steps]
    after_step = training_run.TrainingRun._after_step

    def counted(self, *results):
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted
        after_step(self, *results)

    monkeypatch.setattr(training_run.TrainingRun, "_after_step", counted)


class Clock:
    """In place of the module `time`: every look at it takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Weights of two runs, bit for bit."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
