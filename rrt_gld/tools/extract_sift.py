"""Extract RootSIFT locals and a RootSIFT-VLAD global per photograph, as DELG descriptor files.

    python -m rrt_gld.tools.extract_sift with gnd_file=gnd_mini_landmarks.pkl
    python -m rrt_gld.tools.extract_sift with data_dir=data/mini_gldv2 line_lists=train.txt
    python -m rrt_gld.tools.extract_sift with data_dir=MY_PHOTOS line_lists=None

Files not older than their picture are kept, so an interrupted run goes on where it stopped. With
`train_words=True` the VLAD words are learned from these pictures first; else the tracked codebook
is used.
"""

import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from sacred import Experiment
from tqdm import tqdm

from rrt_gld.sift import (
    Box,
    Codebook,
    as_box,
    compute_locals,
    compute_vlad,
    load_codebook,
    load_grey,
    train_codebook,
)
from utils.descriptors import write_global, write_local
from utils.paths import REPO_ROOT, atomic_path, atomic_write, require_file, require_files
from utils.revisited import load_ground_truth
from utils.text_files import read_json, read_text

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
logger = logging.getLogger(__name__)
ex = Experiment("rrt_gld_extract_sift", base_dir=REPO_ROOT, save_git_info=False)


@ex.config
def config():
    data_dir = "data/mini_landmarks"  # holds the pictures and the line lists
    line_lists = ["test_query.txt", "test_gallery.txt"]  # or None: every picture below data_dir
    gnd_file = None  # ground truth below data_dir whose boxes crop the queries
    out_dir = f"{data_dir}/delg_sift"
    codebook = "rrt_gld/rrt_gld_ckpts/mini_sift_codebook.npz"
    train_words = False  # learn the codebook from these pictures and write it
    max_features = 200  # locals kept per picture, strongest first
    max_image_size = 1024  # longer side in pixels; larger pictures are shrunk
    num_workers = os.cpu_count()
    overwrite = False  # replace descriptors that were extracted with other settings
    seed = 0


class Picture(NamedTuple):
    """One picture to describe: `stem` names its output files; `box` in pixels crops it."""

    stem: str
    path: Path
    box: Box | None = None


def list_pictures(
    data_dir: Path,
    line_lists: Sequence[str] | None,
    gnd_file: str | None,
    unique_stems: bool = True,
) -> list[Picture]:
    """The pictures of the line lists, or all below `data_dir`; every missing one is named.

    `unique_stems`: ValueError when two pictures would write the same descriptor files.
    """
    if line_lists is None:
        found = sorted(p for p in data_dir.rglob("*") if p.suffix.lower() in EXTENSIONS)
        paths = [p for p in found if not _is_set_aside(p.relative_to(data_dir))]
        if not paths:
            raise FileNotFoundError(
                f"no picture ({', '.join(sorted(EXTENSIONS))}) below {data_dir}"
            )
    else:
        lists = [
            require_file(data_dir / name, "run rrt_gld.tools.prepare_data first")
            for name in line_lists
        ]
        lines = [
            line
            for path in lists
            for line in read_text(path, "run rrt_gld.tools.prepare_data again").splitlines()
            if line
        ]
        paths = require_files(
            [data_dir / line.split(",")[0] for line in lines], "bring the pictures"
        )
    stems = [path.stem for path in paths]
    if unique_stems and len(set(stems)) < len(stems):
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})[:10]
        raise ValueError(
            f"pictures below {data_dir} share their names, rename them: {', '.join(twice)}"
        )
    boxes: dict[str, Box] = {}
    if gnd_file:
        truth = load_ground_truth(data_dir / gnd_file)
        boxes = {stem: as_box(g["bbx"]) for stem, g in zip(truth.qimlist, truth.gnd, strict=True)}
    return [Picture(path.stem, path, boxes.get(path.stem)) for path in paths]


def _is_set_aside(path: Path) -> bool:
    """Whether a part of the path below the set's folder is hidden or holds descriptors."""
    return any(part.startswith((".", "delg_")) for part in path.parts)


def _single_thread() -> None:
    cv2.setNumThreads(1)


def _extract(
    picture: Picture, out_dir: Path, codebook: Codebook, max_features: int, max_image_size: int
) -> int:
    """Write both files of one picture; returns its number of locals."""
    features = compute_locals(load_grey(picture.path), max_features, max_image_size, picture.box)
    write_global(
        out_dir / f"{picture.stem}.delg_global", compute_vlad(features.descriptors, codebook)
    )
    write_local(
        out_dir / f"{picture.stem}.delg_local", features
    )  # last: it marks the picture as done
    return len(features)


