"""A training run: steps, reports, validation, checkpoints, interruption and continuation."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from delg_training.checkpoints import RunFiles
from delg_training.datasets.gldv2_tfrecords import (
    UNUSABLE,
    StreamOptions,
    explain_failure,
    make_batches,
)
from delg_training.datasets.record_index import RecordIndex
from delg_training.guard import Guard, Window
from delg_training.optimisation import learning_rate
from delg_training.summaries import Summaries
from delg_training.training import HEADS, LOSSES, StepResult, Trainer
from utils.stopping import Interrupts, Stop, deferred_interrupts

logger = logging.getLogger(__name__)

VALIDATION_IMAGES = 50_000  # at most, of an evaluation
Batch = tuple[Any, Any]


@dataclass(frozen=True)
class RunOptions:
    """Options of the loop; see the experiment for their meaning."""

    max_iters: int
    initial_lr: float = 0.01
    warmup_steps: int = 0
    report_every: int = 100
    validate_every: int = 1000
    checkpoint_every: int = 1000
    validation_batches: int | None = None  # None: what VALIDATION_IMAGES fill, each image once
    max_minutes: float | None = None

    def check(self) -> None:
        """ValueError for options that could only fail later."""
        every = self.report_every, self.validate_every, self.checkpoint_every
        if self.max_iters < 1 or min(every) < 1 or self.initial_lr <= 0 or self.warmup_steps < 0:
            raise ValueError(
                f"max_iters={self.max_iters}, report_every, validate_every, checkpoint_every="
                f"{every}, initial_lr={self.initial_lr}, warmup_steps={self.warmup_steps}: "
                "expected 1 or more steps, a positive rate and no negative warm-up"
            )


class BatchSource:
    """The batches of one set from any step on, shared out among the replicas."""

    def __init__(
        self,
        index: RecordIndex,
        options: StreamOptions,
        training: bool,
        strategy: tf.distribute.Strategy,
    ) -> None:
        options.check(strategy.num_replicas_in_sync)
        self.index, self.options, self.training = index, options, training
        self.strategy = strategy

    def from_step(self, step: int) -> Iterator[Batch]:
        """Global batches, endlessly; ValueError naming the record that cannot be used."""
        position = step * self.options.batch_size

        def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return make_batches(self.index, self.options, self.training, position, context)

        batches = iter(self.strategy.distribute_datasets_from_function(make))
        while True:
            try:
                batch = next(batches)
            except UNUSABLE as error:
                self._explain(position, error)
                raise
            yield batch
            position += self.options.batch_size

    def _explain(self, position: int, error: Exception) -> None:
        ahead = 8 * self.options.batch_size + 1024  # what is read before it is needed
        reason = explain_failure(self.index, self.options, self.training, position, ahead)
        if reason is not None:
            raise ValueError(reason) from error


class Meter:
    """Losses and right answers since the last report; kept on the device until they are asked."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.steps, self.started = batch_size, 0, time.monotonic()
        self.losses, self.correct = tf.zeros(len(LOSSES)), tf.zeros(len(HEADS))

    def add(self, result: StepResult) -> None:
        self.steps += 1
        self.losses, self.correct = self.losses + result.losses, self.correct + result.correct

    def window(self) -> Window:
        """Means of the losses, sums of the right answers."""
        losses = (self.losses / max(1, self.steps)).numpy().tolist()
        return Window(
            dict(zip(LOSSES, losses, strict=True)),
            dict(zip(HEADS, self.correct.numpy().tolist(), strict=True)),
            self.steps * self.batch_size,
        )

    def steps_per_second(self) -> float:
        return self.steps / max(1e-9, time.monotonic() - self.started)


