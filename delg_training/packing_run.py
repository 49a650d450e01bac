"""Packing of a landmark set from its folders to its shards: list, relabel, split, write."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from delg_training.datasets.packing import (
    Listing,
    find_images,
    list_all,
    list_clean,
    relabel,
    split_by_label,
    write_relabeling,
)
from delg_training.datasets.record_writing import write_split
from utils.paths import atomic_write

logger = logging.getLogger(__name__)

RECORD = "packing.json"  # what the shards in a folder were made from
RELABELING = "relabeling.csv"


@dataclass(frozen=True)
class PackingOptions:
    """Options named as the flags of the published script; see build_image_dataset."""

    train_directory: str
    output_directory: str
    train_csv_path: str
    test_directory: str | None = None
    train_clean_csv_path: str | None = None
    test_csv_path: str | None = None
    num_shards: int = 128
    generate_train_validation_splits: bool = False
    validation_split_size: float = 0.2
    seed: int = 0
    skip_missing: bool = False
    workers: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "PackingOptions":
        """Those of a sacred run."""
        return cls(**{field.name: config[field.name] for field in fields(cls)})

    def check(self) -> None:
        """ValueError for options that could only fail later."""
        if self.num_shards < 1:
            raise ValueError(f"num_shards is {self.num_shards}, expected 1 or more")
        if self.generate_train_validation_splits and not 0 < self.validation_split_size < 1:
            raise ValueError(
                f"validation_split_size is {self.validation_split_size}, expected a share between "
                "0 and 1"
            )
        if self.test_csv_path is not None and self.test_directory is None:
            raise ValueError("test_csv_path asks for the test split: give test_directory too")


def _list_training(options: PackingOptions) -> Listing:
    images = find_images(options.train_directory)
    if options.train_clean_csv_path is None:
        return list_all(images, options.train_csv_path)
    listing, absent = list_clean(images, options.train_clean_csv_path, options.skip_missing)
    if absent:
        logger.warning("%d images of the clean list are not there and left out", absent)
    if not len(listing):
        raise ValueError(f"no image of {options.train_clean_csv_path} is there")
    listing, old_labels = relabel(listing)
    write_relabeling(Path(options.output_directory) / RELABELING, old_labels)
    return listing


def _splits(options: PackingOptions) -> dict[str, Listing]:
    """Split name -> images, in the order of writing: validation, train, test."""
    listing = _list_training(options)
    splits = {"train": listing}
    if options.generate_train_validation_splits:
        validation, train = split_by_label(
            listing.labels, options.validation_split_size, options.seed
        )
        splits = {"validation": listing.take(validation), "train": listing.take(train)}
    if options.test_csv_path is not None:
        images = find_images(str(options.test_directory))
        splits["test"] = Listing(list(images), list(images.values()), [0] * len(images))
    return splits


def _fingerprint(listing: Listing) -> str:
    """Hash of ids and labels in their order."""
    lines = (f"{i} {label}\n" for i, label in zip(listing.ids, listing.labels, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _same_as_before(options: PackingOptions, splits: dict[str, Listing]) -> bool:
    """Whether the folder's shards come from the same images; leaves a record of the new ones."""
    path = Path(options.output_directory) / RECORD
    record = {
        "num_shards": options.num_shards,
        "images": {name: _fingerprint(own) for name, own in splits.items()},
    }
    data = json.dumps(record, indent=1).encode()
    same = path.is_file() and path.read_bytes() == data
    if not same:
        atomic_write(path, data)
    return same


def pack(options: PackingOptions) -> dict[str, int]:
    """Write all shards; returns the number of images per split and of classes."""
    options.check()
    splits = _splits(options)
    same = _same_as_before(options, splits)
    for name, listing in splits.items():
        write_split(
            options.output_directory,
            name,
            listing,
            options.num_shards,
            with_labels=name != "test",
            keep=lambda path: same and path.is_file(),
            workers=options.workers,
        )
    labels = {label for name, own in splits.items() if name != "test" for label in own.labels}
    counts = {name: len(own) for name, own in splits.items()} | {"classes": len(labels)}
    logger.info("%s: %s", options.output_directory, counts)
    return counts
