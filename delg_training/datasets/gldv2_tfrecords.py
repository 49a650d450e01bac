"""Batches of a set of TFRecord shards, as `delg_training.build_image_dataset` writes them.

The order of the images is that of the published pipeline: shards one after the other, for ever,
through a shuffle buffer. It is drawn on record numbers, which cost nothing, so that a stream can
start at any position (resumption) and be shared out among machines without changing a batch.
Crops are a function of seed and position too.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from delg_training.datasets.augmentation import (
    MIN_CROP_AREA,
    prepare_for_training,
    prepare_for_validation,
)
from delg_training.datasets.record_index import RecordIndex

IMAGE_KEY, LABEL_KEY = "image/encoded", "image/class/label"


# what a record that cannot be used was seen to raise
UNUSABLE = (tf.errors.InvalidArgumentError, tf.errors.UnknownError, UnicodeDecodeError)


@dataclass(frozen=True)
class StreamOptions:
    """How the images of a set become batches."""

    batch_size: int  # over all replicas and machines
    image_size: int  # pixels, height and width
    num_classes: int
    use_augmentation: bool = True  # random crops; only of a training stream
    min_crop_area: float = MIN_CROP_AREA  # of the image, smallest random crop
    shuffle_buffer: int = 100  # images; the set's size and more mix it fully
    seed: int = 0

    def check(self, replicas: int) -> None:
        """ValueError for options that could only fail later."""
        if self.batch_size < 1 or self.batch_size % replicas:
            raise ValueError(
                f"dataset.batch_size is {self.batch_size}, expected a multiple of the {replicas} "
                "replicas that share a batch"
            )
        if self.image_size < 5 or self.shuffle_buffer < 1 or self.num_classes < 2:
            raise ValueError(
                f"dataset.image_size={self.image_size}, shuffle_buffer={self.shuffle_buffer}, "
                f"num_classes={self.num_classes}: expected at least 5, 1 and 2"
            )
        if not 0 < self.min_crop_area <= 1:
            raise ValueError(
                f"dataset.min_crop_area is {self.min_crop_area}, expected a share in (0, 1]"
            )


def record_stream(count: int, options: StreamOptions, position: int = 0) -> tf.data.Dataset:
    """Position in the endless stream and record number, int64 each, from `position` on."""
    numbers = tf.data.Dataset.range(count).repeat()
    shuffled = numbers.shuffle(options.shuffle_buffer, seed=options.seed)
    return shuffled.enumerate().skip(position)


def parse_record(
    record: tf.Tensor, position: tf.Tensor, options: StreamOptions, training: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Serialised tf.train.Example -> image (S, S, 3) in [-1, 1) and label, int64."""
    features = {
        IMAGE_KEY: tf.io.FixedLenFeature([], tf.string),
        LABEL_KEY: tf.io.FixedLenFeature([], tf.int64),
    }
    example = tf.io.parse_single_example(record, features)
    encoded, label = example[IMAGE_KEY], example[LABEL_KEY]
    inside = tf.logical_and(label >= 0, label < options.num_classes)
    checks = [tf.debugging.Assert(inside, ["label outside the classes", label])]
    with tf.control_dependencies(checks):
        if training and options.use_augmentation:
            seed = tf.stack([tf.constant(options.seed, tf.int64), position])
            image = prepare_for_training(encoded, options.image_size, seed, options.min_crop_area)
        else:
            image = prepare_for_validation(encoded, options.image_size)
    return tf.ensure_shape(image, (options.image_size, options.image_size, 3)), label


def make_batches(
    index: RecordIndex,
    options: StreamOptions,
    training: bool,
    position: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batches (B, S, S, 3), (B,) from `position` of the endless stream on, one per replica.

    `context`: which share of each global batch this machine reads; None: all.
    """
    context = context or tf.distribute.InputContext()
    options.check(context.num_replicas_in_sync)
    per_replica = options.batch_size // context.num_replicas_in_sync
    share = options.batch_size // context.num_input_pipelines
    first = share * context.input_pipeline_id
    stream = record_stream(len(index), options, position)
    stream = stream.batch(options.batch_size, drop_remainder=True)
    stream = stream.map(lambda p, n: (p[first : first + share], n[first : first + share])).unbatch()

    def load(place: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        record = tf.numpy_function(
            lambda n: np.array(index.read(int(n)), object), [number], tf.string
        )
        return parse_record(tf.reshape(record, []), place, options, training)

    images = stream.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return images.batch(per_replica, drop_remainder=True).prefetch(2)


def explain_failure(
    index: RecordIndex, options: StreamOptions, training: bool, position: int, ahead: int
) -> str | None:
    """Which of the `ahead` records from `position` of the stream cannot be used, and why."""
    for place, number in record_stream(len(index), options, position).take(ahead):
        try:
            record = tf.constant(index.read(int(number)))
            parse_record(record, place, options, training)
        except UNUSABLE as error:
            # a message of TensorFlow that quotes the record may be no text
            message = getattr(error, "message", "") or "it is no tf.train.Example"
            reason = message.strip().splitlines()[0]
            return (
                f"{index.name(int(number))} cannot be used: {reason} (labels must lie in "
                f"[0, {options.num_classes}), images must be whole JPEG files); check "
                "dataset.dataset_version, or pack the images again"
            )
    return None
