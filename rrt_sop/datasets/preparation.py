"""From the official archive of Stanford Online Products to the list files of training and test."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rrt_sop.datasets.archive import archive_name, extract, is_address
from rrt_sop.datasets.list_file import Listing, load_class_list, write_list_file
from utils.downloads import download
from utils.paths import require_files

logger = logging.getLogger(__name__)

OFFICIAL_LISTS = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}


class Counts(NamedTuple):
    """What a list must hold; None: anything."""

    images: int | None = None
    classes: int | None = None


def obtain(folder: Path, source: str | None) -> None:
    """See that `folder` holds the official lists and images, fetching and unpacking if needed.

    `source`: address or path of the zip, or an unpacked folder elsewhere, which `folder` then
    becomes a link to.
    """
    if all((folder / name).is_file() for name in OFFICIAL_LISTS.values()):
        logger.info("%s is unpacked already", folder)
        return
    if source is None:
        raise FileNotFoundError(
            f"{folder} does not hold {' and '.join(OFFICIAL_LISTS.values())}; give an address, a "
            "zip or an unpacked folder as sop_url, or the folder as sop_dir"
        )
    if is_address(source):
        archive = download(source, folder.parent / archive_name(source), "give its path as sop_url")
    else:
        archive = Path(source)
    if archive.is_dir():
        _link(folder, archive)
        return
    if not archive.is_file():
        raise FileNotFoundError(f"{archive} does not exist; give the official zip as sop_url")
    lists = tuple(OFFICIAL_LISTS.values())
    extract(archive, folder, lists[0], lists)
    if not all((folder / name).is_file() for name in lists):
        raise ValueError(f"{archive} holds no {lists[1]}; give the official archive")


def _link(folder: Path, unpacked: Path) -> None:
    missing = [name for name in OFFICIAL_LISTS.values() if not (unpacked / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{unpacked} does not hold {' and '.join(missing)}; give the folder that does, as "
            "unpacked from the official archive"
        )
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(
            f"{folder} is there, but without {' and '.join(OFFICIAL_LISTS.values())}; move it "
            f"away, or work in the other folder with sop_dir={unpacked}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(unpacked.resolve(), target_is_directory=True)
    logger.info("%s is now a link to %s", folder, unpacked)


def check_counts(path: Path, listing: Listing, counts: Counts, option: str) -> None:
    """ValueError when a list does not hold the expected numbers of images and classes."""
    found = Counts(len(listing.paths), len(np.unique(listing.class_ids)))
    wrong = [w is not None and w != f for w, f in zip(counts, found, strict=True)]
    if any(wrong):
        raise ValueError(
            f"{path} lists {found.images} images of {found.classes} classes, expected "
            f"{counts.images} of {counts.classes}; unpack the official archive again, or, for "
            f"another set, give {option}_images and {option}_classes (None: any number)"
        )


def write_lists(
    folder: Path,
    files: dict[str, str],
    counts: dict[str, Counts],
    overwrite: bool = False,
) -> dict[str, dict[str, int]]:
    """Write `<folder>/<file>` for train and test; returns their numbers of images and classes.

    All checks come first: counts, every image there, no list of other content in the way.
    """
    listings = {}
    for split, official in OFFICIAL_LISTS.items():
        listings[split] = load_class_list(folder / official)
        check_counts(folder / official, listings[split], counts[split], split)
    shared = np.intersect1d(listings["train"].class_ids, listings["test"].class_ids)
    if len(shared):
        raise ValueError(
            f"{folder}: {len(shared)} classes are in both lists (the first is {shared[0] + 1}), "
            "expected test classes that training has not seen; unpack the official archive again"
        )
    names = [folder / name for listing in listings.values() for name in listing.paths]
    hint = "the archive is unpacked in part: delete Ebay_train.txt and run again with sop_url"
    require_files(names, hint)
    for split, name in files.items():
        text = listings[split]
        _write_unless_there(folder / name, text, overwrite)
    return {
        split: {"images": len(x.paths), "classes": len(np.unique(x.class_ids))}
        for split, x in listings.items()
    }


def _write_unless_there(path: Path, listing: Listing, overwrite: bool) -> None:
    lines = zip(listing.paths, listing.class_ids.tolist(), strict=True)
    wanted = "\n".join(f"{name},{class_id}" for name, class_id in lines)
    if path.is_file() and not overwrite:
        if path.read_text(encoding="utf-8") == wanted:
            logger.info("%s is there already", path)
            return
        raise FileExistsError(
            f"{path} is there with other content; overwrite=True replaces it, or give other names "
            "as train_file and test_file"
        )
    write_list_file(path, listing.paths, listing.class_ids.tolist())
