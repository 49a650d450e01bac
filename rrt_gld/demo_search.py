"""What the demo searches: the generated landmarks, or a folder of photographs."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import make_mini
from rrt_gld.datasets.image_set import ImageSet
from rrt_gld.datasets.line_lists import write_line_list
from rrt_gld.datasets.revisited_lists import write_revisited_lists
from rrt_gld.global_retrieval import normalize
from rrt_gld.sift import Box, as_box
from rrt_gld.tools.extract_sift import Picture, extract_all, list_pictures
from utils.knn import search as search_knn
from utils.paths import REPO_ROOT
from utils.revisited import GroundTruth, load_ground_truth

CODEBOOK = REPO_ROOT / "rrt_gld/rrt_gld_ckpts/mini_sift_codebook.npz"
MINI_LOCALS = 200  # extracted per image of the generated set
PHOTO_LOCALS = 500  # extracted per photograph
USED_LOCALS = 64  # strongest ones that the matcher reads: dataset.mini_sift
LISTS = ("test_query.txt", "test_gallery.txt")


class Search(NamedTuple):
    """Queries, gallery and the global ranking; `gnd` is None without ground truth."""

    name: str
    queries: ImageSet
    gallery: ImageSet
    verified: tuple[ImageSet, ImageSet]  # the same with all their locals, for geometry
    query_paths: list[Path]
    gallery_paths: list[Path]
    boxes: list[Box | None]  # of the queries, pixels
    nn_inds: np.ndarray  # (Q, K) int64 gallery indices, nearest first, the query itself left out
    gnd: GroundTruth | None

    def head_pairs(self, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """((Q * top_k, 2) pairs in order of the heads, (Q, top_k) heads)."""
        head = self.nn_inds[:, :top_k]
        rows = np.repeat(np.arange(len(head)), head.shape[1])
        return np.stack([rows, head.ravel()], axis=1), head


def _rank(queries: ImageSet, gallery: ImageSet, exclude: np.ndarray | None) -> np.ndarray:
    """Full global ranking (Q, G), or (Q, G - 1) without the gallery image `exclude` (Q,)."""
    vectors = normalize(queries.global_descriptors()), normalize(gallery.global_descriptors())
    _, nn_inds = search_knn(*vectors, len(gallery), progress=False)
    if exclude is None:
        return nn_inds
    return nn_inds[nn_inds != exclude[:, None]].reshape(len(nn_inds), -1)


def _load_sets(data_dir: Path, used: int = USED_LOCALS) -> tuple[ImageSet, ImageSet]:
    queries, gallery = (ImageSet(data_dir, txt, "sift", used, 128, None, CODEBOOK) for txt in LISTS)
    return queries, gallery


def _extract(pictures: Sequence[Picture], out_dir: Path, max_features: int) -> None:
    extract_all(pictures, out_dir, CODEBOOK, max_features, num_workers=os.cpu_count() or 1)


def make_mini_search(root: Path) -> Search:
    """The generated landmarks below `root`: drawn, described and ranked, whatever is missing."""
    if make_mini.main(["landmarks", "--out", str(root), "--train-landmarks", "0"]):
        raise ValueError("the generated set could not be drawn, see above")
    folder, gnd_name = root / "mini_landmarks", "gnd_mini_landmarks.pkl"
    write_revisited_lists(folder, gnd_name)
    pictures = list_pictures(folder, LISTS, gnd_name)
    _extract(pictures, folder / "delg_sift", MINI_LOCALS)
    gnd = load_ground_truth(folder / gnd_name)
    queries, gallery = _load_sets(folder)
    paths = [picture.path for picture in pictures]
    split = len(queries)
    return Search(
        "mini_landmarks", queries, gallery, _load_sets(folder, PHOTO_LOCALS),
        paths[:split], paths[split:], [picture.box for picture in pictures[:split]],
        _rank(queries, gallery, None), gnd,
    )  # fmt: skip


def make_folder_search(folder: Path, out: Path, max_queries: int) -> Search:
    """The photographs below `folder`; descriptors and lists go to `out`.

    Without a ground truth up to `max_queries` photographs, evenly spread, are searched among all
    others. FileNotFoundError or ValueError: no photographs, or too few; more than one ground truth;
    photographs that the ground truth names and the folder lacks.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give one that holds photographs")
    photos = list_photos(folder)
    truths = sorted(folder.glob("gnd_*.pkl"))
    if len(truths) > 1:
        raise ValueError(f"{folder} holds {len(truths)} ground truths, leave one: {truths[:10]}")
    if truths:
        gnd = load_ground_truth(truths[0])
        by_stem = {path.stem: path for path in photos}
        names = [*gnd.qimlist, *gnd.imlist]
        missing = [name for name in names if name not in by_stem]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(names)} photographs of {truths[0]} are not below "
                f"{folder}; bring them: {', '.join(missing[:10])}"
            )
        paths, split = [by_stem[name] for name in names], len(gnd.qimlist)
        boxes: list[Box | None] = [as_box(entry["bbx"]) for entry in gnd.gnd]
        query_paths, gallery_paths = paths[:split], paths[split:]
    else:
        if len(photos) < 2:
            raise ValueError(f"{folder} holds one photograph; a search needs at least two")
        gnd = None
        chosen = np.unique(
            np.linspace(0, len(photos) - 1, min(max_queries, len(photos))).astype(int)
        )
        query_paths, gallery_paths = [photos[i] for i in chosen], photos
        boxes = [None] * len(query_paths)
    described = [_picture(folder, p, b) for p, b in zip(query_paths, boxes, strict=True)]
    described += [_picture(folder, path, None) for path in gallery_paths]
    unique = list({picture.stem: picture for picture in described}.values())
    _extract(unique, out / "delg_sift", PHOTO_LOCALS)
    for txt, part in zip(LISTS, (described[: len(boxes)], described[len(boxes) :]), strict=True):
        names = [f"{picture.stem}.jpg" for picture in part]
        write_line_list(out / txt, names, [0] * len(part), [(0, 0)] * len(part))
    queries, gallery = _load_sets(out)
    return Search(
        folder.resolve().name, queries, gallery, _load_sets(out, PHOTO_LOCALS),
        query_paths, gallery_paths, boxes,
        _rank(queries, gallery, None if gnd is not None else chosen), gnd,
    )  # fmt: skip


def list_photos(folder: Path) -> list[Path]:
    """Every photograph below a folder, sorted."""
    return [picture.path for picture in list_pictures(folder, None, None, unique_stems=False)]


def _picture(folder: Path, path: Path, box: Box | None) -> Picture:
    """Names the descriptors after the photograph's place, size and time, and its box.

    A photograph that has changed gets another name, and so new descriptors.
    """
    status = path.stat()
    key = f"{path.relative_to(folder)}|{status.st_size}|{status.st_mtime_ns}|{box}"
    return Picture(hashlib.blake2b(key.encode(), digest_size=8).hexdigest(), path, box)
