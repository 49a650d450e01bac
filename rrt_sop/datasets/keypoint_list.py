"""Grey images with keypoints from a file (SuperPoint rows)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from rrt_sop.datasets.image_list import ImageList, Transform
from rrt_sop.keypoint_layout import pack
from utils.paths import MISSING_SHOWN, require_file
from utils.pickles import load_foreign

SIZE = 320  # pixels, side of the grey image
MAX_POINTS = 500  # strongest keypoints of an image; the file has them in that order


def make_grey_transform(size: int = SIZE) -> Transform:
    """RGB image -> grey (1, size, size) in [0, 1]; the aspect is not kept."""
    resize = transforms.Resize((size, size), interpolation=InterpolationMode.BILINEAR)
    return transforms.Compose([transforms.Grayscale(), resize, transforms.ToTensor()])


def load_keypoints(path: str | Path) -> dict[str, np.ndarray]:
    """Image stem -> (N, 2) float32 keypoints, x and y in [0, 1]; ValueError for other content."""
    hint = "detect SuperPoint keypoints first: image stem -> {keypoints: (N, 2), scores: (N,)}"
    content = load_foreign(require_file(path, hint))
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no dict of keypoints by image stem; {hint}")
    return {str(stem): _checked(path, stem, entry) for stem, entry in content.items()}


def _checked(path: str | Path, stem: Any, entry: Any) -> np.ndarray:
    try:
        points = np.asarray(entry["keypoints"] if isinstance(entry, Mapping) else entry, np.float32)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: {stem} has no keypoints ({error}); detect them again") from error
    points = points.reshape(-1, 2) if points.size == 0 else points
    if points.ndim != 2 or points.shape[1] != 2 or not ((points >= 0) & (points <= 1)).all():
        raise ValueError(f"{path}: keypoints of {stem} are no (N, 2) x, y in [0, 1]")
    return points


class KeypointList(ImageList):
    """The images of one list file with their keypoints: (packed (1, S + R, S), label, index)."""

    def __init__(
        self,
        data_path: str | Path,
        list_file: str | Path,
        keypoints: str | Path,
        size: int = SIZE,
        max_points: int = MAX_POINTS,
    ) -> None:
        """`keypoints`: file of `load_keypoints`; every image of the list must be in it."""
        super().__init__(data_path, list_file, make_grey_transform(size))
        points = load_keypoints(keypoints)
        stems = [Path(name).stem for name in self.paths]
        missing = [stem for stem in stems if stem not in points]
        if missing:
            raise ValueError(
                f"{keypoints} has no keypoints of {len(missing)} of the {len(stems)} images of "
                f"{self.list_file}: {', '.join(missing[:MISSING_SHOWN])}; detect them too"
            )
        self.points = [points[stem][:max_points] for stem in stems]
        self.max_points = max_points

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        grey = self.transform(self.load_image(index))
        packed = pack(grey, torch.from_numpy(self.points[index]), self.max_points)
        return packed, int(self.labels[index]), int(index)
