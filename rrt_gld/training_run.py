"""One training run: evaluate, train an epoch, keep the best; interruptible at any moment."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rrt_gld.datasets.pairs import CachedImages, FileImages, TripletBatch, make_batches
from rrt_gld.datasets.samplers import TripletSampler
from rrt_gld.optimisation import PER_STEP
from rrt_gld.run_state import RunParts, load_run, save_run
from rrt_gld.training import Guard, StepResult, train_one_epoch
from utils.checkpoints import save_checkpoint
from utils.distributed import Ranks
from utils.interruption import Stop, deferred_interrupts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """Options of a training run; see the experiment for their meaning."""

    epochs: int
    steps_per_epoch: int
    scheduler: str
    max_norm: float
    autocast: bool
    cudnn_flag: str
    visdom_freq: int  # steps between console lines
    checkpoint_every: int  # steps between writes of last.pt; 0: at epoch ends only
    max_minutes: float | None
    train_locals: int | None
    num_workers: int
    pin_memory: bool
    seed: int


@dataclass
class Window:
    """Loss and accuracy since the last console line; summed on the device, read when asked."""

    loss: torch.Tensor
    correct: torch.Tensor
    pairs: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, result: StepResult, num_pairs: int) -> None:
        self.loss += result.loss
        self.correct += result.correct
        self.pairs += num_pairs

    def mean_loss(self) -> float:
        return float(self.loss) / max(1, self.pairs)

    def accuracy(self) -> float:
        return float(self.correct) / max(1, self.pairs)

    def rate(self) -> float:
        """Pairs per second."""
        return self.pairs / max(1e-9, time.monotonic() - self.started)


# epoch -> metrics with M_map and H_map
Evaluate = Callable[[], dict[str, Any]]
# (name, value, step)
LogScalar = Callable[[str, float, int], None]


class TrainingRun:
    """Training with evaluation before it and after every epoch.

    `last.pt` in the run's folder holds all that an exact continuation needs; the file `best` holds
    the weights whose M_map + H_map is at least the best so far, written at once.
    """

    def __init__(
        self,
        parts: RunParts,
        source: FileImages | CachedImages | None,
        sampler: TripletSampler | None,
        evaluate: Evaluate,
        log_scalar: LogScalar,
        options: RunOptions,
        best: Path,
        setup: dict[str, Any],
        ranks: Ranks | None = None,
        guard: Guard | None = None,
    ) -> None:
        """`source` and `sampler` may be None when there is nothing to train (epochs=0)."""
        self.parts = parts
        self.progress = parts.progress
        self.source, self.sampler = source, sampler
        self.evaluate, self.log_scalar = evaluate, log_scalar
        self.options, self.setup = options, setup
        self.best, self.last = best, best.parent / "last.pt"
        self.ranks = ranks or Ranks()
        self.guard = guard or Guard()
        self.started = time.monotonic()
        self.window = self._new_window()

    def _new_window(self) -> Window:
        device = self.ranks.device
        return Window(torch.zeros((), device=device), torch.zeros((), device=device))

    def continue_from(self, path: Path) -> None:
        """Take up an interrupted run, with the weights and draws that it would have had."""
        load_run(path, self.parts, self.setup)
        done = self.progress
        logger.info("continuing %s after epoch %d, step %d", path, done.epochs_done, done.step)

    def run(self) -> dict[str, Any]:
        """Train to the end; returns the metrics of the kept model.

        An interrupt ends it after the step under way, or an evaluation at once, and is raised again
        after a word on how to go on.
        """
        self.started = time.monotonic() - self.progress.seconds
        try:
            while True:
                if not self.progress.evaluated:
                    self._evaluate()
                if self.progress.epochs_done >= self.options.epochs:
                    break
                if self.ranks.any(self._out_of_time()) or not self._train_epoch():
                    break
        except KeyboardInterrupt:
            self._tell_how_to_continue()
            raise
        return self.progress.best_metrics

    def _tell_how_to_continue(self) -> None:
        if self.last.is_file():
            logger.warning(
                "interrupted after epoch %d, step %d; go on with the same command and "
                "continue_from=%s (or continue_run=True)",
                self.progress.epochs_done, self.progress.step, self.last,
            )  # fmt: skip

    def _out_of_time(self) -> bool:
        limit = self.options.max_minutes
        return limit is not None and time.monotonic() - self.started >= 60 * limit

    def _evaluate(self) -> None:
        """Measure the current weights and keep them when they are the best so far."""
        progress = self.progress
        if self.progress.epochs_done == 0 and progress.step == 0:
            torch.manual_seed(self.options.seed + 3)
        if self.options.cudnn_flag == "benchmark":
            torch.backends.cudnn.benchmark = False
        metrics = self.evaluate()
        epoch = progress.epochs_done + (1 if progress.step else 0)
        logger.info("epoch %d: M_map %.2f H_map %.2f", epoch, metrics["M_map"], metrics["H_map"])
        if epoch == 0:
            progress.start_metrics = metrics
        for name in ("M_map", "H_map") if epoch else ():
            self.log_scalar(f"val.{name}", metrics[name], epoch)
        if metrics["M_map"] + metrics["H_map"] >= progress.best:
            progress.best = metrics["M_map"] + metrics["H_map"]
            progress.best_epoch, progress.best_metrics = epoch, metrics
            if self.ranks.is_first:
                state, optim = self.parts.model.state_dict(), self.parts.optimizer.state_dict()
                save_checkpoint(self.best, state=state, optim=optim)
        if epoch == 0:
            torch.manual_seed(self.options.seed + 4)
        progress.evaluated = True
        if self.options.epochs:
            self._save()

    def _save(self) -> None:
        self.progress.seconds = time.monotonic() - self.started
        if self.ranks.is_first:
            save_run(self.last, self.parts, self.setup)

    def _train_epoch(self) -> bool:
        """The rest of the current epoch; False when the time budget ended it early."""
        progress = self.progress
        if not progress.batches:
            assert self.sampler is not None
            progress.batches = self.sampler.draw_batches(self.options.steps_per_epoch)
        if self.options.cudnn_flag == "benchmark":
            torch.backends.cudnn.benchmark = True
        self.window = self._new_window()
        with deferred_interrupts() as interrupts:
            stop = train_one_epoch(
                self.parts.model,
                self.parts.optimizer,
                self._batches(),
                self._after_step,
                lambda: interrupts.wish(self._out_of_time()),
                self.options.max_norm,
                self.options.autocast,
                self.ranks,
            )
            stop = interrupts.after_last_step(stop, self.ranks)
        self._check_window()
        if stop:
            return self._stop_early(stop)
        if self.options.scheduler not in PER_STEP:
            self.parts.scheduler.step()
        progress.epochs_done, progress.step, progress.batches = progress.epochs_done + 1, 0, []
        # saved before the evaluation: an interrupt there costs nothing
        progress.evaluated = False
        self._save()
        return True

    def _stop_early(self, stop: Stop) -> bool:
        """After a step that was the last one for now."""
        self._save()
        if stop == Stop.TIME:
            logger.info("max_minutes=%s is over: measuring and ending", self.options.max_minutes)
            self._evaluate()
            return False
        raise KeyboardInterrupt

    def _batches(self) -> Iterator[tuple[TripletBatch | None, int]]:
        """This rank's shares of the batches still to come, with the pairs of the whole batch."""
        assert self.source is not None
        ahead = self.progress.batches[self.progress.step :]
        shares = [batch[self.ranks.rank :: self.ranks.world] for batch in ahead]
        loader = make_batches(
            self.source,
            [share for share in shares if len(share)],
            self.options.num_workers,
            self.options.pin_memory,
        )
        for batch, share in zip(ahead, shares, strict=True):
            mine = next(loader) if len(share) else None
            if mine is not None and self.options.train_locals is not None:
                mine = mine.keep_random_locals(self.options.train_locals)
            yield mine, 2 * len(batch)

    def _after_step(self, result: StepResult, num_pairs: int) -> None:
        progress, options = self.progress, self.options
        if options.scheduler in PER_STEP:
            self.parts.scheduler.step()
        progress.step += 1
        self.window.add(result, num_pairs)
        if progress.step % options.visdom_freq == 0:
            self._tell()
        if options.checkpoint_every and progress.step % options.checkpoint_every == 0:
            self._check_window()
            self._save()

    def _global_step(self) -> int:
        return self.progress.epochs_done * self.options.steps_per_epoch + self.progress.step

    def _check_window(self) -> None:
        if self.window.pairs:
            self.guard.check(self._global_step(), self.window.mean_loss(), self.parts.model)

    def _tell(self) -> None:
        """The console line: mean loss and accuracy since the last one."""
        self._check_window()
        window, step = self.window, self._global_step()
        loss, accuracy = window.mean_loss(), window.accuracy()
        rate = self.parts.optimizer.param_groups[0]["lr"]
        logger.info(
            "epoch %.3f  loss %.4f  acc %.4f  lr %.3g  %.0f pairs/s",
            step / self.options.steps_per_epoch, loss, accuracy, rate, window.rate(),
        )  # fmt: skip
        for name, value in (("train.loss", loss), ("train.acc", accuracy), ("train.lr", rate)):
            self.log_scalar(name, value, step)
        self.window = self._new_window()


def steps_of_epoch(sampler: TripletSampler | None, steps_per_epoch: int | None) -> int:
    """Steps per epoch: the option, else the batches that the sampler yields."""
    if steps_per_epoch is not None:
        if steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch is {steps_per_epoch}, expected None or at least 1")
        return steps_per_epoch
    return len(sampler) if sampler is not None else 1
