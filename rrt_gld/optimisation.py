"""Optimisers and learning-rate schedules, as named by the options of the experiment."""

import logging
import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    StepLR,
)

logger = logging.getLogger(__name__)

MIN_LR = 1e-6  # floor of the cosine schedules
WARMUP_STEPS = 100  # of warmstep
PER_STEP = ("warmstep", "cos_step", "warmcos_step")  # the others move at epoch ends
SCHEDULERS = ("multistep", "cos", "warmcos", *PER_STEP)


def make_optimizer(
    model: nn.Module,
    optim: str = "adamw",
    lr: float = 1e-4,
    weight_decay: float = 5e-4,
    momentum: float = 0.0,
    nesterov: bool = False,
    no_bias_decay: bool = False,
) -> Optimizer:
    """`sgd`, `adam`, else AdamW (betas 0.9 / 0.999, eps 1e-8), decay on every parameter.

    `no_bias_decay`: 1-d parameters form a second group without decay.
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
    if optim == "adam":
        return torch.optim.Adam(groups, lr=lr, weight_decay=weight_decay)
    if optim != "adamw":
        logger.warning("optim=%r is neither sgd, adam nor adamw: AdamW is used", optim)
    # one kernel for all tensors: on a small model the optimiser's loop over tensors is no trifle
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)


def make_scheduler(
    optimizer: Optimizer,
    scheduler: str,
    epochs: int,
    steps_per_epoch: int,
    scheduler_tau: list[int] | None = None,
    scheduler_gamma: float = 0.1,
    lr_step: int = 10,
    warmup_steps: int = 500,
) -> LRScheduler:
    """The schedule of that name; those in PER_STEP are moved after every step.

    multistep: times `scheduler_gamma` at the epochs `scheduler_tau`; cos: half cosine over `epochs`
    to 1e-6; warmcos: min((e + 1) / 3, (1 + cos(pi e / epochs)) / 2); warmstep:
    min((i + 1) / 100, 1) * 0.1 ** floor(i / (lr_step * steps_per_epoch)). Ours: cos_step, the half
    cosine by steps, and warmcos_step, the same after a linear rise over `warmup_steps`. Anything
    else: one step after all epochs, that is a constant rate.
    """
    total = max(1, epochs * steps_per_epoch)
    if scheduler == "multistep":
        return MultiStepLR(optimizer, list(scheduler_tau or []), scheduler_gamma)
    if scheduler == "cos":
        return CosineAnnealingLR(optimizer, max(1, epochs), eta_min=MIN_LR)
    if scheduler == "warmcos":
        return LambdaLR(optimizer, lambda e: min((e + 1) / 3, _half_cosine(e / max(1, epochs))))
    if scheduler == "warmstep":
        drop = max(1, lr_step * steps_per_epoch)
        return LambdaLR(optimizer, lambda i: min((i + 1) / WARMUP_STEPS, 1) * 0.1 ** (i // drop))
    if scheduler in ("cos_step", "warmcos_step"):
        rise = warmup_steps if scheduler == "warmcos_step" else 0
        floor = MIN_LR / optimizer.param_groups[0]["lr"]

        def factor(i: int) -> float:
            progress = min(1.0, max(0, i - rise) / max(1, total - rise))
            falling = floor + (1 - floor) * _half_cosine(progress)
            return min((i + 1) / (rise + 1), falling)

        return LambdaLR(optimizer, factor)
    logger.warning("scheduler=%r is none of %s: the rate stays constant", scheduler, SCHEDULERS)
    return StepLR(optimizer, total)


def _half_cosine(progress: float) -> float:
    """1 -> 0 as `progress` goes 0 -> 1."""
    return (1 + math.cos(math.pi * progress)) / 2
