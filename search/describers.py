"""Photographs -> descriptors of one store, by each way that the repository has.

A describer is called with photographs and yields their descriptors in order; `made_from` says what
they are made from, so that a store of other weights or settings is recognised.
"""

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image

from rrt_gld.sift import Codebook, compute_locals, compute_vlad, crop, load_codebook, load_grey
from search.photographs import Photograph
from search.store import Described
from utils.descriptors import LocalFeatures, read_global, read_local
from utils.paths import REPO_ROOT, require_file, require_files
from utils.text_files import read_json

CODEBOOK = REPO_ROOT / "rrt_gld/rrt_gld_ckpts/mini_sift_codebook.npz"
NAMES = ("sift", "vitgal", "r2former", "delg-files")
MAX_LOCALS = {"sift": 500, "vitgal": 1000, "r2former": 500, "delg-files": 1000}
FEW = 32  # photographs that are not worth a pool of processes


class Describer(Protocol):
    """What a store is extended with."""

    made_from: dict[str, Any]

    def __call__(self, photographs: Sequence[Photograph]) -> Iterator[Described]:
        """Their descriptors, in order; ValueError names a photograph that cannot be read."""

    def mark(self, photographs: Sequence[Photograph]) -> list[Photograph]:
        """The photographs, their keys changed where other files than the pictures count."""


def make_describer(
    name: str, weights: Path | None = None, max_locals: int | None = None,
    delg_dir: Path | None = None, workers: int | None = None,
) -> Describer:  # fmt: skip
    """The describer called `name`; ValueError for an unknown one, or where its files are missing.

    `weights`: checkpoint of vitgal or r2former. `delg_dir`: folder of `<stem>.delg_global` and
    `.delg_local`. `max_locals`: local features kept; None: as the system does. `workers`: processes
    that read images; None: one per core.
    """
    if name not in NAMES:
        raise ValueError(f"global is {name!r}, expected one of {', '.join(NAMES)}")
    limit = MAX_LOCALS[name] if max_locals is None else max_locals
    if limit < 1:
        raise ValueError(f"max_locals is {limit}, expected at least 1")
    workers = (os.cpu_count() or 1) if workers is None else workers
    if name == "sift":
        return SiftDescriber(limit, workers=workers)
    if name == "delg-files":
        if delg_dir is None:
            raise ValueError(
                "delg-files reads descriptors that were extracted before: name their folder with "
                "--delg-dir (delg_scripts extract them)"
            )
        return DelgFiles(delg_dir, limit)
    if weights is None:
        raise ValueError(
            f"{name} needs the weights of a network: give a checkpoint with --weights "
            f"({name}/README.md says where it comes from); sift needs none"
        )
    from search import networks  # here: sift and files do without the networks

    if name == "vitgal":
        return networks.VitgalDescriber(weights, limit, workers)
    return networks.R2FormerDescriber(weights, limit, workers)


class SiftDescriber:
    """RootSIFT and their VLAD (rrt_gld.sift); in several processes where there are many images."""

    def __init__(
        self, max_locals: int, max_image_size: int = 1024, codebook: Path = CODEBOOK,
        workers: int = 1,
    ) -> None:  # fmt: skip
        self.codebook = load_codebook(require_file(codebook, "it is tracked; fetch it again"))
        self.workers = workers
        self.made_from = {
            "descriptor": "sift",
            "codebook": hashlib.sha256(self.codebook.centres.tobytes()).hexdigest()[:16],
            "max_locals": max_locals,
            "max_image_size": max_image_size,
        }
        self._work: Callable[[Photograph], Described] = partial(
            describe_by_sift, codebook=self.codebook, max_locals=max_locals,
            max_image_size=max_image_size,
        )  # fmt: skip

    def __call__(self, photographs: Sequence[Photograph]) -> Iterator[Described]:
        if self.workers < 2 or len(photographs) < FEW:
            yield from map(self._work, photographs)
            return
        context = multiprocessing.get_context("spawn")
        with context.Pool(self.workers, initializer=_single_thread) as pool:
            yield from pool.imap(self._work, photographs, chunksize=8)

    def mark(self, photographs: Sequence[Photograph]) -> list[Photograph]:
        return list(photographs)


def describe_by_sift(
    photo: Photograph, codebook: Codebook, max_locals: int, max_image_size: int
) -> Described:
    """One photograph, as rrt_gld.tools.extract_sift describes it."""
    image = load_grey(photo.path)
    try:
        part = image if photo.box is None else crop(image, photo.box)
        features = compute_locals(image, max_locals, max_image_size, photo.box)
    except ValueError as error:
        raise ValueError(f"{photo.path}: {error}") from error
    height, width = part.shape[:2]
    if not len(features):  # the width is that of all others
        nothing = np.zeros(0, np.float32)
        features = LocalFeatures(nothing, nothing, np.zeros((0, 128), np.float32), nothing)
    return Described(compute_vlad(features.descriptors, codebook), features, (height, width))


def _single_thread() -> None:
    cv2.setNumThreads(1)


class DelgFiles:
    """Descriptor files of DELG or DELF, made before in a process (and framework) of their own."""

    def __init__(self, folder: Path, max_locals: int) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is not a folder of DELG descriptors; extract them first (delg_scripts)"
            )
        self.folder, self.max_locals = folder, max_locals
        record = folder / "extracted.json"
        self.made_from = {
            "descriptor": "delg-files",
            "record": read_json(record, "extract the descriptors again")
            if record.is_file()
            else None,
            "max_locals": max_locals,
        }

    def _files(self, photo: Photograph) -> tuple[Path, Path]:
        stem = photo.path.stem
        return self.folder / f"{stem}.delg_global", self.folder / f"{stem}.delg_local"

    def __call__(self, photographs: Sequence[Photograph]) -> Iterator[Described]:
        for photo in photographs:
            globals_, locals_ = self._files(photo)
            global_ = read_global(globals_)
            if not len(global_):
                raise ValueError(
                    f"{globals_} is empty: {photo.path} was too small to describe; leave it out"
                )
            features = read_local(locals_, max_features=self.max_locals)
            yield Described(global_, features, read_size(photo))

    def mark(self, photographs: Sequence[Photograph]) -> list[Photograph]:
        """Descriptors extracted again count as changed; FileNotFoundError names missing ones."""
        files = [file for photo in photographs for file in self._files(photo)]
        require_files(files, f"extract the descriptors into {self.folder} (delg_scripts)")
        marked = []
        for photo in photographs:
            status = [file.stat() for file in self._files(photo)]
            stamp = "|".join(f"{entry.st_size}|{entry.st_mtime_ns}" for entry in status)
            marked.append(photo._replace(key=f"{photo.key}|{stamp}"))
        return marked


def read_size(photo: Photograph) -> tuple[int, int]:
    """Height and width in pixels of a photograph, or of its box; only the head is read."""
    if photo.box is not None:
        x1, y1, x2, y2 = photo.box
        return max(1, round(y2 - y1)), max(1, round(x2 - x1))
    try:
        with Image.open(photo.path) as image:
            return image.height, image.width
    except (OSError, ValueError) as error:
        raise ValueError(f"{photo.path} is no readable picture ({error})") from error
