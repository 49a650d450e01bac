"""Optimisers, learning rates by epoch, and which parameters a stage trains (spec 1.2, 5.3, 5.4)."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

OPTIMIZERS = ("adam", "sgd", "adamw")
RERANKING = ("local_head", "Reranker")  # parameters whose names hold one of these: trained by fix=1


def make_optimizer(parameters: Iterable[nn.Parameter], optim: str, lr: float) -> Optimizer:
    """adam, sgd (momentum 0.9, decay 1e-3) or adamw (decay 0.03) over one group."""
    trained = [p for p in parameters if p.requires_grad]
    if optim == "adam":
        return torch.optim.Adam(trained, lr=lr)
    if optim == "sgd":
        return torch.optim.SGD(trained, lr=lr, momentum=0.9, weight_decay=1e-3)
    if optim == "adamw":
        return torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.03)
    raise ValueError(f"optim is {optim!r}, expected one of {OPTIMIZERS}")


class Schedule(NamedTuple):
    """Learning rate by epoch."""

    lr: float
    epochs_num: int
    warmup: int = -1  # epochs; 0 or less: none
    cos: bool = False  # cosine, else steps
    schedule: Sequence[int] = (60, 80)  # epochs from which each the rate is a tenth
    constant: bool = False  # published for adam and sgd: the schedule goes with adamw alone

    def at(self, epoch: int) -> float:
        """The rate of `epoch`, counted from 0; the cosine is not shifted by the warm-up."""
        if self.constant:
            return self.lr
        if not self.cos:
            return self.lr * 0.1 ** sum(epoch >= milestone for milestone in self.schedule)
        if epoch < self.warmup:
            done = epoch / self.warmup
            return self.lr * (0.1 * (1 - done) + done)
        return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs_num))


def set_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every group the rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def scale_rate(lr: float, batch: int, published: int | None) -> float:
    """The linear rule: `lr` times batch / published; None leaves it as it is."""
    if published is None:
        return lr
    if published < 1:
        raise ValueError(f"lr_batch_size is {published}, expected None or at least 1 group")
    return lr * batch / published


def choose_parameters(net: nn.Module, fix: bool, freeze: int) -> None:
    """Say which parameters take a gradient.

    `fix`: only `local_head` and `Reranker`. `freeze`: backbone blocks with an index below it do
    not (the published code compared the first digit alone, so that blocks 10 and 11 were as 1).
    """
    depth = sum(1 for name, _ in net.named_modules() if _block(name, whole=True) is not None)
    if freeze < 0 or (freeze and freeze > depth):
        raise ValueError(f"freeze is {freeze}, expected 0 to {depth}, the blocks of the backbone")
    for name, parameter in net.named_parameters():
        block = _block(name)
        frozen = block is not None and block < freeze
        reranking = any(part in name for part in RERANKING)
        parameter.requires_grad_(not frozen and (reranking or not fix))


def _block(name: str, whole: bool = False) -> int | None:
    """Index of the backbone block that a name is of (or, `whole`, names); None: of none."""
    found = re.match(r"(?:backbone\.)?blocks\.(\d+)" + ("$" if whole else r"\."), name)
    return int(found.group(1)) if found else None
