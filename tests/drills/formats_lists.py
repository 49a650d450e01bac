"""Lists that the systems read: images of a set, labels, splits, ground truth, predictions."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from delg_training.box_files import Boxes, read_boxes, write_boxes
from delg_training.datasets.packing import find_images, list_all, list_clean
from delg_training.delf_config import load_delf_config
from delg_training.gldv2_files import read_predictions, read_solution
from delg_training.retrieval_metrics import read_metrics
from r2former.datasets.msls import load_msls
from rrt_gld.datasets.gldv2_lists import load_landmark_ids, load_solution
from rrt_gld.datasets.line_lists import load_line_list, write_line_list
from rrt_sop.datasets.keypoint_list import load_keypoints
from rrt_sop.datasets.list_file import load_class_list, load_list_file
from tests.drills.formats_utils import finite, rng
from tests.drills.reading import Format, require
from tests.r2former.street_folders import line_of_places, write_msls_side
from utils.paths import REPO_ROOT
from vitgal.datasets.gldv2 import load_landmarks, load_split
from vitgal.datasets.revisited_lists import list_distractors
from vitgal.rank_files import ListedImage, read_rerank_list, write_rerank_list

IDS = [f"{i:016x}" for i in range(6)]


def write(name: str, *lines: str) -> Callable[[Path], object]:
    """Writes the lines into a file of that name below the folder."""
    return lambda folder: (folder / name).write_text("\n".join(lines) + "\n")


def whole(labels: Any, what: str) -> None:
    """The labels are int64."""
    array = np.asarray(labels)
    require(array.dtype == np.int64 and array.ndim == 1, f"{what} are {array.dtype} {array.shape}")


def named(paths: Any) -> None:
    """Paths are text that can name a file."""
    require(all(isinstance(p, str) and p and "\0" not in p for p in paths), "a path is no name")


# ---------------------------------------------------------------------------- rrt_gld, rrt_sop


def read_line_list(folder: Path) -> Any:
    paths, labels, sizes = load_line_list(folder / "train.txt")
    named(paths)
    whole(labels, "labels")
    require(sizes.shape == (len(paths), 2) and sizes.dtype == np.int64, "sizes")
    require((sizes >= 0).all() and labels.min() == 0 and len(labels) == len(paths), "values")
    return [paths, labels, sizes]


def read_gldv2(folder: Path) -> Any:
    landmarks = load_landmark_ids(folder / "train.csv")
    solution = load_solution(folder / "solution.csv")
    require(all(type(label) is int for label in landmarks.values()), "landmark ids")
    require(all(entry.positives for entry in solution), "queries without positives")
    return [landmarks, solution]


def make_gldv2(folder: Path) -> None:
    rows = [f"{name},http://x/{name}.jpg,{i % 3}" for i, name in enumerate(IDS)]
    write("train.csv", "id,url,landmark_id", *rows)(folder)
    rows = [
        f"{IDS[0]},{IDS[1]} {IDS[2]},Public",
        f"{IDS[3]},{IDS[4]},Private",
        f"{IDS[5]},,Ignored",
    ]
    write("solution.csv", "id,images,Usage", *rows)(folder)


def read_products(folder: Path) -> Any:
    listing = load_list_file(folder / "train.txt")
    classes = load_class_list(folder / "Ebay_train.txt")
    for found in (listing, classes):
        named(found.paths)
        whole(found.class_ids, "class ids")
        require(len(found.paths) == len(found.class_ids) == len(set(found.paths)), "repeated")
    return [listing, classes]


def make_products(folder: Path) -> None:
    names = [f"chair_final/{i}_0.JPG" for i in range(6)]
    write("train.txt", *(f"{name},{i // 2}" for i, name in enumerate(names)))(folder)
    rows = [f"{i + 1} {i // 2 + 1} 1 {name}" for i, name in enumerate(names)]
    write("Ebay_train.txt", "image_id class_id super_class_id path", *rows)(folder)


def make_keypoints(folder: Path) -> None:
    points = {
        f"im{i}": {"keypoints": rng().random((i, 2)), "scores": rng().random(i)} for i in range(4)
    }
    (folder / "keypoints.pkl").write_bytes(pickle.dumps(points, protocol=2))


def read_keypoints(folder: Path) -> Any:
    points = load_keypoints(folder / "keypoints.pkl")
    for stem, rows in points.items():
        finite(rows, np.float32, (None, 2), f"keypoints of {stem}")
        require(((rows >= 0) & (rows <= 1)).all(), "outside the image")
    return points


# ---------------------------------------------------------------------------- vitgal


def make_vitgal(folder: Path) -> None:
    write("train.csv", "id,landmark_id", *(f"{n},{i % 3}" for i, n in enumerate(IDS)))(folder)
    rows = ["7," + " ".join(IDS[:3]), "9," + " ".join(IDS[3:])]
    write("train_clean.csv", "landmark_id,images", *rows)(folder)
    write("train_split.txt", *(f"train/0/0/0/{n}.jpg {i % 3}" for i, n in enumerate(IDS)))(folder)
    write("test_split.txt", *(f"train/0/0/1/{n}.jpg {i % 3}" for i, n in enumerate(IDS[:3])))(
        folder
    )
    write("revisitop1m.txt", *(f"./jpg/{i}/x{i}.jpg" for i in range(4)))(folder)
    (folder / "jpg").mkdir(exist_ok=True)
    listed = [ListedImage(f"a/{i}.jpg", (1, 2, 30, 40) if i < 2 else None) for i in range(5)]
    write_rerank_list(folder / "rerank_path.txt", listed)


VITGAL = (
    *("train.csv", "train_clean.csv", "train_split.txt", "test_split.txt", "revisitop1m.txt"),
    "rerank_path.txt",
)


def read_vitgal(folder: Path) -> Any:
    found: list[Any] = []
    for name in ("train.csv", "train_clean.csv"):
        marks = load_landmarks(folder / name)
        whole(marks.landmark_ids, "landmark ids")
        require(len(marks.ids) == len(marks.landmark_ids) > 0, "lengths")
        found += marks
    split = load_split(folder, "train_split.txt", "test_split.txt")
    for labels in (split.train_labels, split.val_labels):
        whole(labels, "labels")
        require(labels.size == 0 or labels.min() >= 0, "negative labels")
    require(not any(b"\0" in path for path in split.train_paths.tolist()), "a path is no name")
    images = read_rerank_list(folder / "rerank_path.txt")
    named([image.path for image in images])
    distractors = list_distractors(folder / "jpg")
    named(distractors)
    return [*found, vars(split), images, distractors]


# ---------------------------------------------------------------------------- r2former

CITY, SIDES = "cph", ("query", "database")
CSV = ("seq_info.csv", "postprocessed.csv", "raw.csv", "subtask_index.csv")
SCAN = "cache/r2former_scan_val.npz"


def make_msls(folder: Path) -> None:
    for side, count in zip(SIDES, (4, 6), strict=True):
        write_msls_side(
            folder / "msls/train_val" / CITY / side, [f"{side}{i}" for i in range(count)],
            line_of_places(count, 10.0), view_direction=["Forward", "Sideways"] * (count // 2),
        )  # fmt: skip


def read_msls(folder: Path) -> Any:
    found = load_msls(folder, "msls", "val", (CITY,), folder / "cache", check_images=False)
    places = found.places
    named(places.query_paths)
    for paths, utm in (
        (places.query_paths, places.query_utm), (places.database_paths, places.database_utm)
    ):  # fmt: skip
        require(utm is not None, "no positions")
        finite(np.asarray(utm), np.float64, (len(paths), 2), "positions")
    require(found.night.dtype == bool and len(found.night) == len(places.query_paths), "night")
    return [places.query_paths, places.database_paths, places.query_utm, places.database_utm]


def make_scanned_msls(folder: Path) -> None:
    make_msls(folder)
    read_msls(folder)


# ---------------------------------------------------------------------------- delg

BOXES = Boxes(np.ones((3, 4)) * [[1], [2], [3]], np.array([0.9, 0.5, 0.1]), np.array([1, -1, 7]))
METRICS = """hard
  mAP=56.4
  mP@k[1 5 10] [80.   70.5  60.25]
  mR@k[1 5 10] [10. 20. 30.]