def is_done(picture: Picture, out_dir: Path) -> bool:
    """Whether the picture has descriptors that are not older than itself."""
    written = out_dir / f"{picture.stem}.delg_local"
    return written.is_file() and written.stat().st_mtime_ns >= picture.path.stat().st_mtime_ns


def extract_all(
    pictures: Sequence[Picture],
    out_dir: Path,
    codebook_path: Path,
    max_features: int,
    max_image_size: int = 1024,
    num_workers: int = 1,
    overwrite: bool = False,
) -> int:
    """Describe every picture that has no files yet, or older ones; returns how many.

    Two files per picture in `out_dir`: `<stem>.delg_global` (2048,) and `<stem>.delg_local`.
    ValueError when the folder holds descriptors of other settings and not `overwrite`.
    """
    hint = "set train_words=True to learn it from these pictures"
    codebook = load_codebook(require_file(codebook_path, hint))
    made_from = {
        "descriptor": "RootSIFT + VLAD",
        "codebook": hashlib.sha256(codebook.centres.tobytes()).hexdigest()[:16],
        "max_features": max_features,
        "max_image_size": max_image_size,
    }
    check_record(out_dir, made_from, overwrite)
    todo = [picture for picture in pictures if not is_done(picture, out_dir)]
    work = partial(
        _extract,
        out_dir=out_dir,
        codebook=codebook,
        max_features=max_features,
        max_image_size=max_image_size,
    )
    bar = partial(tqdm, total=len(todo), desc="SIFT", unit="image", smoothing=0.05)
    if num_workers <= 1 or len(todo) < 32:
        for picture in bar(todo):
            work(picture)
        return len(todo)
    with multiprocessing.get_context("spawn").Pool(num_workers, initializer=_single_thread) as pool:
        for _ in bar(pool.imap_unordered(work, todo, chunksize=8)):
            pass
    return len(todo)


def learn_codebook(
    pictures: Sequence[Picture],
    max_features: int,
    max_image_size: int,
    seed: int,
    images: int = 600,
) -> Codebook:
    """A codebook from the locals of up to `images` of the pictures, drawn by `seed`."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(pictures))[:images]
    sample = [
        compute_locals(
            load_grey(pictures[i].path), max_features, max_image_size, pictures[i].box
        ).descriptors
        for i in tqdm(chosen, desc="codebook", unit="image")
    ]
    return train_codebook(np.concatenate(sample), seed)


def save_codebook(path: Path, codebook: Codebook) -> None:
    """Write a codebook in one step."""
    with atomic_path(path) as temporary:
        np.savez(temporary, centres=codebook.centres, mean=codebook.mean)


def _read_record(path: Path, overwrite: bool) -> Any:
    """The record; of a damaged one None where it is to be replaced."""
    try:
        return read_json(path, "choose another out_dir or set overwrite=True")
    except ValueError:
        if not overwrite:
            raise
        return None


def check_record(out_dir: Path, made_from: dict, overwrite: bool) -> None:
    """Refuse to add to descriptors of other settings; write down what these are made from."""
    record = out_dir / "extracted.json"
    found = _read_record(record, overwrite) if record.exists() else made_from
    if found != made_from:
        if not overwrite:
            raise ValueError(
                f"{out_dir} holds descriptors made with {found}, wanted {made_from}; "
                "choose another out_dir or set overwrite=True"
            )
        for path in (*out_dir.glob("*.delg_local"), *out_dir.glob("*.delg_global")):
            path.unlink()
    atomic_write(record, (json.dumps(made_from, indent=1) + "\n").encode())


@ex.automain
def main(
    data_dir,
    line_lists,
    gnd_file,
    out_dir,
    codebook,
    train_words,
    max_features,
    max_image_size,
    num_workers,
    overwrite,
    seed,
    _log,
):
    lists = [line_lists] if isinstance(line_lists, str) else line_lists
    pictures = list_pictures(Path(data_dir), lists, gnd_file)
    if train_words:
        save_codebook(Path(codebook), learn_codebook(pictures, max_features, max_image_size, seed))
    new = extract_all(
        pictures,
        Path(out_dir),
        Path(codebook),
        max_features,
        max_image_size,
        num_workers,
        overwrite,
    )
    _log.info(
        "%d pictures described, %d kept; descriptors in %s", new, len(pictures) - new, out_dir
    )
    return {"images": len(pictures), "extracted": new}
