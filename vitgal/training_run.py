"""A training run: epochs, validation, checkpoints, interruption and continuation."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from utils.distributed import Ranks
from utils.interruption import Stop, deferred_interrupts, keep_previous
from utils.paths import require_file
from vitgal.datasets.gldv2 import LandmarkImages
from vitgal.datasets.samplers import Batch, EpochBatches, make_loader, make_val_batches
from vitgal.losses import ComputeLoss
from vitgal.optimisation import Schedule, set_rate
from vitgal.run_state import RunParts, copy_checkpoint, load_run, save_best, save_run
from vitgal.training import (
    Guard,
    Stepper,
    StepResult,
    evaluate_accuracy,
    train_one_epoch,
)

logger = logging.getLogger(__name__)

CHECKPOINT, BEST, LOG = "checkpoint.pth", "best_model.pth", "log.txt"
LogScalar = Callable[[str, float, int], None]  # (name, value, step)


@dataclass(frozen=True)
class RunOptions:
    """The options of the loop; those of the experiments with the same names."""

    schedule: Schedule
    output_dir: Path
    batch_size: int
    test_freq: int = 4
    clip_grad: float | None = None
    precision: torch.dtype | None = None
    seed: int = 0
    num_workers: int = 4
    pin_mem: bool = True
    print_freq: int = 50  # steps between console lines
    checkpoint_every: int = 0  # steps between writes of the checkpoint; 0: at epoch ends only
    keep_epochs: bool = True  # a copy of the checkpoint for every epoch
    max_minutes: float | None = None
    guard_steps: int = 2000


@dataclass
class Window:
    """Sums since the last console line, kept on the device until somebody asks."""

    parts: dict[str, torch.Tensor] = field(default_factory=dict)
    correct: torch.Tensor | float = 0.0
    images: torch.Tensor | float = 0.0
    started: float = field(default_factory=time.monotonic)

    def add(self, result: StepResult) -> None:
        for name, value in result.parts.items():
            self.parts[name] = self.parts[name] + value if name in self.parts else value
        self.correct = self.correct + result.correct
        self.images = self.images + result.images

    def means(self) -> dict[str, float]:
        """Mean of each part of the loss, accuracy as a fraction, images per second."""
        images = float(self.images)
        means = {name: float(value) / images for name, value in self.parts.items()}
        means["acc"] = float(self.correct) / images
        return means | {"rate": images / max(1e-9, time.monotonic() - self.started)}


def wrap_for_ranks(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Gradients are averaged over the processes; batch statistics are each one's own, as published.

    Buffers are those of rank 0.
    """
    if ranks.world == 1:
        return model
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


def seed_step(seed: int, rank: int, step: int) -> None:
    """The random numbers of a step (dropped branches) follow from these three alone."""
    torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1)[0]))


