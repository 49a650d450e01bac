"""Images of a list as tensors."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from r2former.datasets.transforms import Transform

# what Pillow was seen to raise on damaged files
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def load_image(path: str) -> Image.Image:
    """The image as RGB; ValueError, with its path, when it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is no readable image ({error or type(error).__name__}); fetch the file again"
        ) from error


class PlaceImages(Dataset[tuple[Tensor, int]]):
    """(image, index) of the paths in their order, or of the chosen `rows` of them."""

    def __init__(
        self, paths: Sequence[str], transform: Transform, rows: np.ndarray | None = None
    ) -> None:
        self.paths, self.transform = paths, transform
        self.rows = np.arange(len(paths)) if rows is None else np.asarray(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        index = int(self.rows[item])
        return self.transform(load_image(self.paths[index])), index
