"""Photographs of a test set as network inputs: decoding, crops, sizes, normalisation.

Sizes are (height, width) in pixels. Nothing is anti-aliased, as in the release (OpenCV, bilinear).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitgal.datasets.transforms import normalise, resize

PATCH = 16  # pixels of a patch's side
Box = tuple[int, int, int, int]  # x1, y1, x2, y2
Size = tuple[int, int]  # height, width
SizeRule = Callable[[int, int], Size]


class Photograph(NamedTuple):
    """A picture file; `box` (x1, y1, x2, y2) crops it, None takes the whole of it."""

    path: Path
    box: Box | None = None


def load_rgb(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB; turned as the camera says; ValueError names what is no picture."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; data/README.md says where images come from"
        )
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(
            f"{path} is not a picture that OpenCV can read; fetch it again or leave it out"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def crop(image: np.ndarray, box: Box) -> np.ndarray:
    """Rows y1:y2 and columns x1:x2, as far as they lie inside; ValueError when nothing does."""
    x1, y1, x2, y2 = (max(0, int(number)) for number in box)
    part = image[y1:y2, x1:x2]
    if part.size == 0:
        height, width = image.shape[:2]
        raise ValueError(
            f"box {tuple(box)} (x1, y1, x2, y2) leaves nothing of a picture of {width} x {height} "
            "pixels; the ground truth belongs to other images"
        )
    return part


def global_size(height: int, width: int, imsize: int = 512, keep_aspect: bool = False) -> Size:
    """Input size of the global descriptor: a square, or the aspect kept with `imsize` the longer.

    ValueError for a picture of which nothing would be left.
    """
    if not keep_aspect:
        return imsize, imsize
    longer = max(height, width)
    size = height * imsize // longer, width * imsize // longer
    if min(size) < 1:
        raise ValueError(_elongated(height, width, f"{size[0]} x {size[1]} pixels"))
    return size


def local_size(height: int, width: int, image_size: int = 512) -> Size:
    """Input size of local features at scale 1: area about image_size^2, multiples of 16.

    Computed in float64 in the order of the release. ValueError for a picture so elongated that its
    shorter side would have less than one patch (beyond 1:1024 at 512).
    """
    longer = max(height, width)
    factor = longer / math.sqrt(height * width)
    sides = (int(image_size * factor * side / longer) for side in (height, width))
    rows, columns = (side - side % PATCH for side in sides)
    if min(rows, columns) < PATCH:
        raise ValueError(_elongated(height, width, f"less than a patch of {PATCH} pixels"))
    return rows, columns


def _elongated(height: int, width: int, left: str) -> str:
    return (
        f"a picture of {width} x {height} pixels is too elongated: its shorter side would have "
        f"{left}; crop it or take it out of the set"
    )


def scaled_size(size: Size, scale: float) -> Size:
    """Size at one scale of the pyramid: scaled sides rounded up to whole patches."""
    height, width = (int((side * scale - 1) // PATCH + 1) * PATCH for side in size)
    return height, width


def prepare(photograph: Photograph, size_rule: SizeRule) -> Tensor:
    """(3, H, W) float32, cropped, resized by the rule and normalised; errors name the file."""
    image = load_rgb(photograph.path)
    try:
        if photograph.box is not None:
            image = crop(image, photograph.box)
        height, width = size_rule(*image.shape[:2])
    except ValueError as error:
        raise ValueError(f"{photograph.path}: {error}") from error
    return torch.from_numpy(normalise(resize(np.ascontiguousarray(image), height, width)))


class PreparedImages(Dataset):
    """Item i: (i, input of photograph i)."""

    def __init__(self, photographs: list[Photograph], size_rule: SizeRule) -> None:
        self.photographs, self.size_rule = photographs, size_rule

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, prepare(self.photographs[index], self.size_rule)


def _one_thread(_: int) -> None:
    # not 1: that waits for threads which a forked process has not got, where its parent had some
    cv2.setNumThreads(0)


def stream_batches(
    photographs: list[Photograph],
    size_rule: SizeRule,
    batch_size: int,
    num_workers: int,
    pin_memory: bool = False,
) -> Iterator[tuple[list[int], Tensor]]:
    """Indices and inputs (B, 3, H, W), each file read once and ahead of time.

    Images of equal size share a batch of up to `batch_size`; at most 4 * batch_size images wait for
    company. Batches come in no particular order.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    loader = DataLoader(
        PreparedImages(photographs, size_rule),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread,
    )
    yield from group_by_size(loader, batch_size)


def group_by_size(
    items: Iterable[tuple[int, Tensor]], batch_size: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of equal sizes from a stream of single images; the fullest goes when many wait."""
    waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    held = 0
    for index, image in items:
        shape = tuple(image.shape)
        waiting.setdefault(shape, []).append((int(index), image))
        held += 1
        if len(waiting[shape]) < batch_size and held < 4 * batch_size:
            continue
        fullest = max(waiting, key=lambda key: len(waiting[key]))
        batch = waiting.pop(fullest)
        held -= len(batch)
        yield [i for i, _ in batch], torch.stack([image for _, image in batch])
    for batch in waiting.values():
        yield [i for i, _ in batch], torch.stack([image for _, image in batch])
