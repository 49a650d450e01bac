"""Summaries of a training run for TensorBoard, under the published names.

Written through TensorFlow's own writer: `tf.summary.scalar` would ask for the package tensorboard,
which only the viewer needs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from delg_training.datasets.augmentation import denormalise
from delg_training.training import Observation

FOLDER = "train_logs"
FLUSH_MILLISECONDS = 10_000
PERCENTILES = (25, 50, 75)
PICTURES = 3  # shown of a batch


def attention_pictures(prob: tf.Tensor) -> tf.Tensor:
    """(B, h, w, 1) -> the same scaled to [0, 1) by its largest value."""
    return prob / tf.reduce_max(prob + 1e-3)


def _metadata(plugin: str) -> Any:
    """Which part of TensorBoard shows a tensor."""
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    return metadata


def _encode_pictures(pictures: tf.Tensor) -> tf.Tensor:
    """(B, h, w, 1 or 3) in [0, 1] -> width, height and PNG files, the strings of TensorBoard."""
    pixels = tf.image.convert_image_dtype(pictures[:PICTURES], tf.uint8, saturate=True)
    files = [tf.io.encode_png(picture) for picture in pixels]
    height, width = (str(side) for side in pictures.shape[1:3])
    return tf.stack([tf.constant(width), tf.constant(height), *files])


class Summaries:
    """Writes `<logdir>/train_logs`; with `write` False nothing (further machines)."""

    def __init__(self, logdir: str | Path, write: bool = True) -> None:
        self._writer = tf.summary.create_noop_writer()
        if write:
            self._writer = tf.summary.create_file_writer(
                str(Path(logdir) / FOLDER), flush_millis=FLUSH_MILLISECONDS
            )

    def scalars(self, values: dict[str, Any], step: int) -> None:
        """Numbers after update number `step`."""
        with self._writer.as_default():
            for name, value in values.items():
                number = tf.cast(value, tf.float32)
                tf.summary.write(name, number, step, _metadata("scalars"))

    def pictures(self, name: str, pictures: tf.Tensor, step: int) -> None:
        """The first of (B, h, w, 1 or 3) in [0, 1]."""
        with self._writer.as_default():
            tf.summary.write(name, _encode_pictures(pictures), step, _metadata("images"))

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
        self.scalars(values | {f"sparsity/{k}": v for k, v in seen.sparsity.items()}, step)
        self.pictures("batch_images", denormalise(images), step)
        self.pictures("batch_attention", attention_pictures(seen.prob), step)

    def close(self) -> None:
        """Write what is held back."""
        self._writer.close()
