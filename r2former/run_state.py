"""What a training run writes: the published entries, and all that an exact resumption needs.

`model_state_dict` carries the prefix `module.` on every name, as the published tools read it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from r2former.mining import Draws, Miner
from r2former.models.weights import ENTRY, plain_names, read_checkpoint, to_released_names
from utils.checkpoints import load_exactly, save_checkpoint
from utils.interruption import (
    naming_damage,
    random_states,
    restore_progress,
    set_random_states,
)

NEEDED = (ENTRY, "optimizer_state_dict", "progress", "draws", "random", "setup")


@dataclass
class Progress:
    """How far a run has come."""

    epochs_done: int = 0
    round: int = 0  # rounds of mining done in the current epoch
    step: int = 0  # steps done in the current round
    total_steps: int = 0
    evaluated: bool = True  # whether the weights after `epochs_done` have been measured
    triplets: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int64))
    round_seed: int = 0  # of the augmentation in this round
    best: float = -1.0  # recall, percent, of the kept model
    best_epoch: int = 0
    best_global: float = -1.0  # the same before reranking
    not_improved_num: int = 0  # epochs since the best
    metrics: dict[str, float] = field(default_factory=dict)  # last measured
    best_metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # spent so far, earlier parts of the run included


@dataclass
class RunParts:
    """What changes during training."""

    net: nn.Module
    optimizer: Optimizer
    miner: Miner
    draws: Draws
    progress: Progress


def save_model(path: Path, parts: RunParts, recalls: list[float]) -> None:
    """Write the published form: weights, optimiser, epoch, recalls, best so far."""
    save_checkpoint(path, **_published(parts, recalls))


def _published(parts: RunParts, recalls: list[float]) -> dict[str, Any]:
    return {
        ENTRY: to_released_names(parts.net),
        "optimizer_state_dict": parts.optimizer.state_dict(),
        "epoch_num": parts.progress.epochs_done,
        "recalls": recalls,
        "best_r5": parts.progress.best,
        "not_improved_num": parts.progress.not_improved_num,
    }


def save_run(path: Path, parts: RunParts, recalls: list[float], setup: dict[str, Any]) -> None:
    """Write everything that `load_run` needs, in one step: an older file survives a failure.

    `setup`: plain options which a resumed run must share.
    """
    progress = vars(parts.progress).copy()
    triplets = progress.pop("triplets")
    save_checkpoint(
        path,
        **_published(parts, recalls),
        progress=progress,
        triplets=torch.from_numpy(triplets),
        memory=torch.from_numpy(parts.miner.memory),
        draws=parts.draws.state(),
        random=random_states(),
        setup=setup,
    )


def load_run(path: Path, parts: RunParts, setup: dict[str, Any]) -> None:
    """Put `parts` and the random streams into the state of `save_run`.

    ValueError when the file is no such checkpoint or was made with other options.
    """
    saved = read_checkpoint(path)
    missing = set(NEEDED) - set(saved)
    if missing:
        raise ValueError(
            f"{path} lacks {sorted(missing)}: no checkpoint of an interrupted run. To start from "
            "its weights alone, use resume= instead of continue_from="
        )
    with naming_damage(path):
        differing = [
            f"{key}: {saved['setup'].get(key)!r} then, {setup.get(key)!r} now"
            for key in sorted({*saved["setup"], *setup})
            if saved["setup"].get(key) != setup.get(key)
        ]
    if differing:
        raise ValueError(
            f"{path} was made with other options ({'; '.join(differing)}); give the same ones, or "
            "start anew in another save_dir (from its weights: resume=)"
        )
    with naming_damage(path):
        load_exactly(parts.net, plain_names(saved[ENTRY]), path)
        parts.optimizer.load_state_dict(saved["optimizer_state_dict"])
        parts.miner.memory[:] = saved["memory"].numpy()
        parts.draws.set_state(saved["draws"])
        triplets = saved["triplets"].numpy()
        if triplets.ndim != 2 or triplets.dtype != np.int64:
            raise ValueError(
                f"triplets are {triplets.dtype} {triplets.shape}, expected int64 (q, n)"
            )
        restore_progress(parts.progress, {**saved["progress"], "triplets": triplets})
        set_random_states(saved["random"])
