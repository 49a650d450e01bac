"""Pack Google Landmarks v2 into TFRecord shards for training.

    python -m delg_training.build_image_dataset with train_directory='data/gldv2/train/*/*/*/' \
        train_clean_csv_path=data/gldv2/train_clean.csv output_directory=data/gldv2/tfrecord \
        generate_train_validation_splits=True

Interrupted packing goes on with the same command: whole shards are kept.
"""

import logging
from typing import Any

from sacred import Experiment

from delg_training.packing_run import PackingOptions, pack
from utils.paths import REPO_ROOT

logger = logging.getLogger(__name__)
ex = Experiment("delg_training_build_image_dataset", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    train_directory = "data/gldv2/train/*/*/*/"  # glob prefix of the training images, *.jpg follows
    test_directory = None  # the same of the test images; needed with test_csv_path
    output_directory = "data/gldv2/tfrecord"  # where the shards go
    train_csv_path = "data/gldv2/train.csv"  # id,url,landmark_id
    train_clean_csv_path = None  # landmark_id,images: these images alone, labels renumbered
    test_csv_path = None  # switches the test split on; its content is not read
    num_shards = 128  # of each split
    generate_train_validation_splits = False  # hold images of each landmark out
    validation_split_size = 0.2  # share of a landmark's images that is held out, at least one
    seed = 0  # of the split
    skip_missing = False  # leave out images of the clean list that are not there
    workers = None  # threads that read and check images; None: chosen


@ex.named_config
def mini():
    """The generated landmarks of data/make_mini.py."""
    train_directory = "data/delg_landmarks/mini_gldv2/train/*/*/*/"
    output_directory = "data/delg_landmarks/mini_gldv2/tfrecord"
    train_csv_path = "data/delg_landmarks/mini_gldv2/train.csv"
    train_clean_csv_path = "data/delg_landmarks/mini_gldv2/train_clean.csv"
    num_shards = 8
    generate_train_validation_splits = True
    validation_split_size = 0.1


@ex.automain
def main(_config: dict[str, Any]) -> dict[str, int]:
    return pack(PackingOptions.from_config(_config))
