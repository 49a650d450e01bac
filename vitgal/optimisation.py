"""Parameter groups and learning rates (spec 5.2 and 5.3)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.optim import AdamW, Optimizer

NO_DECAY = ("cls_token",)  # beside biases and everything with one dimension


def make_parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, first without decay: 1-d tensors, names ending in .bias, and the class token.

    Kept as published: the temperatures (3-d) and the ArcFace weight decay. Frozen ones are left
    out.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    without: list[nn.Parameter] = []
    with_decay: list[nn.Parameter] = []
    for name, parameter in trained:
        free = parameter.ndim == 1 or name.endswith(".bias") or name in NO_DECAY
        (without if free else with_decay).append(parameter)
    return [
        {"params": without, "weight_decay": 0.0},
        {"params": with_decay, "weight_decay": weight_decay},
    ]


def make_optimizer(
    model: nn.Module,
    opt: str,
    lr: float,
    weight_decay: float,
    opt_eps: float = 1e-8,
    opt_betas: Sequence[float] | None = None,
) -> Optimizer:
    """AdamW on the two groups; `opt_betas` None: (0.9, 0.999)."""
    if opt != "adamw":
        raise ValueError(f"opt is {opt!r}, expected 'adamw', the one optimiser of the method")
    first, second = opt_betas or (0.9, 0.999)
    groups = make_parameter_groups(model, weight_decay)
    # one kernel for all tensors
    return AdamW(groups, lr=lr, betas=(first, second), eps=opt_eps, fused=True)


class Schedule(NamedTuple):
    """A linear rise, then half a cosine; constant within an epoch."""

    epochs: int = 40
    lr: float = 5e-5
    min_lr: float = 1e-7
    warmup_lr: float = 3e-5
    warmup_epochs: int = 1

    def at(self, t: int) -> float:
        """f(t); the rise is not taken off t, and the rate stays at its minimum after `epochs`."""
        if t < self.warmup_epochs:
            return self.warmup_lr + t * (self.lr - self.warmup_lr) / self.warmup_epochs
        if t >= self.epochs:
            return self.min_lr
        half = 0.5 * (1 + math.cos(math.pi * t / self.epochs))
        return self.min_lr + (self.lr - self.min_lr) * half

    def used_in(self, epoch: int) -> float:
        """The rate that epoch `epoch` (from 0) trains with: kept as published, one epoch late."""
        return self.at(max(epoch - 1, 0))


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """The learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
