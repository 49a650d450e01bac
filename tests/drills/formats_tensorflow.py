"""What the TensorFlow side reads: packed images, weights, records of runs, lists of pictures.

Nothing of torch may be loaded beside it: these formats have a process of their own.
"""

from pathlib import Path
from typing import Any

import numpy as np

from delg_training.datasets.gldv2_tfrecords import (
    UNUSABLE,
    StreamOptions,
    explain_failure,
    make_batches,
)
from delg_training.datasets.record_index import index_records
from delg_training.extraction_run import RECORD, check_record
from delg_training.models.weights import load_weights, named_variables, save_weights
from delg_training.picture_lists import list_landmarks, list_paths
from tests.delg_training.tiny_sets import NUM_CLASSES, pack_tiny_set, tiny_model
from tests.drills.reading import Format, require

STREAM = StreamOptions(3, 16, NUM_CLASSES, use_augmentation=False, shuffle_buffer=1)
MADE_FROM = {"model": "0f", "config": {"image_scales": [0.5, 1.0]}}


def read_records(folder: Path) -> Any:
    """A pass over the set; a failure is explained as the training does."""
    index = index_records(str(folder / "tfrecord/train*"))
    try:
        found = []
        for images, labels in make_batches(index, STREAM, training=True).take(2):
            require(np.isfinite(images.numpy()).all(), "pixels are not finite")
            require(((labels >= 0) & (labels < NUM_CLASSES)).numpy().all(), "labels out of range")
            found += [images.numpy(), labels.numpy()]
        return found
    except UNUSABLE as error:
        reason = explain_failure(index, STREAM, True, 0, 6)
        require(reason, f"not explained: {type(error).__name__}")
        raise ValueError(reason) from error
    finally:
        index.close()


def read_weights(folder: Path) -> Any:
    model = tiny_model(seed=1)
    load_weights(model, folder / "w")
    return {name: variable.numpy() for name, variable in named_variables(model)}


def make_lists(folder: Path) -> None:
    (folder / "list.txt").write_text("a/p0.jpg\na/p1.jpg\n")
    (folder / "train.txt").write_text("train/p0.jpg,1,640,480\ntrain/p1.jpg,2,640,480\n")


def read_lists(folder: Path) -> Any:
    found = [*list_paths(folder / "list.txt"), *list_landmarks(folder / "train.txt", "images")]
    for picture in found:
        require("\0" not in str(picture.path), "a path is no name")
    return [[p.stem, str(p.path)] for p in found]


FORMATS = {
    "tfrecord": Format(
        lambda f: pack_tiny_set(f, count=6), ("tfrecord/train-*",), read_records
    ),
    "tensorflow_weights": Format(
        lambda f: save_weights(tiny_model(), f / "w"), ("w.index", "w.data-00000-of-00001"),
        read_weights,
    ),
    "delg_record": Format(
        lambda f: check_record(f, MADE_FROM), (RECORD,), lambda f: check_record(f, MADE_FROM)
    ),
    "delg_picture_lists": Format(make_lists, ("list.txt", "train.txt"), read_lists),
}  # fmt: skip
