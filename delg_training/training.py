"""A step of training and of validation, on one replica or many."""

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from delg_training.losses import Forward, run_forward
from delg_training.models.delf import Delf
from delg_training.models.weights import named_variables
from delg_training.optimisation import Momentum

CLIP_NORM = 10.0  # of all gradients of a replica together, before they are summed
LOSSES = ("desc", "attn", "recon", "total")
HEADS = ("desc", "attn")


@dataclass(frozen=True)
class StepOptions:
    """What a step needs to know."""

    batch_size: int  # over all replicas
    attention_loss_weight: float = 1.0
    reconstruction_loss_weight: float = 10.0
    clip_norm: float = CLIP_NORM


class Observation(NamedTuple):
    """What summaries show of a step; zeros where it was not asked for."""

    prob: tf.Tensor  # (B, h, w, 1) attention
    sparsity: dict[str, tf.Tensor]  # block -> fraction of zeros


class StepResult(NamedTuple):
    """Of one replica; sums over the replicas hold for the global batch."""

    losses: tf.Tensor  # (4,) in the order of LOSSES
    correct: tf.Tensor  # (2,) images, in the order of HEADS
    norm: tf.Tensor  # () of the gradients, before clipping
    stop: tf.Tensor  # (2,) whether a machine asks to end: out of time, interrupted
    observation: Observation


def zero_fraction(x: tf.Tensor) -> tf.Tensor:
    """Share of exact zeros, a scalar."""
    return tf.reduce_mean(tf.cast(tf.equal(x, 0.0), tf.float32))


def observe(forward: Forward, wanted: tf.Tensor) -> Observation:
    """The fractions are computed where `wanted`, a boolean scalar, says so."""
    names = sorted(forward.blocks)
    fractions = tf.cond(
        wanted,
        lambda: tf.stack([zero_fraction(forward.blocks[name]) for name in names]),
        lambda: tf.zeros(len(names)),
    )
    return Observation(forward.local.prob, dict(zip(names, tf.unstack(fractions), strict=True)))


class Trainer:
    """The compiled steps of one model under one strategy."""

    def __init__(
        self,
        model: Delf,
        optimizer: Momentum,
        options: StepOptions,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        self.model, self.optimizer, self.options = model, optimizer, options
        self.strategy = strategy or tf.distribute.get_strategy()
        self.train_step = tf.function(self._train_step)
        self.validation_step = tf.function(self._validation_step)

    def _forward(self, images: tf.Tensor, labels: tf.Tensor, training: bool) -> Forward:
        options = self.options
        return run_forward(
            self.model,
            images,
            labels,
            options.batch_size,
            options.attention_loss_weight,
            options.reconstruction_loss_weight,
            training,
        )

    def replica_step(
        self, images: tf.Tensor, labels: tf.Tensor, wanted: tf.Tensor, stop: tf.Tensor
    ) -> StepResult:
        """Forward, backward, clipping and update within one replica."""
        with tf.GradientTape() as tape:
            forward = self._forward(images, labels, training=True)
        gradients = tape.gradient(forward.losses.total, self.optimizer.targets)
        clipped, norm = tf.clip_by_global_norm(gradients, self.options.clip_norm)
        self.optimizer.apply_gradients(clipped)
        losses = tf.stack(list(forward.losses))
        # a copy: what is the same object in all replicas cannot be summed over them
        asked = tf.identity(stop)
        return StepResult(losses, forward.correct, norm, asked, observe(forward, wanted))

    def _train_step(
        self, images: tf.Tensor, labels: tf.Tensor, wanted: tf.Tensor, stop: tf.Tensor
    ) -> StepResult:
        """One update. Everything is summed over the replicas but the observation, the first's."""
        result = self.strategy.run(self.replica_step, (images, labels, wanted, stop))
        parts = result.losses, result.correct, result.norm, result.stop
        losses, correct, norm, stop = (
            self.strategy.reduce("SUM", part, axis=None) for part in parts
        )
        first = tf.nest.map_structure(
            lambda part: self.strategy.experimental_local_results(part)[0], result.observation
        )
        return StepResult(losses, correct, norm, stop, first)

    def _validation_step(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """(2,) images that the classifiers get right; inference mode, no margin."""

        def count(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            return self._forward(images, labels, training=False).correct

        counts = self.strategy.run(count, (images, labels))
        return self.strategy.reduce("SUM", counts, axis=None)

    def synchronise_statistics(self) -> None:
        """Give all replicas the mean of their moving averages, as a checkpoint holds it."""
        if self.strategy.num_replicas_in_sync > 1:
            for path, variable in named_variables(self.model):
                if path.rsplit("/", 1)[-1].startswith("moving_"):
                    variable.assign(variable.read_value())
