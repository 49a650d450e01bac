"""Writes the images of a split as TFRecord shards, JPEG bytes unchanged."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf
from tqdm import tqdm

from delg_training.datasets.packing import Listing, shard_boundaries, shard_name
from utils.paths import atomic_path

logger = logging.getLogger(__name__)

JPEG_START = b"\xff\xd8\xff"
CHUNK = 256  # images in memory at a time


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def make_example(path: str, image_id: str, label: int | None) -> bytes:
    """Serialised tf.train.Example of one JPEG file; ValueError naming a file that is none.

    The picture is decoded to check it and to learn its size. `label`: None for the test split.
    """
    encoded = Path(path).read_bytes()
    if not encoded.startswith(JPEG_START):  # TensorFlow would take a PNG here, but not in training
        raise ValueError(f"{path} is no JPEG image; convert it, get it again, or take it away")
    try:
        shape = tf.io.decode_jpeg(encoded, channels=3).shape
    except tf.errors.InvalidArgumentError as error:
        reason = error.message.strip().splitlines()[0]
        raise ValueError(
            f"{path} is no whole JPEG image: {reason}; get it again, or take it away"
        ) from error
    features = {
        "image/height": _int(shape[0]),
        "image/width": _int(shape[1]),
        "image/colorspace": _bytes(b"RGB"),
        "image/channels": _int(3),
        "image/format": _bytes(b"JPEG"),
        "image/id": _bytes(image_id.encode()),
        "image/encoded": _bytes(encoded),
    }
    if label is not None:
        features["image/class/label"] = _int(label)
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def _write_shard(
    path: Path, listing: Listing, with_labels: bool, pool: ThreadPoolExecutor, bar: tqdm
) -> None:
    def example(row: int) -> bytes:
        label = listing.labels[row] if with_labels else None
        return make_example(listing.paths[row], listing.ids[row], label)

    with atomic_path(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for start in range(0, len(listing), CHUNK):
            for record in pool.map(example, range(start, min(start + CHUNK, len(listing)))):
                writer.write(record)
                bar.update()


def write_split(
    folder: str | Path,
    split: str,
    listing: Listing,
    num_shards: int,
    with_labels: bool = True,
    keep: Callable[[Path], bool] = lambda path: False,
    workers: int | None = None,
) -> None:
    """Write `<split>-SSSSS-of-NNNNN` below `folder`, each in one step.

    `keep`: shards for which it says True are left as they are (resumption).
    """
    boundaries = shard_boundaries(len(listing), num_shards)
    bar = tqdm(total=len(listing), desc=f"packing {split}", unit="image")
    with ThreadPoolExecutor(workers) as pool, bar:
        for shard in range(num_shards):
            path = Path(folder) / shard_name(split, shard, num_shards)
            part = listing.take(range(boundaries[shard], boundaries[shard + 1]))
            if keep(path):
                bar.update(len(part))
            else:
                _write_shard(path, part, with_labels, pool, bar)
