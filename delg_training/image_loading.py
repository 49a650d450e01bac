"""Pictures as feature extraction takes them: RGB, cropped, resized by the published rules."""

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from delg_training.delf_config import DelfConfig

logger = logging.getLogger(__name__)

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_one_at_a_time = threading.Lock()  # Pillow's tolerance of truncated files is a global switch


class ImageError(ValueError):
    """The file is no picture that can be used; the text names it."""


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A picture ready for the network."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB
    scale_factors: tuple[float, float]  # (y, x): its sides / those before resizing
    resize_factor: float = 1.0  # longer side of the crop / that of the whole picture


def load_rgb(path: str | Path) -> Image.Image:
    """The picture in RGB: grey, palette and CMYK are converted; of a truncated file what is there.

    FileNotFoundError when there is no file, ImageError when it cannot be decoded.
    """
    path = Path(path)
    try:
        return _decode(path)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is no picture; get the file again") from error
    except UNREADABLE as error:
        reason = error
    try:
        with _one_at_a_time:
            picture = _decode_truncated(path)
    except UNREADABLE as error:
        raise ImageError(f"{path} cannot be decoded: {error}; get the file again") from error
    logger.warning("%s is damaged (%s): what is there of it is used", path, reason)
    return picture


def _decode(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def _decode_truncated(path: Path) -> Image.Image:
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        return _decode(path)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def crop_query(picture: Image.Image, box: Box) -> tuple[Image.Image, float]:
    """The part within the box, its corners rounded, and longer side after / before."""
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    if x2 <= x1 or y2 <= y1:
        raise ImageError(f"the box {list(box)} (x1, y1, x2, y2) is empty")
    cropped = picture.crop((x1, y1, x2, y2))
    return cropped, max(cropped.size) / max(picture.size)


def resized_size(
    height: int, width: int, config: DelfConfig, resize_factor: float = 1.0
) -> tuple[int, int]:
    """(height, width) that the limits of the configuration, times `resize_factor`, give.

    Halves are rounded to even. ValueError for a negative factor.
    """
    if resize_factor < 0:
        raise ValueError(f"resize_factor is {resize_factor}, expected 0 or more")
    largest = resize_factor * config.max_image_size
    smallest = resize_factor * config.min_image_size
    longer = max(height, width)
    if largest >= 0 and longer > largest:
        factor = largest / longer
    elif smallest >= 0 and longer < smallest:
        factor = smallest / longer
    elif config.use_square_images and height != width:
        factor = 1.0
    else:
        return height, width
    if config.use_square_images:
        return round(longer * factor), round(longer * factor)
    return round(height * factor), round(width * factor)


def resize_image(
    picture: Image.Image, config: DelfConfig, resize_factor: float = 1.0
) -> LoadedImage:
    """Pillow's bilinear resize, antialiased where it shrinks."""
    width, height = picture.size
    new_height, new_width = resized_size(height, width, config, resize_factor)
    if min(new_height, new_width) < 1:  # a strip of a pixel: nothing of it is left
        pixels = np.zeros((new_height, new_width, 3), np.uint8)
    elif (new_height, new_width) == (height, width):
        pixels = np.asarray(picture)
    else:
        size = (new_width, new_height)
        pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    return LoadedImage(pixels, (new_height / height, new_width / width), resize_factor)


def load_image(path: str | Path, config: DelfConfig, box: Box | None = None) -> LoadedImage:
    """Read, crop to the query's `box` and resize; the size limits shrink with the crop."""
    picture = load_rgb(path)
    if box is None:
        return resize_image(picture, config)
    try:
        cropped, factor = crop_query(picture, box)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    return resize_image(cropped, config, factor)
