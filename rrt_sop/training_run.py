"""One training run of either stage: evaluate, train an epoch, keep the best; interruptible."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from rrt_sop.datasets.batches import Batch, Sharing, make_batches
from rrt_sop.datasets.image_list import LabelledItems
from rrt_sop.datasets.samplers import Sampler
from rrt_sop.optimisation import PER_STEP
from rrt_sop.run_state import RunParts, load_run, save_best, save_run
from rrt_sop.training import Guard, Stage, StepResult, train_one_epoch
from utils.distributed import Ranks
from utils.interruption import Stop, deferred_interrupts, keep_previous
from utils.paths import require_file

logger = logging.getLogger(__name__)

KEPT_BY = "R@1"  # the metric, percent, that decides which weights are kept


@dataclass(frozen=True)
class RunOptions:
    """Options of a training run; see the experiments for their meaning."""

    epochs: int
    steps_per_epoch: int
    scheduler: str
    max_norm: float
    cudnn_flag: str
    visdom_freq: int  # steps between console lines
    checkpoint_every: int  # steps between writes of last.pt; 0: at epoch ends only
    max_minutes: float | None
    num_workers: int
    pin_memory: bool
    seed: int


@dataclass
class Window:
    """The steps since the last console line; those not yet logged are still on the device."""

    steps: list[tuple[float, torch.Tensor]] = field(default_factory=list)  # (2,): loss, accuracy
    logged: list[np.ndarray] = field(default_factory=list)  # the same, (steps, 2) each
    count: int = 0  # items
    started: float = field(default_factory=time.monotonic)

    def add(self, position: float, result: StepResult) -> None:
        both = torch.stack([result.loss.float(), result.correct.float()]) / max(1, result.count)
        self.steps.append((position, both))
        self.count += result.count

    def take(self) -> tuple[list[float], np.ndarray]:
        """Positions and (steps, 2) values of the steps not yet logged."""
        positions = [position for position, _ in self.steps]
        values = torch.stack([value for _, value in self.steps]).cpu().double().numpy()
        self.logged.append(values)
        self.steps = []
        return positions, values

    def rate(self) -> float:
        """Items per second."""
        return self.count / max(1e-9, time.monotonic() - self.started)


Evaluate = Callable[[], dict[str, float]]  # metrics by name, percent; R@1 among them
LogScalar = Callable[[str, float, float], None]  # name, value, step


@dataclass
class TrainingSet:
    """Images, how their batches are drawn, and what a step does with them."""

    images: LabelledItems
    sampler: Sampler
    stage: Stage


class TrainingRun:
    """Training with evaluation before it and after every epoch.

    `last.pt` in the run's folder holds all that an exact continuation needs; the file `best` holds
    the weights whose R@1 is at least the best so far, written at once.
    """

    def __init__(
        self,
        parts: RunParts,
        training: TrainingSet | None,
        evaluate: Evaluate,
        log_scalar: LogScalar,
        options: RunOptions,
        best: Path,
        setup: dict[str, object],
        guard: Guard,
        ranks: Ranks,
    ) -> None:
        """`training` may be None when there is nothing to train (epochs=0)."""
        self.parts, self.progress = parts, parts.progress
        self.training = training
        self.evaluate, self.log_scalar = evaluate, log_scalar
        self.options, self.setup, self.guard, self.ranks = options, setup, guard, ranks
        self.best, self.last = best, best.parent / "last.pt"
        self.started = time.monotonic()
        self.window = Window()

    def continue_from(self, path: Path) -> None:
        """Take up an interrupted run, with the weights and draws that it would have had."""
        load_run(path, self.parts, self.setup)
        done = self.progress
        logger.info("continuing %s after epoch %d, step %d", path, done.epochs_done, done.step)

    def start(self, continue_from: str | None, continue_run: bool) -> None:
        """Take up an interrupted run where that is asked for; else set an older last.pt aside."""
        if continue_from is not None:
            self.continue_from(require_file(continue_from, "give the last.pt of a run"))
        elif continue_run and self.last.is_file():
            self.continue_from(self.last)
        elif self.options.epochs and self.ranks.is_first:
            logger.info("starting anew; checkpoints go to %s", self.last.parent)
            keep_previous(self.last)

    def run(self) -> dict[str, float]:
        """Train to the end; returns the metrics of the kept model.

        An interrupt ends it after the step under way, or an evaluation at once, and is raised again
        after a word on how to go on.
        """
        self.started = time.monotonic() - self.progress.seconds
        try:
            while True:
                if not self.progress.evaluated:
                    self._evaluate()
                if self.training is None or self.progress.epochs_done >= self.options.epochs:
                    break
                if self.ranks.any(self._out_of_time()) or not self._train_epoch(self.training):
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
        if self.options.cudnn_flag == "benchmark":
            torch.backends.cudnn.benchmark = False
        metrics = self.evaluate()
        epoch = progress.epochs_done + (1 if progress.step else 0)
        told = "  ".join(f"{name} {value:.2f}" for name, value in metrics.items())
        logger.info("epoch %d: %s", epoch, told)
        if epoch == 0:
            progress.start_metrics = metrics
        else:
            self.log_scalar("val.recall@1", metrics[KEPT_BY], epoch)
        if metrics[KEPT_BY] >= progress.best:
            progress.best, progress.best_epoch = metrics[KEPT_BY], epoch
            progress.best_metrics = metrics
            if self.ranks.is_first:
                save_best(self.best, self.parts)
        if epoch == 0:
            # the published run seeds torch alone, with the same seed as before
            torch.manual_seed(self.options.seed)
        progress.evaluated = True
        if self.options.epochs:
            self._save()

    def _save(self) -> None:
        self.progress.seconds = time.monotonic() - self.started
        if self.ranks.is_first:
            save_run(self.last, self.parts, self.setup)

    def _draw_epoch(self, sampler: Sampler) -> None:
        """Batches and crops of a new epoch; further epochs' batches when one has too few."""
        progress = self.progress
        progress.epoch_seed = int(torch.empty((), dtype=torch.int64).random_())
        while len(progress.batches) < self.options.steps_per_epoch:
            progress.batches += sampler.draw_batches()
        del progress.batches[self.options.steps_per_epoch :]
        if self.ranks.world > 1:
            self._share_draws()

    def _share_draws(self) -> None:
        """The draws of the first process for all: dropout may have moved the others' streams."""
        progress = self.progress
        sizes = [len(batch) for batch in progress.batches]
        drawn = torch.from_numpy(np.concatenate([[progress.epoch_seed], *progress.batches]))
        own = drawn.to(self.ranks.device) * int(self.ranks.is_first)
        seed, *images = self.ranks.sum_(own).cpu().split([1, *sizes])
        progress.epoch_seed = int(seed)
        progress.batches = [part.numpy() for part in images]

    def _train_epoch(self, training: TrainingSet) -> bool:
        """The rest of the current epoch; False when the time budget ended it early."""
        progress = self.progress
        if not progress.batches:
            self._draw_epoch(training.sampler)
        if self.options.cudnn_flag == "benchmark":
            torch.backends.cudnn.benchmark = True
        self.window = Window()
        with deferred_interrupts() as interrupts:
            stop = train_one_epoch(
                self.parts.model,
                self.parts.optimizer,
                self._batches(training),
                training.stage,
                self._after_step,
                lambda: interrupts.wish(self._out_of_time()),
                self.options.max_norm,
            )
            stop = interrupts.after_last_step(stop, self.ranks)
        self._flush()
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

    def _batches(self, training: TrainingSet) -> Iterator[Batch]:
        """This process's shares of the batches still to come."""
        stage, progress = training.stage, self.progress
        return make_batches(
            training.images,
            progress.batches,
            progress.step,
            progress.epoch_seed,
            Sharing(self.ranks.rank, self.ranks.world, stage.unit),
            self.options.num_workers,
            self.options.pin_memory,
        )

    def _after_step(self, result: StepResult) -> None:
        progress, options = self.progress, self.options
        self.window.add(progress.epochs_done + progress.step / options.steps_per_epoch, result)
        if options.scheduler in PER_STEP:
            self.parts.scheduler.step()
        progress.step += 1
        if progress.step % options.visdom_freq == 0:
            self._tell()
        if options.checkpoint_every and progress.step % options.checkpoint_every == 0:
            self._flush()
            self._save()

    def _flush(self) -> None:
        """Check and log the steps since the last time; a run that fell apart ends here."""
        if not self.window.steps:
            return
        positions, values = self.window.take()
        step = self.progress.epochs_done * self.options.steps_per_epoch + self.progress.step
        self.guard.check(step, float(values[:, 0].mean()), self.parts.model)
        for position, (loss, accuracy) in zip(positions, values, strict=True):
            self.log_scalar("train.loss", float(loss), position)
            self.log_scalar("train.acc", float(accuracy), position)

    def _tell(self) -> None:
        """The console line: mean loss and accuracy since the last one."""
        assert self.training is not None
        self._flush()
        progress, window = self.progress, self.window
        loss, accuracy = np.concatenate(window.logged).mean(axis=0)
        logger.info(
            "epoch %.3f  loss %.4f  acc %.4f  lr %.3g  %.1f %s/s",
            progress.epochs_done + progress.step / self.options.steps_per_epoch,
            loss, accuracy, self.parts.optimizer.param_groups[0]["lr"],
            window.rate(), self.training.stage.items,
        )  # fmt: skip
        self.window = Window()


def steps_of_epoch(sampler: Sampler | None, steps_per_epoch: int | None) -> int:
    """Steps per epoch: the option, else the batches that the sampler yields."""
    if steps_per_epoch is not None:
        if steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch is {steps_per_epoch}, expected None or at least 1")
        return steps_per_epoch
    return len(sampler) if sampler is not None else 1
