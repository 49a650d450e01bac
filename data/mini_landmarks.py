"""The generated landmark set: a test side like Revisited Oxford, a train side like GLDv2."""

import argparse
import hashlib
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from data.drawn_sets import draw_all, draw_sheet, make_side, write_picture
from data.landmarks import Geometry, Landmark, draw_landmark, photograph, relate, sample_view
from utils.paths import atomic_write

VERSION = 1  # of the drawing code: another number, other pictures
TEST, TRAIN = 1, 2  # the sides draw from separate random streams, hence other landmarks
STYLE, DETAIL, PHOTO = 1, 2, 3


class Shot(NamedTuple):
    """One photograph that has been written."""

    stem: str
    size: tuple[int, int]  # width, height
    geometry: Geometry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `make_mini landmarks`."""
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder of the two sides")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, default=70, help="queried landmarks, a query each")
    parser.add_argument("--views", type=int, default=9, help="gallery images per queried landmark")
    parser.add_argument("--distractors", type=int, default=370, help="other gallery images")
    parser.add_argument("--train-landmarks", type=int, default=3000, help="0: no train side")
    parser.add_argument("--train-views", type=int, default=5, help="images per train landmark")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that draw")
    parser.add_argument("--overwrite", action="store_true", help="replace a set drawn otherwise")


def make(options: argparse.Namespace) -> None:
    """Draw both sides; ValueError for sizes that make no set."""
    if options.queries < 1 or options.views < 1 or options.distractors < 0:
        raise ValueError(
            "need at least one query and one view, and no negative number of distractors"
        )
    if options.train_landmarks < 0 or options.train_views < 2:
        raise ValueError("a train side needs at least two images per landmark")
    sizes = {k: getattr(options, k) for k in ("queries", "views", "distractors")}
    make_side(options, options.out / "mini_landmarks", VERSION, sizes, make_test_side)
    if options.train_landmarks:
        sizes = {k: getattr(options, k) for k in ("train_landmarks", "train_views")}
        make_side(options, options.out / "mini_gldv2", VERSION, sizes, make_train_side)


def _family(side: int, index: int, queries: int) -> int:
    """Landmarks of one family share their style: every third trio, and 3 in 10 distractors."""
    if side == TEST and index >= queries and index % 10 < 3:
        return _family(side, index % queries, queries)
    return index // 3 * 3 if index // 3 % 3 == 0 else index


def make_landmark(seed: int, side: int, index: int, queries: int) -> Landmark:
    """Landmark `index` of a side; a pure function of its arguments."""
    style = np.random.default_rng([seed, side, STYLE, _family(side, index, queries)])
    return draw_landmark(style, np.random.default_rng([seed, side, DETAIL, index]))


def _shoot(landmark: Landmark, kind: str, path: Path, key: list[int], attempts: int) -> Shot:
    """Photograph until the landmark is more than junk, at most `attempts` times; save the last."""
    for attempt in range(attempts):
        rng = np.random.default_rng([*key, attempt])
        view = sample_view(rng, kind)
        picture, geometry = photograph(landmark, view, rng)
        if relate(geometry, geometry) != "junk":
            break
    write_picture(path, picture, view.quality)
    return Shot(path.stem, view.size, geometry)


def _draw_test_landmark(
    folder: Path, seed: int, queries: int, views: int, index: int
) -> list[Shot]:
    """Query and gallery images of one queried landmark, or the one image of a distractor."""
    landmark = make_landmark(seed, TEST, index, queries)
    key = [seed, TEST, PHOTO, index]
    if index >= queries:
        path = folder / "jpg" / f"city_{index - queries:06d}.jpg"
        return [_shoot(landmark, ("near", "far")[index % 2], path, [*key, 0], 8)]
    kinds = ["query"] + ["near" if v % 2 else "far" for v in range(views)]
    paths = [folder / "jpg" / f"landmark{index:03d}_{v:06d}.jpg" for v in range(views + 1)]
    attempts = [8] + [1] * views  # whatever a gallery view shows, it is labelled by the rule
    return [
        _shoot(landmark, kind, path, [*key, v], tries)
        for v, (kind, path, tries) in enumerate(zip(kinds, paths, attempts, strict=True))
    ]


def _image_id(seed: int, index: int, view: int) -> str:
    return hashlib.blake2b(f"{seed}/{index}/{view}".encode(), digest_size=8).hexdigest()


def _train_path(image_id: str) -> str:
    return f"train/{image_id[0]}/{image_id[1]}/{image_id[2]}/{image_id}.jpg"


def _draw_train_landmark(folder: Path, seed: int, views: int, index: int) -> list[Shot]:
    landmark = make_landmark(seed, TRAIN, index, 0)
    return [
        _shoot(
            landmark,
            "near" if view % 2 else "far",
            folder / _train_path(_image_id(seed, index, view)),
            [seed, TRAIN, PHOTO, index, view],
            8,
        )
        for view in range(views)
    ]


def make_test_side(folder: Path, options: argparse.Namespace) -> None:
    """jpg/, gnd_mini_landmarks.pkl, sheet.jpg; the line lists come from tools/prepare_data.py."""
    queries = options.queries
    draw = partial(_draw_test_landmark, folder, options.seed, queries, options.views)
    shots = draw_all(draw, queries + options.distractors, options.workers, "test side", "landmark")
    gallery = sorted((s.stem for i, own in enumerate(shots) for s in own[i < queries :]))
    order = np.random.default_rng([options.seed, TEST]).permutation(len(gallery))
    imlist = [gallery[i] for i in order]  # shuffled: equal scores must not favour the positives
    position = {stem: i for i, stem in enumerate(imlist)}
    gnd = []
    for own in shots[:queries]:
        lists: dict[str, Any] = {
            "bbx": list(own[0].geometry.box),
            "easy": [],
            "hard": [],
            "junk": [],
        }
        for shot in own[1:]:
            lists[relate(own[0].geometry, shot.geometry)].append(position[shot.stem])
        gnd.append(lists)
    truth = {"imlist": imlist, "qimlist": [own[0].stem for own in shots[:queries]], "gnd": gnd}
    atomic_write(folder / "gnd_mini_landmarks.pkl", pickle.dumps(truth, protocol=3))
    counts = {k: sum(len(g[k]) for g in gnd) for k in ("easy", "hard", "junk")}
    tqdm.write(f"{folder}: {queries} queries, {len(imlist)} gallery images, {counts}")
    rows = [
        [
            (
                folder / "jpg" / f"{s.stem}.jpg",
                "query" if i == 0 else relate(own[0].geometry, s.geometry),
            )
            for i, s in enumerate(own)
        ]
        for own in shots[: min(queries, 12)]
    ]
    draw_sheet(rows, folder / "sheet.jpg")


def make_train_side(folder: Path, options: argparse.Namespace) -> None:
    """train/, train.csv, train_clean.csv, train.txt and sheet.jpg."""
    draw = partial(_draw_train_landmark, folder, options.seed, options.train_views)
    shots = draw_all(draw, options.train_landmarks, options.workers, "train side", "landmark")
    lines = sorted(
        (_train_path(s.stem), label, s.size) for label, own in enumerate(shots) for s in own
    )
    txt = "\n".join(f"{path},{label},{w},{h}" for path, label, (w, h) in lines)
    csv = ["id,url,landmark_id"] + [f"{Path(path).stem},,{label}" for path, label, _ in lines]
    clean = ["landmark_id,images"] + [
        f"{label},{' '.join(sorted(s.stem for s in own))}" for label, own in enumerate(shots)
    ]
    atomic_write(folder / "train.csv", ("\n".join(csv) + "\n").encode())
    atomic_write(folder / "train_clean.csv", ("\n".join(clean) + "\n").encode())
    atomic_write(folder / "train.txt", txt.encode())
    rows = [
        [(folder / _train_path(s.stem), str(label)) for s in own]
        for label, own in enumerate(shots[:12])
    ]
    draw_sheet(rows, folder / "sheet.jpg")