class TrainingRun:
    """Training with a validation after epochs 0, test_freq, 2 test_freq, ... and the last one.

    `checkpoint.pth` in the output folder holds all that an exact continuation needs;
    `best_model.pth` the weights whose top-1 accuracy is at least the best so far.
    """

    def __init__(
        self,
        parts: RunParts,
        compute_loss: ComputeLoss,
        train_images: LandmarkImages,
        val_images: LandmarkImages,
        options: RunOptions,
        setup: dict[str, Any],
        log_scalar: LogScalar,
        ranks: Ranks | None = None,
    ) -> None:
        """`setup`: plain options that an interrupted run and its continuation must share."""
        self.parts, self.progress = parts, parts.progress
        self.options, self.setup, self.log_scalar = options, setup, log_scalar
        self.ranks = ranks or Ranks()
        self.train_images, self.val_images = train_images, val_images
        self.batches = EpochBatches(len(train_images), options.batch_size, self.ranks)
        self.stepper = Stepper(
            wrap_for_ranks(parts.model, self.ranks),
            compute_loss,
            parts.optimizer,
            parts.scaler,
            self.ranks,
            options.precision,
            options.clip_grad,
        )
        self.guard = Guard(options.guard_steps)
        self.checkpoint = options.output_dir / CHECKPOINT
        self.started = time.monotonic()
        self.window = Window()

    def continue_from(self, path: Path) -> None:
        """Take up an interrupted run."""
        load_run(path, self.parts, self.setup)
        done = self.progress
        logger.info("continuing %s after epoch %d, step %d", path, done.epochs_done, done.step)

    def run(self) -> dict[str, float]:
        """Train to the end; returns the last validation's metrics and the best top-1.

        An interrupt ends it after the step under way and is raised again after a word on how to go
        on.
        """
        self.started = time.monotonic() - self.progress.seconds
        try:
            while True:
                if not self.progress.validated:
                    self.validate()
                if self.progress.epochs_done >= self.options.schedule.epochs:
                    break
                if self.ranks.any(self._out_of_time()):
                    self._end_in_time()
                    break
                self._train_epoch()
        except KeyboardInterrupt:
            if self.checkpoint.is_file():
                logger.warning(
                    "interrupted after epoch %d, step %d; go on with the same command and "
                    "resume=%s (or continue_run=True)",
                    self.progress.epochs_done, self.progress.step, self.checkpoint,
                )  # fmt: skip
            raise
        return {**self.progress.metrics, "best_top1": self.progress.best}

    def validate(self, keep: bool = True) -> dict[str, float]:
        """Accuracy on the validation images; keeps the weights when they are the best so far.

        `keep` False: only the numbers; no file is written.
        """
        batches = make_val_batches(
            len(self.val_images), max(1, self.options.batch_size // 2), self.ranks
        )
        loader = self._loader(self.val_images, batches, 0)
        bar = tqdm(loader, "validation", len(batches), disable=not self.ranks.is_first)
        metrics = evaluate_accuracy(self._unwrapped(), bar)
        progress = self.progress
        epoch = progress.epochs_done - (0 if progress.step else 1)
        progress.metrics, progress.validated = metrics, True
        progress.validated_at = self._global_step()
        logger.info(
            "epoch %d: validation top-1 %.2f, top-5 %.2f, loss %.4f",
            epoch, metrics["top1"], metrics["top5"], metrics["loss"],
        )  # fmt: skip
        for name, value in metrics.items():
            self.log_scalar(f"val.{name}", value, epoch)
        if keep:
            self._keep(epoch, metrics)
        return metrics

    def _keep(self, epoch: int, metrics: dict[str, float]) -> None:
        """Write the log and the checkpoints after a validation."""
        progress = self.progress
        if metrics["top1"] >= progress.best:
            progress.best, progress.best_epoch = metrics["top1"], epoch
            if self.ranks.is_first:
                save_best(self.options.output_dir / BEST, self.parts, self.setup)
        if self.ranks.is_first:
            self._append_log({"epoch": epoch, **metrics, "best_top1": progress.best})
        if self._global_step():
            self._save()

    def _unwrapped(self) -> Stepper:
        """For validation: processes have unequal numbers of batches and must not wait in each."""
        return Stepper(
            self.parts.model,
            self.stepper.compute_loss,
            self.stepper.optimizer,
            self.stepper.scaler,
            self.ranks,
            self.options.precision,
        )

    def _append_log(self, entry: dict[str, Any]) -> None:
        self.options.output_dir.mkdir(parents=True, exist_ok=True)
        with (self.options.output_dir / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _out_of_time(self) -> bool:
        limit = self.options.max_minutes
        return limit is not None and time.monotonic() - self.started >= 60 * limit

    def _save(self) -> None:
        self.progress.seconds = time.monotonic() - self.started
        if self.ranks.is_first:
            save_run(self.checkpoint, self.parts, self.setup)

    def _loader(
        self, images: LandmarkImages, batches: list[list[int]] | np.ndarray, epoch: int
    ) -> Iterator[Batch]:
        options = self.options
        return make_loader(images, batches, epoch, options.num_workers, options.pin_mem)

    def _end_in_time(self) -> None:
        """A last validation, unless these very weights have had theirs."""
        logger.info("max_minutes=%s is over: validating and ending", self.options.max_minutes)
        if self.progress.validated_at != self._global_step():
            self.validate()

    def _train_epoch(self) -> None:
        """The rest of the current epoch, or what the time budget leaves of it."""
        progress, epoch = self.progress, self.progress.epochs_done
        set_rate(self.parts.optimizer, self.options.schedule.used_in(epoch))
        ahead = self.batches.draw(epoch)[progress.step :]
        self.window = Window()
        with deferred_interrupts() as interrupts:
            stop = train_one_epoch(
                self.stepper,
                self._loader(self.train_images, ahead, epoch),
                self._before_step,
                self._after_step,
                lambda: interrupts.wish(self._out_of_time()),
            )
            stop = interrupts.after_last_step(stop, self.ranks)
        self._check_window()
        if progress.step == len(self.batches):
            self._end_epoch()
        else:
            self._save()
        if stop == Stop.INTERRUPT:
            raise KeyboardInterrupt

    def _end_epoch(self) -> None:
        progress, epoch = self.progress, self.progress.epochs_done
        progress.epochs_done, progress.step = epoch + 1, 0
        last = progress.epochs_done == self.options.schedule.epochs
        progress.validated = not (last or epoch % self.options.test_freq == 0)
        self._save()  # before the validation: an interrupt there costs nothing
        if self.options.keep_epochs and self.ranks.is_first:
            name = f"checkpoint_model_epoch_{epoch}.pth"
            copy_checkpoint(self.checkpoint, self.checkpoint.with_name(name))

    def _global_step(self) -> int:
        return self.progress.epochs_done * len(self.batches) + self.progress.step

    def _before_step(self) -> None:
        seed_step(self.options.seed, self.ranks.rank, self._global_step())

    def _after_step(self, result: StepResult) -> None:
        progress, options = self.progress, self.options
        progress.step += 1
        self.window.add(result)
        if progress.step % options.print_freq == 0:
            self._tell()
        if options.checkpoint_every and progress.step % options.checkpoint_every == 0:
            self._check_window()
            self._save()

    def _check_window(self) -> None:
        if self.window.parts:
            self.guard.check(self._global_step(), self.window.means()["loss"], self.parts.model)

    def _tell(self) -> None:
        """The console line: means since the last one."""
        self._check_window()
        means, step = self.window.means(), self._global_step()
        rate = self.parts.optimizer.param_groups[0]["lr"]
        logger.info(
            "epoch %.3f  %s  lr %.3g  %.1f images/s",
            step / len(self.batches),
            "  ".join(f"{name} {value:.4f}" for name, value in means.items() if name != "rate"),
            rate, means["rate"],
        )  # fmt: skip
        for name, value in means.items():
            self.log_scalar(f"train.{name}", value, step)
        self.log_scalar("train.lr", rate, step)
        self.window = Window()


def start_or_continue(
    run: TrainingRun, resume: Path | None, continue_run: bool, only_validate: bool = False
) -> None:
    """Take up an interrupted run where that is asked for; else set an older checkpoint aside."""
    if resume is not None:
        run.continue_from(require_file(resume, "give the checkpoint.pth of an interrupted run"))
    elif continue_run and run.checkpoint.is_file():
        run.continue_from(run.checkpoint)
    elif run.ranks.is_first and not only_validate:
        logger.info("starting anew; checkpoints go to %s", run.checkpoint.parent)
        keep_previous(run.checkpoint)
