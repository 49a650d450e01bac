"""Augmentation of training images: uint8 RGB in, normalised float32 channel-first out (spec 5.5).

Every step takes its random numbers from a generator that it is given, so that an image of an epoch
is the same for any number of worker processes and after a resumption.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

MEAN = np.float32(255) * np.array((0.485, 0.456, 0.406), dtype=np.float32)  # of RGB, 0..255
STD = np.float32(255) * np.array((0.229, 0.224, 0.225), dtype=np.float32)
ASPECT = (3 / 4, 4 / 3)  # of random crops
CROP_TRIES = 10
GREYS = np.arange(256, dtype=np.float32)


def normalise(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32, contiguous: (x - 255 mean) / (255 std)."""
    scaled = (image.astype(np.float32) - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear without anti-aliasing; the aspect is not kept."""
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


# ------------------------------------------------------------------ colour, on uint8 (H, W, 3)


def change_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply."""
    return cv2.LUT(image, _table(GREYS * np.float32(factor)))


def change_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean grey level."""
    mean = float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean())
    return cv2.LUT(image, _table(GREYS * np.float32(factor) + np.float32(mean * (1 - factor))))


def change_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the grey image."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def change_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by `shift` of the circle (OpenCV counts it in 180 steps)."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    table = np.mod(GREYS + np.float32(180 * shift), np.float32(180)).astype(np.uint8)
    hsv[..., 0] = cv2.LUT(hsv[..., 0], table)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


COLOUR_STEPS = (change_brightness, change_contrast, change_saturation, change_hue)


def jitter_colours(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """All four changes in random order: factors in 1 +- `strength`, hue shift in +- `strength`."""
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, 3)
    amounts = (*factors, rng.uniform(-strength, strength))
    for i in rng.permutation(4):
        image = COLOUR_STEPS[i](image, float(amounts[i]))
    return image


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Through JPEG and back."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert ok
    assert decoded is not None
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


# ------------------------------------------------------------------ geometry


def warp(image: np.ndarray, angle: float, scale: float, dx: float, dy: float) -> np.ndarray:
    """Turn by `angle` degrees and scale about the centre, shift by shares of the sides.

    Bilinear; black border; same size.
    """
    height, width = image.shape[:2]
    centre = (width / 2 - 0.5, height / 2 - 0.5)
    matrix = cv2.getRotationMatrix2D(centre, angle, scale)
    matrix[:, 2] += dx * width, dy * height
    return cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )


def draw_crop(
    height: int, width: int, smallest: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """y, x, height and width of a random crop.

    Its area is uniform in [`smallest`, 1] of the image, its aspect log-uniform in 3/4 .. 4/3. When
    ten tries do not fit: the largest centred crop with an aspect in that range.
    """
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(smallest, 1.0)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return y, x, h, w
    aspect = min(max(width / height, ASPECT[0]), ASPECT[1])
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    return (height - h) // 2, (width - w) // 2, h, w


def cut_hole(image: np.ndarray, side: int, y: int, x: int) -> np.ndarray:
    """A black square with centre (y, x): its corner is clipped to the image, then its far sides."""
    top, left = max(0, y - side // 2), max(0, x - side // 2)
    image = image.copy()
    image[top : top + side, left : left + side] = 0
    return image


@dataclass(frozen=True)
class Augmentation:
    """The eight steps of training but the last (normalisation), with the published defaults."""

    input_size: int = 512
    color_jitter: float = 0.4
    compress_lower: int = 99
    compress_upper: int = 100
    shift_limit: float = 0.2
    scale_limit: float = 0.3
    rotate_limit: float = 10
    shift_scale_rotate_p: float = 0.7
    cutout_size: float = 0.25
    cutout_p: float = 0.5
    crop_scale: float = 0.9
    crop_p: float = 0.5

    def __post_init__(self) -> None:
        if self.input_size < 1 or not 0 < self.crop_scale <= 1:
            raise ValueError(
                f"input_size={self.input_size}, crop_scale={self.crop_scale}: expected a positive "
                "number of pixels, and a share in (0, 1]"
            )
        if not 1 <= self.compress_lower <= self.compress_upper <= 100:
            raise ValueError(
                f"compress_lower={self.compress_lower}, compress_upper={self.compress_upper}: "
                "expected JPEG qualities 1 <= lower <= upper <= 100"
            )
        if not 0 <= self.scale_limit < 1 or not 0 <= self.cutout_size <= 1:
            raise ValueError(
                f"scale_limit={self.scale_limit}, cutout_size={self.cutout_size}: expected "
                "shares, 0 <= scale_limit < 1 and 0 <= cutout_size <= 1"
            )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 RGB of any size -> (input_size, input_size, 3) uint8 RGB."""
        if rng.random() < 0.5:
            image = cv2.flip(image, 1)
        if rng.random() < 0.5:
            image = jitter_colours(image, self.color_jitter, rng)
        if rng.random() < 0.5:
            image = compress(image, int(rng.integers(self.compress_lower, self.compress_upper + 1)))
        if rng.random() < self.shift_scale_rotate_p:
            image = self._warp(image, rng)
        if rng.random() < self.crop_p:
            y, x, h, w = draw_crop(image.shape[0], image.shape[1], self.crop_scale, rng)
            image = image[y : y + h, x : x + w]
        size = self.input_size
        image = resize(image, size, size)
        if rng.random() < self.cutout_p:
            y, x = rng.integers(size, size=2)
            image = cut_hole(image, int(self.cutout_size * size), int(y), int(x))
        return image

    def _warp(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        angle = rng.uniform(-self.rotate_limit, self.rotate_limit)
        scale = rng.uniform(1 - self.scale_limit, 1 + self.scale_limit)
        dx, dy = rng.uniform(-self.shift_limit, self.shift_limit, 2)
        return warp(image, angle, scale, dx, dy)
