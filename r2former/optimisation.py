"""Optimisers, learning rates by epoch, and which parameters a stage trains (spec 1.2, 5.3, 5.4)."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from r2former.models.vlad import CRN

OPTIMIZERS = ("adam", "sgd", "adamw")
RERANKING = ("local_head", "Reranker")  # parameters whose names hold one of these: trained by fix=1


Groups = list[dict[str, Any]]


def make_groups(net: nn.Module) -> Groups:
    """One group of all parameters that take a gradient."""
    return [{"params": [p for p in net.parameters() if p.requires_grad]}]


def split_crn(net: nn.Module, lr: float, lr_crn_layer: float, lr_crn_net: float) -> Groups:
    """Groups of a network with aggregation=crn: its reweighting layers, and all the rest.

    Their rates are `scale` times the rate `lr` of the schedule.
    """
    layers = [m for m in net.modules() if isinstance(m, CRN)]
    own = {id(p) for m in layers for part in (m.filters, m.accumulate) for p in part.parameters()}
    if not own:
        raise ValueError("aggregation is 'crn', but the network has no reweighting layers")
    trained = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in own], "scale": lr_crn_layer / lr},
        {"params": [p for p in trained if id(p) not in own], "scale": lr_crn_net / lr},
    ]


def make_optimizer(groups: Groups, optim: str, lr: float) -> Optimizer:
    """adam, sgd (momentum 0.9, decay 1e-3) or adamw (decay 0.03)."""
    if optim == "adam":
        return torch.optim.Adam(groups, lr=lr)
    if optim == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=1e-3)
    if optim == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.03)
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
    """Give every group the rate `lr`, times its own scale where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)


def scale_rate(lr: float, batch: int, published: int | None) -> float:
    """The linear rule: `lr` times batch / published; None leaves it as it is."""
    if published is None:
        return lr
    if published < 1:
        raise ValueError(f"lr_batch_size is {published}, expected None or at least 1 group")
    return lr * batch / published


def choose_parameters(net: nn.Module, fix: bool, freeze: int) -> None:
    """Stop the gradient of what a stage does not train; what has none already stays so.

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
        if frozen or (fix and not reranking):
            parameter.requires_grad_(False)


def _block(name: str, whole: bool = False) -> int | None:
    """Index of the backbone block that a name is of (or, `whole`, names); None: of none."""
    found = re.match(r"(?:backbone\.)?blocks\.(\d+)" + ("$" if whole else r"\."), name)
    return int(found.group(1)) if found else None
