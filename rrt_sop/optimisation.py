"""Optimisers and learning-rate schedules, as named by the options of the experiments."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR

OPTIMIZERS = ("sgd", "adamw")
PER_STEP = ("cos_step", "warmcos_step")  # multistep moves at epoch ends
SCHEDULERS = ("multistep", *PER_STEP)
MIN_FACTOR = 1e-3  # the cosine schedules end at this share of the first rate


def make_optimizer(
    model: nn.Module,
    optim: str,
    lr: float,
    weight_decay: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    no_bias_decay: bool = False,
) -> Optimizer:
    """`sgd`, or `adamw` (betas 0.9 / 0.999, eps 1e-8), over all parameters that take a gradient.

    Parameters that never get one (the matcher in the global stage, say) are skipped by the steps:
    neither moved nor decayed. `no_bias_decay`: 1-d parameters form a second group without decay.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if no_bias_decay:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if optim == "sgd":
        return torch.optim.SGD(
            groups, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )
    if optim == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)
    raise ValueError(f"optim is {optim!r}, expected one of {OPTIMIZERS}")


def make_scheduler(
    optimizer: Optimizer,
    scheduler: str,
    epochs: int,
    steps_per_epoch: int,
    scheduler_tau: list[int],
    scheduler_gamma: float = 0.1,
    warmup_steps: int = 0,
) -> LRScheduler:
    """The schedule of that name; those in PER_STEP are moved after every step.

    multistep: times `scheduler_gamma` at the epochs `scheduler_tau`. Ours: cos_step, a half cosine
    over all steps, and warmcos_step, the same after a linear rise over `warmup_steps`.
    """
    if scheduler == "multistep":
        return MultiStepLR(optimizer, list(scheduler_tau), scheduler_gamma)
    if scheduler not in PER_STEP:
        raise ValueError(f"scheduler is {scheduler!r}, expected one of {SCHEDULERS}")
    total = max(1, epochs * steps_per_epoch)
    rise = warmup_steps if scheduler == "warmcos_step" else 0

    def factor(i: int) -> float:
        done = min(1.0, max(0, i - rise) / max(1, total - rise))
        falling = MIN_FACTOR + (1 - MIN_FACTOR) * (1 + math.cos(math.pi * done)) / 2
        return min((i + 1) / (rise + 1), falling)

    return LambdaLR(optimizer, factor)
