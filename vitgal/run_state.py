"""What a training run writes to disk, so that it can go on exactly where it stood.

The entries model, optimizer, lr_scheduler, epoch, scaler and args are those of the published
checkpoints (args as a plain dict); progress is ours.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from utils.checkpoints import load_state, save_checkpoint
from utils.interruption import require_same_run
from utils.paths import atomic_path
from vitgal.models.weights import ALLOWED, ENTRY

NEEDED = (ENTRY, "optimizer", "scaler", "progress", "args")


@dataclass
class Progress:
    """How far a run has come."""

    epochs_done: int = 0
    step: int = 0  # steps done of the current epoch
    validated: bool = True  # whether the epochs done have had the validation that they should
    validated_at: int = -1  # global step of the last validation
    best: float = -1.0  # top-1 of the kept model
    best_epoch: int = -1
    metrics: dict[str, float] = field(default_factory=dict)  # of the last validation
    seconds: float = 0.0  # spent so far, earlier parts of the run included


@dataclass
class RunParts:
    """What changes during training."""

    model: nn.Module  # not wrapped
    optimizer: Optimizer
    scaler: GradScaler
    progress: Progress


def save_run(path: Path, parts: RunParts, setup: dict[str, Any]) -> None:
    """Write everything that `load_run` needs, in one step: an older file survives a failure.

    `setup`: plain options which a resumed run must share. The random numbers of a step depend on
    seed, process and step alone, so that no state of a generator is needed.
    """
    save_checkpoint(
        path,
        model=parts.model.state_dict(),
        optimizer=parts.optimizer.state_dict(),
        lr_scheduler={"lr": parts.optimizer.param_groups[0]["lr"]},
        epoch=parts.progress.epochs_done - 1,
        scaler=parts.scaler.state_dict(),
        args=setup,
        progress=vars(parts.progress).copy(),
    )


def save_best(path: Path, parts: RunParts, setup: dict[str, Any]) -> None:
    """The kept weights; as published, without the scaler."""
    save_checkpoint(
        path,
        model=parts.model.state_dict(),
        epoch=parts.progress.epochs_done - 1,
        metrics=dict(parts.progress.metrics),
        args=setup,
    )


def copy_checkpoint(source: Path, target: Path) -> None:
    """A copy under another name, in one step."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def load_run(path: Path, parts: RunParts, setup: dict[str, Any]) -> None:
    """Put `parts` into the state of `save_run`.

    Raises ValueError when the file is no such checkpoint or was made with other options.
    """
    saved = load_state(path, ALLOWED)
    require_same_run(path, saved, NEEDED, setup, "output_dir", entry="args", from_weights=False)
    parts.model.load_state_dict(saved[ENTRY])
    parts.optimizer.load_state_dict(saved["optimizer"])
    parts.scaler.load_state_dict(saved["scaler"])
    for key, value in saved["progress"].items():
        setattr(parts.progress, key, value)
