"""Summaries of a training run for TensorBoard, under the published names."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from delg_training.datasets.augmentation import denormalise
from delg_training.training import Observation

FOLDER = "train_logs"
FLUSH_MILLISECONDS = 10_000
PERCENTILES = (25, 50, 75)


def attention_pictures(prob: tf.Tensor) -> tf.Tensor:
    """(B, h, w, 1) -> the same scaled to [0, 1) by its largest value."""
    return prob / tf.reduce_max(prob + 1e-3)


class Summaries:
    """Writes `<logdir>/train_logs`; with `write` False nothing (further machines)."""

    def __init__(self, logdir: str | Path, write: bool = True) -> None:
        self._writer = tf.summary.create_noop_writer()
        if write:
            self._writer = tf.summary.create_file_writer(
                str(Path(logdir) / FOLDER), flush_millis=FLUSH_MILLISECONDS
            )

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Numbers after update number `step`."""
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def observation(self, images: tf.Tensor, seen: Observation, step: int) -> None:
        """Pictures (B, S, S, 3), attention maps and their statistics, sparsity of the blocks."""
        prob = np.asarray(seen.prob)
        low, middle, high = np.percentile(prob, PERCENTILES, method="nearest")
        values: dict[str, Any] = {
            "image_range/max": tf.reduce_max(images),
            "image_range/min": tf.reduce_min(images),
            "attention/max": prob.max(),
            "attention/min": prob.min(),
            "attention/mean": prob.mean(),
            "attention/percent_25": low,
            "attention/percent_50": middle,
            "attention/percent_75": high,
        }
        values |= {f"sparsity/{block}": share for block, share in seen.sparsity.items()}
        self.scalars(values, step)
        with self._writer.as_default(step=step):
            tf.summary.image("batch_images", denormalise(images))
            tf.summary.image("batch_attention", attention_pictures(seen.prob))

    def close(self) -> None:
        """Write what is held back."""
        self._writer.close()
