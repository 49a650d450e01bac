"""A training that falls apart ends: weights or loss are no longer numbers."""

import math

import torch
from torch import nn


class TrainingDivergedError(RuntimeError):
    """The loss or a weight is no longer a number, or has left all bounds."""


def require_finite(step: int, mean_loss: float, model: nn.Module, remedy: str) -> None:
    """TrainingDivergedError when the loss up to `step` or a weight is not finite.

    `remedy`: options that help beside a lower lr.
    """
    if not math.isfinite(mean_loss) or not _all_finite(model):
        raise TrainingDivergedError(
            f"step {step}: loss {mean_loss}, weights or loss are not finite; lower lr or set "
            f"{remedy}, and go on from the last good checkpoint"
        )


def _all_finite(model: nn.Module) -> bool:
    """Whether every parameter is a finite number; one exchange with the device."""
    checks = [torch.isfinite(p).all() for p in model.parameters()]
    return not checks or bool(torch.stack(checks).all())
