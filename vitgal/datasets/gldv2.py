"""Google Landmarks v2: its split into training and validation, and its images as tensors."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from utils.paths import atomic_path, require_file, require_files
from utils.text_files import read_csv, read_text
from vitgal.datasets.transforms import Augmentation, normalise, resize
from vitgal.datasets.two_views import ViewAugmentation

SPLIT_HINT = "write it with python -m vitgal.create_train_split with data_path={}"
LIST_HINT = "data/README.md says where the lists of Google Landmarks v2 come from"
WHOLE_NUMBER = re.compile(r"\s*-?[0-9]{1,18}\s*")  # within 64 bits
CLASS = re.compile(r"[0-9]{1,9}")
IMAGE_HINT = "data/README.md says where the images come from; the split files name those needed"


# ------------------------------------------------------------------ the split


class Landmarks(NamedTuple):
    """The list of a training set: one entry per image."""

    ids: np.ndarray  # (N,) str
    landmark_ids: np.ndarray  # (N,) int64


class Split(NamedTuple):
    """Lines "path label" of the two split files."""

    train: list[str]
    val: list[str]


def load_landmarks(path: Path) -> Landmarks:
    """Read `train.csv` (columns id and landmark_id) or `train_clean.csv` (landmark_id and images).

    ValueError when the columns are others or a landmark_id is no number.
    """
    rows = read_csv(path, LIST_HINT)
    ids, landmark_ids = [], []
    header = [name.strip() for name in next(rows, (1, []))[1]]
    column = "id" if "id" in header else "images"
    if column not in header or "landmark_id" not in header:
        raise ValueError(
            f"{path} has the columns {header}, expected id and landmark_id (an image a line) "
            "or landmark_id and images (a landmark a line); give another file as csv_name="
        )
    image_at, label_at = header.index(column), header.index("landmark_id")
    for number, row in rows:
        if not row:
            continue
        cells = dict(enumerate(row))
        names, label = cells.get(image_at, "").split(), cells.get(label_at, "")
        if not names or not WHOLE_NUMBER.fullmatch(label):
            raise ValueError(f"{path}, line {number}: {','.join(row)[:200]!r} is no image of a "
                             f"landmark; {LIST_HINT}")  # fmt: skip
        ids += names
        landmark_ids += [int(label)] * len(names)
    if not ids:
        raise ValueError(f"{path} lists no image; fetch it again")
    return Landmarks(np.array(ids), np.array(landmark_ids, dtype=np.int64))


def image_path(image_id: str) -> str:
    """`0123ab` -> `train/0/1/2/0123ab.jpg`."""
    return f"train/{image_id[0]}/{image_id[1]}/{image_id[2]}/{image_id}.jpg"


def split_landmarks(landmarks: Landmarks, split_ratio: float, seed: int) -> Split:
    """Images sorted by landmark; the first of each trains, later ones validate by chance.

    Classes are numbered 0.. in ascending order of landmark_id. Each image but the first of a class
    draws one uniform number, in sorted order; at least `split_ratio`: training, else validation.
    The sort is stable, so that the split depends on list and seed alone.
    """
    if not 0 <= split_ratio < 1:
        raise ValueError(f"split_ratio is {split_ratio}, expected a share in [0, 1)")
    if short := [name for name in landmarks.ids if len(name) < 3]:
        raise ValueError(f"image id {str(short[0])!r} has fewer than 3 characters: no id of GLDv2")
    order = np.argsort(landmarks.landmark_ids, kind="stable")
    _, first, labels = np.unique(
        landmarks.landmark_ids[order], return_index=True, return_inverse=True
    )
    in_train = np.zeros(len(order), dtype=bool)
    in_train[first] = True
    # the generator and its stream are those of the reference split
    draws = np.random.RandomState(seed).uniform(size=len(order) - len(first))
    in_train[~in_train] = draws >= split_ratio
    lines = np.array(
        [f"{image_path(i)} {c}" for i, c in zip(landmarks.ids[order], labels, strict=True)]
    )
    return Split(lines[in_train].tolist(), lines[~in_train].tolist())


def refuse_to_replace(
    split: Split, data_path: Path, train_split: str, val_split: str, overwrite: bool
) -> None:
    """FileExistsError when a file of another split is there, unless `overwrite`."""
    for name, lines in ((train_split, split.train), (val_split, split.val)):
        path = data_path / name
        if not overwrite and path.is_file() and path.read_text().splitlines() != lines:
            raise FileExistsError(
                f"{path} holds another split (other images, seed or split_ratio), which trained "
                "models may rest on; set overwrite=True to replace it, or give another name"
            )


def write_split(split: Split, data_path: Path, train_split: str, val_split: str) -> None:
    """Both files below `data_path`, each in one step."""
    for name, lines in ((train_split, split.train), (val_split, split.val)):
        with atomic_path(data_path / name) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@dataclass(frozen=True)
class SplitList:
    """Images of a training set, in the order of its split files."""

    data_path: Path
    train_paths: np.ndarray  # (N,) bytes, relative to data_path
    train_labels: np.ndarray  # (N,) int64, 0 .. num_classes - 1
    val_paths: np.ndarray  # (M,) bytes
    val_labels: np.ndarray  # (M,) int64

    @property
    def num_classes(self) -> int:
        return int(self.train_labels.max()) + 1


def load_split(data_path: Path, train_split: str, val_split: str) -> SplitList:
    """Both split files; ValueError when a validation image's class has no training image."""
    lists = [_load_lines(data_path, name) for name in (train_split, val_split)]
    (train_paths, train_labels), (val_paths, val_labels) = lists
    if not len(train_paths):
        raise ValueError(f"{data_path / train_split} is empty; {SPLIT_HINT.format(data_path)}")
    strange = np.setdiff1d(val_labels, train_labels)
    if len(strange):
        raise ValueError(
            f"{data_path / val_split} has class {strange[0]}, of which {train_split} has no image: "
            f"the two files are of different splits; {SPLIT_HINT.format(data_path)}"
        )
    return SplitList(data_path, train_paths, train_labels, val_paths, val_labels)