"""
CONFIG = "delg_scripts/r50delg_gld_config.pbtxt"


def make_challenge(folder: Path) -> None:
    rows = [f"{IDS[0]},7 9,Public", f"{IDS[1]},3,Private", f"{IDS[2]},,Ignored"]
    write("solution.csv", "id,landmarks,Usage", *rows)(folder)
    write("predictions.csv", "id,landmarks", f"{IDS[0]},7 0.5", f"{IDS[1]},3 1e-3")(folder)
    rows = [f"{IDS[0]},{IDS[3]} {IDS[4]},Public", f"{IDS[1]},{IDS[5]},Private"]
    write("retrieval.csv", "id,images,Usage", *rows)(folder)


def read_challenge(folder: Path) -> Any:
    solution = read_solution(folder / "solution.csv", "recognition")
    predictions = read_predictions(folder / "predictions.csv", solution, "recognition")
    for part in predictions:
        for entry in part.values():
            require(type(entry.landmark) is int and np.isfinite(entry.score), "prediction")
    retrieval = read_solution(folder / "retrieval.csv", "retrieval")
    return [[dict(s.public), dict(s.private), sorted(s.ignored)] for s in (solution, retrieval)] + [
        predictions
    ]


def make_packing(folder: Path) -> None:
    (folder / "jpg").mkdir()
    for name in IDS:
        (folder / "jpg" / f"{name}.jpg").touch()
    write("train.csv", "id,url,landmark_id", *(f"{n},u,{i % 3}" for i, n in enumerate(IDS)))(folder)
    rows = ["7," + " ".join(IDS[:3]), "9," + " ".join(IDS[3:])]
    write("train_clean.csv", "landmark_id,images", *rows)(folder)


def read_packing(folder: Path) -> Any:
    images = find_images(f"{folder}/jpg/")
    listing = list_all(images, folder / "train.csv")
    clean, absent = list_clean(images, folder / "train_clean.csv")
    for part in (listing, clean):
        require(len(part.ids) == len(part.paths) == len(part.labels), "lengths")
        require(all(type(label) is int and abs(label) < 2**63 for label in part.labels), "labels")
    return [[p.ids, p.labels] for p in (listing, clean)] + [absent]


def read_config(folder: Path) -> Any:
    config = load_delf_config(folder / "config.pbtxt")
    config.check()
    return repr(config)


def read_box_file(folder: Path) -> Any:
    boxes = read_boxes(folder / "a.boxes")
    n = len(boxes.scores)
    finite(boxes.corners, np.float32, (n, 4), "corners")
    finite(boxes.scores, np.float32, (n,), "scores")
    require(boxes.class_indices.shape == (n,), "classes")
    return list(boxes)


def read_metric_file(folder: Path) -> Any:
    found = read_metrics(folder / "metrics.txt")
    for block in found.values():
        require(all(type(k) is int and k > 0 for k in block["ks"]), "ks")
        for numbers in (block["mp"], block["mr"]):
            require(len(numbers) == len(block["ks"]), "lengths")
            require(all(0 <= x <= 100 for x in (block["map"], *numbers)), "no percentages")
    return found


FORMATS = {
    "rrt_gld_line_list": Format(
        lambda f: write_line_list(
            f / "train.txt", [f"jpg/{i}.jpg" for i in range(5)], [3, 3, 9, 9, 1], [(640, 480)] * 5
        ),
        ("train.txt",), read_line_list,
    ),
    "rrt_gld_landmarks": Format(make_gldv2, ("train.csv", "solution.csv"), read_gldv2),
    "rrt_sop_lists": Format(make_products, ("train.txt", "Ebay_train.txt"), read_products),
    "rrt_sop_keypoints": Format(make_keypoints, ("keypoints.pkl",), read_keypoints),
    "vitgal_lists": Format(make_vitgal, VITGAL, read_vitgal),
    "msls_csv": Format(
        make_msls, tuple(f"msls/train_val/{CITY}/{s}/{n}" for s in SIDES for n in CSV), read_msls
    ),
    "msls_scan": Format(make_scanned_msls, (SCAN,), read_msls),
    "delg_challenge": Format(
        make_challenge, ("solution.csv", "predictions.csv", "retrieval.csv"), read_challenge
    ),
    "delg_packing_csv": Format(make_packing, ("train.csv", "train_clean.csv"), read_packing),
    "delg_boxes": Format(
        lambda f: write_boxes(f / "a.boxes", BOXES), ("a.boxes",), read_box_file
    ),
    "delg_config": Format(
        lambda f: (f / "config.pbtxt").write_text((REPO_ROOT / CONFIG).read_text()),
        ("config.pbtxt",), read_config,
    ),
    "delg_metrics": Format(
        lambda f: (f / "metrics.txt").write_text(METRICS), ("metrics.txt",), read_metric_file,
    ),
}  # fmt: skip
