"""Two views of a photograph, and which patches of them show the same place.

No part of the published training, which starts from an ImageNet network. The small network of the
generated set starts from nothing, and learns from such pairs what its patches show.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from vitgal.datasets.transforms import MEAN, STD

PATCH = 16  # pixels of a patch's side
SOURCE = 1.25  # side of the square that views are cut from, in sides of a view
MARGIN = 0.06  # of that square: how far a view may reach beyond it
STRETCH = 0.2  # largest logarithm of a view's aspect
LIT = 0.8  # share of the views whose light is changed
NOISY = 0.5  # share of these that get noise
LARGEST_NOISE = 8.0  # standard deviation, grey levels


class TwoViews(NamedTuple):
    """A photograph seen twice."""

    images: np.ndarray  # (2, 3, S, S) float32, normalised
    links: np.ndarray  # (N,) int64: patch of the second view at the centre of each of the first's
    # N = (S / 16)^2 row by row; -1: it lies outside


class ViewAugmentation(NamedTuple):
    """How a view is drawn: a part of the photograph, which is squashed to a square before."""

    input_size: int = 128  # side of a view, a multiple of 16 pixels
    zoom: tuple[float, float] = (0.45, 1.1)  # side of the part, as a share of its side
    rotate_limit: float = 12.0  # largest angle, degrees
    light: float = 1.0  # strength of the change of light; 0: none

    def check(self) -> "ViewAugmentation":
        """ValueError for numbers that make no view; else itself."""
        if self.input_size < PATCH or self.input_size % PATCH:
            raise ValueError(
                f"input_size is {self.input_size}, expected a multiple of {PATCH}: two views are "
                "compared patch by patch"
            )
        if not 0 < self.zoom[0] <= self.zoom[1] or self.light < 0:
            raise ValueError(
                f"view_zoom is {tuple(self.zoom)}, view_light {self.light}; expected 0 < smallest "
                "<= largest, and no negative strength"
            )
        return self

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> TwoViews:
        """(H, W, 3) uint8 RGB of any size -> two views of it."""
        side = round(SOURCE * self.input_size)
        square = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        maps = [self.draw_map(rng) for _ in range(2)]
        views = [relight(self.cut(square, matrix), self.light, rng) for matrix in maps]
        return TwoViews(
            np.stack([((view - MEAN) / STD).transpose(2, 0, 1) for view in views]),
            link_patches(maps[0], maps[1], self.input_size // PATCH),
        )

    def draw_map(self, rng: np.random.Generator) -> np.ndarray:
        """(2, 3): from (x, y) in a view to (x, y) in the square, pixels."""
        size, side = self.input_size, SOURCE * self.input_size
        angle = math.radians(rng.uniform(-self.rotate_limit, self.rotate_limit))
        zoom = math.exp(rng.uniform(math.log(self.zoom[0]), math.log(self.zoom[1])))
        stretch = math.exp(rng.uniform(-STRETCH, STRETCH))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = turn @ np.diag([stretch, 1 / stretch]) * (zoom * SOURCE)
        slack = max(0.0, side * (1 - zoom)) / 2 + MARGIN * side
        centre = side / 2 + rng.uniform(-slack, slack, 2)
        return np.hstack([linear, (centre - linear @ np.full(2, size / 2))[:, None]])

    def cut(self, square: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """The view (S, S, 3) of a map; beyond the picture it is mirrored."""
        return cv2.warpAffine(
            square,
            matrix,
            (self.input_size, self.input_size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )


def relight(image: np.ndarray, light: float, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 -> float32 within 0..255: most images get another exposure and tint."""
    changed = image.astype(np.float32)
    if light == 0 or rng.random() >= LIT:
        return changed
    tint = np.exp(rng.normal(0, 0.25 * light, 3))
    exposure = math.exp(rng.uniform(-1.2, 0.4) * light)
    changed *= (tint * exposure).astype(np.float32)
    if rng.random() < NOISY:
        strength = np.float32(rng.uniform(0, LARGEST_NOISE))
        changed += strength * rng.standard_normal(changed.shape, dtype=np.float32)
    return np.clip(changed, 0, 255, out=changed)


def link_patches(first: np.ndarray, second: np.ndarray, grid: int) -> np.ndarray:
    """(N,) int64, N = grid^2 row by row: the patch of the second view, or -1 outside of it.

    `first`, `second`: (2, 3), from each view to the picture, as of `draw_map`.
    """
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    centres = (np.stack([columns, rows]) + 0.5) * PATCH
    places = first[:, :2] @ centres + first[:, 2:]
    x, y = np.floor(np.linalg.solve(second[:, :2], places - second[:, 2:]) / PATCH).astype(np.int64)
    inside = (x >= 0) & (x < grid) & (y >= 0) & (y < grid)
    return np.where(inside, y * grid + x, -1)