def _load_lines(data_path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    path = require_file(data_path / name, SPLIT_HINT.format(data_path))
    paths, labels = [], []
    for number, line in enumerate(read_text(path, SPLIT_HINT.format(data_path)).splitlines(), 1):
        image, _, label = line.strip().rpartition(" ")
        if not image or "\0" in image or not CLASS.fullmatch(label):
            raise ValueError(
                f"{path}, line {number}: {line.strip()[:200]!r} is not of the form 'path label'; "
                + SPLIT_HINT.format(data_path)
            )
        paths.append(image.encode())
        labels.append(int(label))
    return np.array(paths, dtype=np.bytes_), np.array(labels, dtype=np.int64)


# ------------------------------------------------------------------ the images


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB; ValueError, naming the file, when it is no readable image."""
    require_file(path, IMAGE_HINT)
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is no readable image; fetch it again, or take it off the split")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class LandmarkImages(Dataset):
    """Images by (epoch, index): the random numbers of an augmentation depend on that pair alone."""

    def __init__(
        self,
        data_path: Path,
        paths: np.ndarray,
        labels: np.ndarray,
        input_size: int,
        augmentation: Augmentation | ViewAugmentation | None = None,
        seed: int = 0,
        check_files: bool = True,
    ) -> None:
        """`paths`: (N,) bytes below `data_path`; `labels`: (N,) int64.

        FileNotFoundError that counts missing files, unless `check_files` is off.
        """
        self.data_path, self.paths, self.labels = data_path, paths, labels
        self.input_size, self.augmentation, self.seed = input_size, augmentation, seed
        if check_files:
            require_files((data_path / path.decode() for path in paths), IMAGE_HINT)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def has_two_views(self) -> bool:
        """Whether each photograph comes as two views."""
        return isinstance(self.augmentation, ViewAugmentation)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        """(3, S, S) float32, normalised, and the label.

        Under a ViewAugmentation two views (2, 3, S, S), the label twice, and their links (1, N).
        """
        epoch, index = key
        image = read_image(self.data_path / self.paths[index].decode())
        rng = np.random.default_rng([self.seed, epoch, index])
        label = int(self.labels[index])
        if isinstance(self.augmentation, ViewAugmentation):
            views = self.augmentation(image, rng)
            links = torch.from_numpy(views.links)[None]
            return torch.from_numpy(views.images), torch.tensor([label, label]), links
        if self.augmentation is None:
            image = resize(image, self.input_size, self.input_size)
        else:
            image = self.augmentation(image, rng)
        return torch.from_numpy(normalise(image)), label
