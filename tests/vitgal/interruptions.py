"""Ways in which a training run ends before its time."""

import pytest

from vitgal import training_run


class Interrupted(BaseException):
    """Stands for a kill: nothing of the run gets to react."""


def kill_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the run die in its `steps`-th step from now."""
    left = [steps]
    after_step = training_run.TrainingRun._after_step

    def counted(self, result):
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted
        after_step(self, result)

    monkeypatch.setattr(training_run.TrainingRun, "_after_step", counted)


class Clock:
    """In place of the module `time`: every look at it takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now
