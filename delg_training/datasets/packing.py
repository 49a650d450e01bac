"""Which images a packed landmark set holds, in which split, shard and order.

Everything here is numpy and the csv files of Google Landmarks v2; no picture is opened.
"""

import csv
import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.paths import atomic_path
from utils.text_files import read_table

WHOLE_NUMBER = re.compile(r"\s*-?[0-9]{1,18}\s*")  # within 64 bits
SHOWN = 10  # ids in an error message


@dataclass(frozen=True)
class Listing:
    """Images of a set with their labels, in a fixed order."""

    ids: list[str]
    paths: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Iterable[int]) -> "Listing":
        """The images `rows`, in that order."""
        rows = list(rows)
        return Listing(
            [self.ids[i] for i in rows],
            [self.paths[i] for i in rows],
            [self.labels[i] for i in rows],
        )


def find_images(directory: str) -> dict[str, str]:
    """Id (file name without `.jpg`) -> path, sorted by path; `directory` is a glob prefix.

    FileNotFoundError when there is no image.
    """
    paths = sorted(glob.glob(f"{directory}*.jpg"))
    if not paths:
        raise FileNotFoundError(
            f"no image matches {directory}*.jpg; the folder ends with a slash, each level below it "
            "is a star: data/gldv2/train/*/*/*/"
        )
    return {os.path.basename(path)[:-4]: path for path in paths}


def _rows(path: str | Path, columns: tuple[str, ...]) -> Iterable[dict[str, str]]:
    hint = f"it is a csv file with the columns {', '.join(columns)}"
    return (row for _, row in read_table(path, columns, hint))


def _label(row: dict[str, str], path: str | Path) -> int:
    if not WHOLE_NUMBER.fullmatch(row["landmark_id"]):
        raise ValueError(f"{path}: landmark_id is no integer in {str(row)[:300]}")
    return int(row["landmark_id"])


def list_all(images: dict[str, str], train_csv: str | Path) -> Listing:
    """Every image found, in the order of the paths, with the label of `train.csv`."""
    wanted = set(images)
    labels = {
        row["id"]: _label(row, train_csv)
        for row in _rows(train_csv, ("id", "landmark_id"))
        if row["id"] in wanted
    }
    unknown = [i for i in images if i not in labels]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(images)} images are not in {train_csv}: "
            f"{', '.join(unknown[:SHOWN])}; take them away or give the csv file of this set"
        )
    return Listing(list(images), list(images.values()), [labels[i] for i in images])


def list_clean(
    images: dict[str, str], clean_csv: str | Path, skip_missing: bool = False
) -> tuple[Listing, int]:
    """The images of the clean list in its order, and how many of it are not there.

    A repeated id keeps its first place and its last label. FileNotFoundError for absent images
    unless `skip_missing`.
    """
    labels: dict[str, int] = {}
    for row in _rows(clean_csv, ("landmark_id", "images")):
        label = _label(row, clean_csv)
        labels.update(dict.fromkeys(row["images"].split(), label))
    absent = [i for i in labels if i not in images]
    if absent and not skip_missing:
        raise FileNotFoundError(
            f"{len(absent)} of {len(labels)} images of {clean_csv} are not there: "
            f"{', '.join(absent[:SHOWN])}; download the rest (download_dataset.sh), or leave them "
            "out with skip_missing=True"
        )
    kept = [i for i in labels if i in images]
    return Listing(kept, [images[i] for i in kept], [labels[i] for i in kept]), len(absent)


def relabel(listing: Listing) -> tuple[Listing, list[int]]:
    """Labels become their rank among the sorted old ones, which are returned."""
    old = sorted(set(listing.labels))
    rank = {label: i for i, label in enumerate(old)}
    return Listing(listing.ids, listing.paths, [rank[label] for label in listing.labels]), old


def write_relabeling(path: str | Path, old_labels: Sequence[int]) -> None:
    """csv file with the columns new_label, old_label and CRLF line ends."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("new_label", "old_label"))
        writer.writerows(enumerate(old_labels))


def split_by_label(
    labels: Sequence[int], validation_split_size: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the validation and of the training images, shuffled.

    Of each label max(1, floor(share * count)) images validate; one with a single image has none to
    train on.
    """
    if not 0 < validation_split_size < 1:
        raise ValueError(
            f"validation_split_size is {validation_split_size}, expected a share between 0 and 1"
        )
    # the published stream: not that of RandomState(seed)
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    rows: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    validation, train = [], []
    for own in rows.values():
        order = np.arange(len(own))
        random.shuffle(order)
        mixed = np.asarray(own)[order]
        held_out = max(1, int(np.floor(validation_split_size * len(own))))
        validation.append(mixed[:held_out])
        train.append(mixed[held_out:])
    both = np.concatenate(validation), np.concatenate(train)
    for part in both:
        random.shuffle(part)
    return both


def shard_boundaries(items: int, num_shards: int) -> np.ndarray:
    """(num_shards + 1,) int64: shard s holds the items from boundary s to boundary s + 1."""
    if num_shards < 1:
        raise ValueError(f"num_shards is {num_shards}, expected 1 or more")
    return np.linspace(0, items, num_shards + 1).astype(np.int64)


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """`train-00000-of-00128`."""
    return f"{split}-{shard:05d}-of-{num_shards:05d}"
