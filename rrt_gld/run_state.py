"""Interruption and exact resumption of a training run."""

import logging
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from utils.checkpoints import load_state, save_checkpoint

logger = logging.getLogger(__name__)

SCHEDULER_KEYS = ("last_epoch", "_step_count", "_last_lr")  # the rest follows from the options


@dataclass
class Progress:
    """How far a run has come."""

    epochs_done: int = 0
    step: int = 0  # steps done of the current epoch
    evaluated: bool = False  # whether the weights after `epochs_done` have been evaluated
    batches: list[np.ndarray] = field(default_factory=list)  # (T, 3) triplets of the current epoch
    best: float = -1.0  # M_map + H_map of the kept model
    best_epoch: int = 0
    best_metrics: dict[str, Any] = field(default_factory=dict)
    start_metrics: dict[str, Any] = field(default_factory=dict)  # before the first step
    seconds: float = 0.0  # spent so far, earlier parts of the run included


def _random_states() -> dict[str, Any]:
    kind, words, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    version, inner, gauss = random.getstate()
    return {
        "python": [version, list(inner), gauss],
        "numpy": [
            kind,
            torch.tensor(np.asarray(words).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_states(states: dict[str, Any]) -> None:
    version, inner, gauss = states["python"]
    random.setstate((version, tuple(inner), gauss))
    kind, words, *rest = states["numpy"]
    np.random.set_state((kind, words.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


@dataclass
class RunParts:
    """What changes during training."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    progress: Progress


def save_run(path: Path, parts: RunParts, setup: dict[str, Any]) -> None:
    """Write everything that `load_run` needs, in one step: an older file survives a failure.

    `setup`: plain options which a resumed run must share.
    """
    progress = vars(parts.progress).copy()
    batches = progress.pop("batches")
    triplets = np.concatenate(batches) if batches else np.empty((0, 3), dtype=np.int64)
    scheduler = parts.scheduler.state_dict()
    save_checkpoint(
        path,
        state=parts.model.state_dict(),
        optim=parts.optimizer.state_dict(),
        scheduler={key: scheduler[key] for key in SCHEDULER_KEYS},
        progress=progress,
        triplets=torch.from_numpy(triplets.astype(np.int32)),
        batch_sizes=[len(batch) for batch in batches],
        random=_random_states(),
        setup=setup,
    )


def load_run(path: Path, parts: RunParts, setup: dict[str, Any]) -> None:
    """Put `parts` and the random streams into the state of `save_run`.

    Raises ValueError when the file is no such checkpoint or was made with other options.
    """
    saved = load_state(path)
    missing = {"state", "optim", "scheduler", "progress", "triplets", "random"} - set(saved)
    if missing:
        raise ValueError(
            f"{path} lacks {sorted(missing)}: no checkpoint of an interrupted run. To start from "
            "its weights alone, use resume= instead of continue_from="
        )
    differing = [
        f"{key}: {saved['setup'].get(key)!r} then, {setup.get(key)!r} now"
        for key in sorted({*saved["setup"], *setup})
        if saved["setup"].get(key) != setup.get(key)
    ]
    if differing:
        raise ValueError(
            f"{path} was made with other options ({'; '.join(differing)}); give the same ones, or "
            "start anew in another temp_dir (from its weights: resume=)"
        )
    parts.model.load_state_dict(saved["state"])
    parts.optimizer.load_state_dict(saved["optim"])
    parts.scheduler.load_state_dict({**parts.scheduler.state_dict(), **saved["scheduler"]})
    cuts = np.cumsum(saved["batch_sizes"])[:-1]
    triplets = saved["triplets"].numpy().astype(np.int64)
    batches = np.split(triplets, cuts) if saved["batch_sizes"] else []
    for key, value in {**saved["progress"], "batches": batches}.items():
        setattr(parts.progress, key, value)
    _set_random_states(saved["random"])


class Interrupts:
    """Whether Ctrl-C or a termination signal has come."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, number: int, _frame: object) -> None:
        """First signal: remembered, the step is finished. Second: at once."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        logger.warning("%s: finishing this step and saving", signal.Signals(number).name)


@contextmanager
def deferred_interrupts() -> Iterator[Interrupts]:
    """Within the block a first SIGINT or SIGTERM is only noted; weights are never half updated."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupts.request) for number in numbers]
    try:
        yield interrupts
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
