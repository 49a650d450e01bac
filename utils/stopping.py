"""Early end of a training run: Ctrl-C, a termination signal, the time budget; no framework."""

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class Stop(IntEnum):
    """Whether and why training should end after a step."""

    NO = 0
    TIME = 1
    INTERRUPT = 2


class Askable(Protocol):
    """Several processes that can agree, such as utils.distributed.Ranks."""

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in some process."""


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

    def after_last_step(self, stop: Stop, ranks: Askable) -> Stop:
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


def describe_options(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Options in which a run and its continuation differ, in words; empty when in none."""
    return "; ".join(
        f"{key}: {then.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    )


def keep_previous(checkpoint: Path) -> None:
    """Set aside the checkpoint that a new run in the same folder would overwrite."""
    if checkpoint.is_file():
        kept = checkpoint.with_stem(f"{checkpoint.stem}_previous")
        checkpoint.replace(kept)
        logger.warning("%s of an earlier run is kept as %s", checkpoint, kept.name)