class TrainingRun:
    """Goes on from the optimiser's step to `max_iters`, whatever ends it before."""

    def __init__(
        self,
        trainer: Trainer,
        train: BatchSource,
        validation: BatchSource | None,
        files: RunFiles,
        summaries: Summaries,
        guard: Guard,
        options: RunOptions,
        log_scalar: Callable[[str, float, int], None] = lambda name, value, step: None,
    ) -> None:
        """`log_scalar`: name, value, step -> sacred's metrics."""
        self.trainer, self.train, self.validation = trainer, train, validation
        self.files, self.summaries, self.guard = files, summaries, guard
        self.options, self.log_scalar = options, log_scalar
        self.several_machines = bool(
            getattr(trainer.strategy.extended, "_in_multi_worker_mode", bool)()
        )
        self.metrics: dict[str, float] = {}
        self.started = time.monotonic()
        self.meter = Meter(train.options.batch_size)

    @property
    def step(self) -> int:
        """Updates done."""
        return int(self.trainer.optimizer.iter.read_value())

    def run(self) -> dict[str, float]:
        """Train; returns the last means of the losses and accuracies, fractions.

        A first interrupt ends it after the step under way, with a checkpoint, and is raised again
        after a word on how to go on.
        """
        self.started = time.monotonic()
        with deferred_interrupts() as interrupts:
            stop = self._train(interrupts)
            if self.step % self.options.checkpoint_every:
                self._save()
        self.summaries.close()
        if stop == Stop.INTERRUPT:
            logger.warning(
                "interrupted after step %d; the same command goes on from %s",
                self.step, self.files.logdir,
            )  # fmt: skip
            raise KeyboardInterrupt
        return {**self.metrics, "steps": float(self.step)}

    def _train(self, interrupts: Interrupts) -> Stop:
        first = self.step
        batches = self.train.from_step(first)
        self.meter = Meter(self.train.options.batch_size)
        bar = tqdm(total=self.options.max_iters, initial=first, unit="step", desc="training")
        with bar:
            for step in range(first + 1, self.options.max_iters + 1):
                wish = interrupts.wish(self._out_of_time())
                images, labels = next(batches)
                result = self._update(images, labels, step, wish)
                self._after_step(step, images, result)
                bar.update()
                if (stop := self._agreed(wish, result)) and step < self.options.max_iters:
                    return stop
        return Stop.INTERRUPT if interrupts.requested else Stop.NO

    def _update(self, images: Any, labels: Any, step: int, wish: Stop) -> StepResult:
        wanted = tf.constant(step % self.options.report_every == 0)
        asks = tf.constant([float(wish == Stop.TIME), float(wish == Stop.INTERRUPT)])
        result = self.trainer.train_step(images, labels, wanted, asks)
        self.meter.add(result)
        return result

    def _agreed(self, wish: Stop, result: StepResult) -> Stop:
        """The same on all machines: to ask the device at every step would hold up a single one."""
        if not self.several_machines:
            return wish
        time_is_up, interrupted = result.stop.numpy() > 0
        return Stop.INTERRUPT if interrupted else Stop.TIME if time_is_up else Stop.NO

    def _out_of_time(self) -> bool:
        limit = self.options.max_minutes
        return limit is not None and time.monotonic() - self.started >= 60 * limit

    def _after_step(self, step: int, images: Any, result: StepResult) -> None:
        options = self.options
        last = step == options.max_iters
        if step % options.report_every == 0 or last:
            self._report(step, images, result)
        paused = time.monotonic()
        if self.validation is not None and (step % options.validate_every == 0 or last):
            self._validate(step)
        if step % options.checkpoint_every == 0:
            self._save()
        self.meter.started += time.monotonic() - paused

    def _report(self, step: int, images: Any, result: StepResult) -> None:
        options, window = self.options, self.meter.window()
        self.guard.check(step, window)
        rate, per_second = self._rate(step), self.meter.steps_per_second()
        accuracies = {head: window.accuracy(head) for head in HEADS}
        logger.info(
            "step %d: desc %.3f attn %.3f recon %.4f, accuracy %.1f / %.1f %%, %.1f images/s",
            step, window.losses["desc"], window.losses["attn"], window.losses["recon"],
            100 * accuracies["desc"], 100 * accuracies["attn"],
            per_second * self.train.options.batch_size,
        )  # fmt: skip
        values = {
            "learning_rate": rate,
            "loss/desc/crossentropy": window.losses["desc"],
            "loss/attn/crossentropy": window.losses["attn"],
            "loss/recon/mse": window.losses["recon"],
            **{f"train_accuracy/{head}": value for head, value in accuracies.items()},
            "global_steps_per_sec": per_second,
        }
        self._record(values, step)
        if hasattr(self.trainer.model, "scale_factor"):
            scale = float(self.trainer.model.scale_factor.read_value())
            self.summaries.scalars({"desc/scale_factor": scale}, step)
        if step % options.report_every == 0:
            first = self.trainer.strategy.experimental_local_results(images)[0]
            self.summaries.observation(first, result.observation, step)
        self.meter = Meter(self.train.options.batch_size)

    def _record(self, values: dict[str, float], step: int) -> None:
        self.metrics |= values
        self.summaries.scalars(values, step)
        for name, value in values.items():
            self.log_scalar(name, value, step)

    def _rate(self, step: int) -> float:
        """Learning rate of the update that was number `step`."""
        options = self.options
        return float(
            learning_rate(step - 1, options.initial_lr, options.max_iters, options.warmup_steps)
        )

    def _validate(self, step: int) -> None:
        """Accuracies on the same images each time, every one at most once."""
        assert self.validation is not None
        batch_size = self.validation.options.batch_size
        whole = min(VALIDATION_IMAGES, len(self.validation.index)) // batch_size
        count = self.options.validation_batches or max(1, whole)
        self.trainer.synchronise_statistics()
        batches, correct = self.validation.from_step(0), tf.zeros(len(HEADS))
        for _ in tqdm(range(count), desc="validation", unit="batch", leave=False):
            correct += self.trainer.validation_step(*next(batches))
        shares = (correct / (count * batch_size)).numpy().tolist()
        values = dict(zip([f"validation/{head}" for head in HEADS], shares, strict=True))
        logger.info("step %d: validation accuracy %.1f / %.1f %%", step, *(100 * s for s in shares))
        self._record(values, step)

    def _save(self) -> None:
        if self.meter.steps:
            self.guard.check(self.step, self.meter.window())  # keeps a broken net off the disk
        self.files.save(self.step)
