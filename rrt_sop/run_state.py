"""What a training run writes to disk, so that it can go on exactly where it stood."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rrt_sop.training import Net
from utils.checkpoints import load_state, save_checkpoint
from utils.interruption import random_states, require_same_run, set_random_states

SCHEDULER_KEYS = ("last_epoch", "_step_count", "_last_lr")  # the rest follows from the options
NEEDED = ("state", "optim", "scheduler", "progress", "drawn", "random", "setup")


@dataclass
class Progress:
    """How far a run has come."""

    epochs_done: int = 0
    step: int = 0  # steps done of the current epoch
    evaluated: bool = False  # whether the weights after `epochs_done` have been evaluated
    batches: list[np.ndarray] = field(default_factory=list)  # (B,) indices, of the current epoch
    epoch_seed: int = 0  # the crops of the current epoch
    best: float = -1.0  # R@1 of the kept model, percent
    best_epoch: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    start_metrics: dict[str, float] = field(default_factory=dict)  # before the first step
    seconds: float = 0.0  # spent so far, earlier parts of the run included


@dataclass
class RunParts:
    """What changes during training."""

    model: Net
    optimizer: Optimizer
    scheduler: LRScheduler
    progress: Progress


def scheduler_state(scheduler: LRScheduler) -> dict[str, Any]:
    """The part of a schedule's state that changes, as plain values."""
    state = scheduler.state_dict()
    return {key: state[key] for key in SCHEDULER_KEYS}


def save_best(path: Path, parts: RunParts) -> None:
    """Write the released form: state, optim, scheduler."""
    save_checkpoint(
        path,
        state=parts.model.state_dict(),
        optim=parts.optimizer.state_dict(),
        scheduler=scheduler_state(parts.scheduler),
    )


def save_run(path: Path, parts: RunParts, setup: dict[str, Any]) -> None:
    """Write everything that `load_run` needs, in one step: an older file survives a failure.

    `setup`: plain options which a resumed run must share.
    """
    progress = vars(parts.progress).copy()
    batches = progress.pop("batches")
    drawn = np.concatenate(batches) if batches else np.empty(0, dtype=np.int64)
    save_checkpoint(
        path,
        state=parts.model.state_dict(),
        optim=parts.optimizer.state_dict(),
        scheduler=scheduler_state(parts.scheduler),
        progress=progress,
        drawn=torch.from_numpy(drawn.astype(np.int32)),
        batch_sizes=[len(batch) for batch in batches],
        random=random_states(),
        setup=setup,
    )


def load_run(path: Path, parts: RunParts, setup: dict[str, Any]) -> None:
    """Put `parts` and the random streams into the state of `save_run`.

    Raises ValueError when the file is no such checkpoint or was made with other options.
    """
    saved = load_state(path)
    require_same_run(path, saved, NEEDED, setup, "temp_dir")
    parts.model.load_state_dict(saved["state"])
    parts.optimizer.load_state_dict(saved["optim"])
    parts.scheduler.load_state_dict({**parts.scheduler.state_dict(), **saved["scheduler"]})
    cuts = np.cumsum(saved["batch_sizes"])[:-1]
    drawn = saved["drawn"].numpy().astype(np.int64)
    batches = np.split(drawn, cuts) if saved["batch_sizes"] else []
    for key, value in {**saved["progress"], "batches": batches}.items():
        setattr(parts.progress, key, value)
    set_random_states(saved["random"])
