"""PIL image -> normalised tensor, for inference, for the crop methods and for training.

Inference normalises first and resizes the tensor without antialias; training resizes the 8-bit
image, with PIL's antialias (spec 2.4, trap 2): the released weights expect exactly this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PATCH = 16  # pixels: smaller images have no patch
HARD_RESIZE, SINGLE_QUERY, CENTRAL_CROP = "hard_resize", "single_query", "central_crop"
CROP_METHODS = ("five_crops", "nearest_crop", "maj_voting")  # five crops each, then combined
TEST_METHODS = (HARD_RESIZE, SINGLE_QUERY, CENTRAL_CROP, *CROP_METHODS)

Transform = Callable[[Image.Image], Tensor]


def check_resize(resize: Sequence[int]) -> tuple[int, int]:
    """(height, width) in pixels; ValueError for anything else. Multiples of 16 are not needed."""
    size = tuple(resize)
    good = len(size) == 2 and all(isinstance(side, int) and side >= PATCH for side in size)
    if not good:
        raise ValueError(
            f"resize is {list(size)}, expected height and width in pixels, at least {PATCH} each: "
            "[480, 640]"
        )
    return size[0], size[1]


def to_normalised(image: Image.Image) -> Tensor:
    """(3, H, W) float32: RGB in [0, 1], less the ImageNet mean, by its deviation."""
    return functional.normalize(functional.to_tensor(image), list(MEAN), list(STD))


def resize_tensor(image: Tensor, size: list[int]) -> Tensor:
    """Bilinear, half-pixel centres, no antialias. One number: the shorter side becomes that."""
    return functional.resize(image, size, InterpolationMode.BILINEAR, antialias=False)


@dataclass(frozen=True)
class HardResize:
    """To exactly `resize` (height, width); the aspect is not kept."""

    resize: tuple[int, int]

    def __call__(self, image: Image.Image) -> Tensor:
        return resize_tensor(to_normalised(image), list(self.resize))


@dataclass(frozen=True)
class SingleQuery:
    """Shorter side to min(resize), the other in proportion (rounded down): sizes differ."""

    resize: tuple[int, int]

    def __call__(self, image: Image.Image) -> Tensor:
        return resize_tensor(to_normalised(image), [min(self.resize)])


@dataclass(frozen=True)
class CentralCrop:
    """Scaled by nearest neighbours until `resize` fits in, then its centre.

    Sizes are rounded down, so that one row or column may be black, as published.
    """

    resize: tuple[int, int]

    def __call__(self, image: Image.Image) -> Tensor:
        tensor = to_normalised(image)
        scale = max(self.resize[0] / tensor.shape[1], self.resize[1] / tensor.shape[2])
        scaled = interpolate(tensor[None], scale_factor=scale, mode="nearest")[0]
        return functional.center_crop(scaled, list(self.resize))


@dataclass(frozen=True)
class FiveCrops:
    """(5, 3, s, s) with s = min(resize): shorter side to s, then the corners and the centre.

    Order: top left, top right, bottom left, bottom right, centre.
    """

    resize: tuple[int, int]

    def __call__(self, image: Image.Image) -> Tensor:
        side = min(self.resize)
        return torch.stack(
            functional.five_crop(resize_tensor(to_normalised(image), [side]), [side, side])
        )


def make_database_transform(resize: Sequence[int]) -> Transform:
    """How database images (and, in mining, all images) are read."""
    return HardResize(check_resize(resize))


def make_query_transform(resize: Sequence[int], test_method: str = HARD_RESIZE) -> Transform:
    """How queries are read; the methods of five crops give (5, 3, s, s) per query."""
    size = check_resize(resize)
    if test_method in CROP_METHODS:
        return FiveCrops(size)
    singles: dict[str, Callable[[tuple[int, int]], Transform]] = {
        HARD_RESIZE: HardResize,
        SINGLE_QUERY: SingleQuery,
        CENTRAL_CROP: CentralCrop,
    }
    if test_method not in singles:
        raise ValueError(f"test_method is {test_method!r}, expected one of {TEST_METHODS}")
    return singles[test_method](size)


@dataclass(frozen=True)
class Augmentation:
    """Changes of training queries, before the resize and in this order; None: left out."""

    brightness: float | None = None  # factor from [1 - x, 1 + x]
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None  # shift from [-x, x] of the colour circle, x <= 0.5
    rand_perspective: float | None = None  # distortion, share of the image; in half of the cases
    random_resized_crop: float | None = None  # crops cover at least 1 - x of the area
    random_rotation: float | None = None  # degrees, from [-x, x]


def make_train_transform(
    resize: Sequence[int], augmentation: Augmentation | None = None
) -> Transform:
    """Resized as an 8-bit image; `augmentation` for queries, drawn from torch's random stream."""
    size = list(check_resize(resize))
    steps: list[Callable] = []
    chosen = vars(augmentation or Augmentation())
    for name in ("brightness", "contrast", "saturation", "hue"):
        if chosen[name] is not None:
            steps.append(transforms.ColorJitter(**{name: chosen[name]}))
    if chosen["rand_perspective"] is not None:
        steps.append(transforms.RandomPerspective(chosen["rand_perspective"]))
    if chosen["random_resized_crop"] is not None:
        scale = (1 - chosen["random_resized_crop"], 1)
        steps.append(transforms.RandomResizedCrop(size, scale))
    if chosen["random_rotation"] is not None:
        steps.append(transforms.RandomRotation(chosen["random_rotation"]))
    resized = transforms.Resize(size, InterpolationMode.BILINEAR)
    return transforms.Compose([*steps, resized, to_normalised])
