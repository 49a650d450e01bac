"""Pictures of a results page: small copies of photographs, and the matches of a pair."""

import base64
import io
import logging
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

THUMBNAIL_SIDE = 224  # longest side in pixels
JPEG_QUALITY = 78
MATCH_HEIGHT, MATCH_WIDTH = 480, 1400  # of a match picture, at most
MAX_LINES = 60  # matches drawn, the strongest

logger = logging.getLogger(__name__)


def jpeg_uri(image: Image.Image) -> str:
    """The image as a data URI, which a page can hold itself."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def load_thumbnail(path: str | Path, box: Sequence[float] | None = None) -> Image.Image:
    """A small RGB copy of the photograph, turned upright as its EXIF tag says.

    JPEG files are decoded at a reduced size. `box`: (x1, y1, x2, y2) in pixels of the upright
    image, drawn as a frame in black and white, which shows on every ground.
    """
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")  # of large images, which `draft` reads in small
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # orientation: a quarter turn
        width = image.height if turned else image.width
        image.draft("RGB", (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
        small = ImageOps.exif_transpose(image)
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        if small.mode in ("RGBA", "LA", "PA", "P"):
            small = small.convert("RGBA")
            ground = Image.new("RGBA", small.size, "white")
            small = Image.alpha_composite(ground, small)
        small = small.convert("RGB")
    if box is not None:
        scale = small.width / width
        corners = [
            float(np.clip(round(v * scale), 1, small.size[i % 2] - 2)) for i, v in enumerate(box)
        ]
        draw = ImageDraw.Draw(small)
        draw.rectangle(corners, outline="black", width=4)
        draw.rectangle(
            [c + s for c, s in zip(corners, (1, 1, -1, -1), strict=True)], outline="white", width=2
        )
    return small


class Thumbnails:
    """Data URIs of photographs; each file is read once, however many lists it stands in."""

    def __init__(self) -> None:
        self._uris: dict[tuple[str, tuple[float, ...] | None], str | None] = {}

    def load(self, images: Iterable[tuple[str | Path, Sequence[float] | None]]) -> None:
        """Reads all (path, box) with a progress bar, several at a time."""
        keys = dict.fromkeys(self._key(path, box) for path, box in images)
        wanted = [key for key in keys if key not in self._uris]
        with ThreadPoolExecutor(4) as pool:
            uris = pool.map(self._make, wanted)
            bar = tqdm(uris, "pictures of the page", len(wanted), unit="image", disable=None)
            self._uris.update(zip(wanted, bar, strict=True))

    def uri(self, path: str | Path, box: Sequence[float] | None = None) -> str | None:
        """The picture, None when the file cannot be read as one."""
        key = self._key(path, box)
        if key not in self._uris:
            self._uris[key] = self._make(key)
        return self._uris[key]

    @staticmethod
    def _key(path: str | Path, box: Sequence[float] | None) -> tuple[str, tuple[float, ...] | None]:
        return str(path), None if box is None else tuple(float(v) for v in box)

    @staticmethod
    def _make(key: tuple[str, tuple[float, ...] | None]) -> str | None:
        try:
            return jpeg_uri(load_thumbnail(*key))
        except Exception as error:  # damaged files make Pillow raise errors of many kinds
            logger.warning("%s cannot be shown as a picture: %s", key[0], error)
            return None


def _fit(image: np.ndarray, height: int) -> np.ndarray:
    size = (max(1, round(image.shape[1] * height / image.shape[0])), height)
    mode = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=mode)


def draw_matches(
    image_a: np.ndarray,
    image_b: np.ndarray,
    points_a: np.ndarray,
    points_b: np.ndarray,
    strength: np.ndarray,
) -> np.ndarray:
    """Two images side by side, their matches as lines: (H, W, 3) uint8, RGB.

    `image_*`: (H, W, 3) uint8, RGB; `points_*`: (M, 2) as (x, y) in pixels of their image;
    `strength`: (M,), larger is stronger. The 60 strongest are drawn, the strongest on top, thicker
    and brighter (viridis, whose brightness grows steadily: it reads in greyscale).
    """
    points_a, points_b = np.asarray(points_a, float), np.asarray(points_b, float)
    strength = np.asarray(strength, float)
    n = len(strength)
    if points_a.shape != (n, 2) or points_b.shape != (n, 2):
        raise ValueError(
            f"points {points_a.shape}, {points_b.shape} for {n} strengths: want ({n}, 2)"
        )
    for image in (image_a, image_b):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    gap, ratio = 8, sum(image.shape[1] / image.shape[0] for image in (image_a, image_b))
    height = max(1, min(MATCH_HEIGHT, int((MATCH_WIDTH - gap) / ratio)))
    left, right = _fit(image_a, height), _fit(image_b, height)
    canvas = np.concatenate([left, np.full((height, gap, 3), 255, np.uint8), right], axis=1)
    ends_a = points_a * (left.shape[1] / image_a.shape[1], height / image_a.shape[0])
    ends_b = points_b * (right.shape[1] / image_b.shape[1], height / image_b.shape[0])
    ends_b[:, 0] += left.shape[1] + gap
    _draw_lines(canvas, ends_a, ends_b, strength)
    return canvas


def _draw_lines(
    canvas: np.ndarray, ends_a: np.ndarray, ends_b: np.ndarray, strength: np.ndarray
) -> None:
    """Draws the strongest matches onto `canvas`, weak ones first; ends are (x, y)."""
    drawn = np.argsort(-strength, kind="stable")[:MAX_LINES][::-1]
    if len(drawn) == 0:
        return
    spread = np.ptp(strength[drawn])
    level = (
        (strength[drawn] - strength[drawn].min()) / spread if spread > 0 else np.ones(len(drawn))
    )
    table = (255 * (0.25 + 0.75 * level)).astype(np.uint8)  # viridis without its darkest quarter
    colours = cv2.applyColorMap(table[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
    fraction = 4  # binary digits of a pixel
    strokes = []
    for k, i in enumerate(drawn):
        a, b = (np.rint(ends[i] * 2**fraction).astype(int).tolist() for ends in (ends_a, ends_b))
        strokes.append((a, b, colours[k].tolist(), 1 + int(level[k] > 0.66)))
    for a, b, _, thick in strokes:  # dark edges of all lines first: a bundle stays bright
        cv2.line(canvas, a, b, (0, 0, 0), thick + 2, cv2.LINE_AA, fraction)
    for a, b, colour, thick in strokes:
        cv2.line(canvas, a, b, colour, thick, cv2.LINE_AA, fraction)
    for a, b, colour, _ in strokes:
        for end in (a, b):
            cv2.circle(canvas, end, 4 << fraction, (0, 0, 0), -1, cv2.LINE_AA, fraction)
            cv2.circle(canvas, end, 3 << fraction, colour, -1, cv2.LINE_AA, fraction)
