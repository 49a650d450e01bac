"""Images of one split with their labels."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from rrt_sop.datasets.list_file import load_list_file, renumber
from utils.nn_tables import hash_names
from utils.paths import require_files

# what Pillow was seen to raise on damaged files
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

Transform = Callable[[Image.Image], Tensor]


class LabelledItems(Protocol):
    """Items (tensor, label, index) that batches are drawn from: images, or what stands for them."""

    labels: np.ndarray  # (N,) int64

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Item `index`; what is random in it comes from torch's stream."""


class ImageList(Dataset[tuple[Tensor, int, int]]):
    """The images of one list file, in its order: (image (3, H, W) in [0, 1], label, index)."""

    def __init__(self, data_path: str | Path, list_file: str | Path, transform: Transform) -> None:
        """Read the list and see that every image is there.

        Args:
            data_path: folder that the list and its paths are relative to.
            list_file: name of the list within `data_path`, lines `path,class_id`.
            transform: PIL image (RGB) -> tensor.

        Raises:
            FileNotFoundError: no list, or images missing (all are counted, ten are named).
            ValueError: malformed lines, an image listed twice.
        """
        self.data_path, self.transform = Path(data_path), transform
        self.list_file = self.data_path / list_file
        listing = load_list_file(self.list_file)
        self.paths = listing.paths
        self.class_ids = listing.class_ids  # (N,) int64, as in the file
        self.labels = renumber(listing.class_ids)  # (N,) int64, 0.. by sorted class id
        hint = f"{self.list_file} and the images of {self.data_path} must be of the same set"
        require_files((self.data_path / name for name in self.paths), hint)

    @property
    def num_classes(self) -> int:
        """Largest label + 1."""
        return int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.transform(self.load_image(index)), int(self.labels[index]), int(index)

    def load_image(self, index: int) -> Image.Image:
        """Image `index` as RGB; ValueError, with its path, when it cannot be read."""
        path = self.data_path / self.paths[index]
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except UNREADABLE as error:
            raise ValueError(
                f"{path} is no readable image ({error or type(error).__name__}); fetch the file "
                f"again, or take its line out of {self.list_file}"
            ) from error

    def origin(self) -> dict[str, Any]:
        """What a neighbour table of these images is made from: plain values for its record."""
        labels = hashlib.sha256(self.labels.astype("<i8").tobytes()).hexdigest()
        return {"images": hash_names(self.paths), "labels": labels, "count": len(self)}


def share_labels(queries: ImageList, gallery: ImageList) -> None:
    """Number the labels of both lists together, so that equal class ids have equal labels."""
    both = renumber(np.concatenate([queries.class_ids, gallery.class_ids]))
    queries.labels, gallery.labels = both[: len(queries)], both[len(queries) :]


class DrawnItems(Dataset[tuple[Tensor, int, int]]):
    """Items by (index, seed): what is random in them is drawn from a stream of that seed.

    So an image's crop depends neither on the worker that reads it nor on the images before it: an
    interrupted epoch goes on with the crops that it would have had, with any number of workers and
    processes.
    """

    def __init__(self, images: LabelledItems) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, drawn: tuple[int, int]) -> tuple[Tensor, int, int]:
        index, seed = drawn
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            return self.images[index]
