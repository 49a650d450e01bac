"""Early end of a training run, and the random states that its exact resumption needs."""

import logging
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.distributed import Ranks

logger = logging.getLogger(__name__)


def random_states() -> dict[str, Any]:
    """States of the generators of Python, numpy and torch, in types that a checkpoint may hold."""
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


def set_random_states(states: dict[str, Any]) -> None:
    """Put the generators into the states that `random_states` gave."""
    version, inner, gauss = states["python"]
    random.setstate((version, tuple(inner), gauss))
    kind, words, *rest = states["numpy"]
    np.random.set_state((kind, words.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


class Stop(IntEnum):
    """Whether and why training should end after a step."""

    NO = 0
    TIME = 1
    INTERRUPT = 2


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

    def wish(self, out_of_time: bool) -> Stop:
        """What this process asks for before a step."""
        if self.requested:
            return Stop.INTERRUPT
        return Stop.TIME if out_of_time else Stop.NO

    def after_last_step(self, stop: Stop, ranks: Ranks) -> Stop:
        """`stop`, the answer of a loop that asked before each step, or a signal during its last."""
        return Stop.INTERRUPT if not stop and ranks.any(self.requested) else stop


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


def keep_previous(checkpoint: Path) -> None:
    """Set aside the checkpoint that a new run in the same folder would overwrite."""
    if checkpoint.is_file():
        kept = checkpoint.with_stem(f"{checkpoint.stem}_previous")
        checkpoint.replace(kept)
        logger.warning("%s of an earlier run is kept as %s", checkpoint, kept.name)
