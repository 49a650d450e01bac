"""Split Google Landmarks v2 into training and validation: train_split.txt and test_split.txt.

    python -m vitgal.create_train_split with data_path=data/gldv2

Lines "train/a/b/c/<id>.jpg <class>". The published split was drawn without a seed and cannot be
drawn again; this one depends on the list, split_ratio and seed alone.
"""

import logging
from pathlib import Path

from sacred import Experiment

from utils.paths import REPO_ROOT
from vitgal.datasets.gldv2 import (
    load_landmarks,
    refuse_to_replace,
    split_landmarks,
    write_split,
)

logger = logging.getLogger(__name__)
ex = Experiment("vitgal_create_train_split", base_dir=str(REPO_ROOT), save_git_info=False)


@ex.config
def config():
    data_path = "data/gldv2"  # holds the list and train/; gets the split files
    csv_name = "train.csv"  # list in data_path: id and landmark_id, or landmark_id and images
    split_ratio = 0.2  # chance that an image validates; the first one of a class never does
    train_split = "train_split.txt"  # written to data_path
    val_split = "test_split.txt"  # written to data_path
    overwrite = False  # replace split files of another draw
    seed = 0  # of the draw


@ex.automain
def main(
    data_path: str,
    csv_name: str,
    split_ratio: float,
    train_split: str,
    val_split: str,
    overwrite: bool,
    seed: int,
) -> dict[str, int]:
    folder = Path(data_path)
    landmarks = load_landmarks(folder / csv_name)
    split = split_landmarks(landmarks, split_ratio, seed)
    refuse_to_replace(split, folder, train_split, val_split, overwrite)
    write_split(split, folder, train_split, val_split)
    counts = {"train": len(split.train), "val": len(split.val)}
    logger.info("%s: %d training, %d validation images", folder, *counts.values())
    return counts
