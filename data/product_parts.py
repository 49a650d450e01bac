"""Solid parts that drawn products are built of, and how a camera sees them.

Space: x to the right, y up, z towards a camera that looks straight ahead (yaw 0); a product is
about 1 unit tall or wide, its middle near the origin. A part knows its middle (`centre`, by which
parts are drawn from far to near), points that bound it (`extent`) and how to draw itself.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np

from data.drawing import Image, pyramid

Colour = tuple[int, ...]  # BGR
DENSITY = 210  # texture pixels per unit
SUBPIXEL = 4  # fractional bits of OpenCV's coordinates


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at the origin. Angles in degrees, lengths in units or pixels."""

    yaw: float  # > 0: the camera stands on the product's right, seen from the front
    pitch: float  # > 0: above
    roll: float
    distance: float
    focal: float = 1.0  # pixels
    centre: tuple[float, float] = (0.0, 0.0)  # of the picture, x and y in pixels
    light: tuple[float, float, float] = (0.0, 1.0, 1.0)  # unit vector to it, before the camera

    @cached_property
    def turn(self) -> np.ndarray:
        """(3, 3): product to camera, which has x right, y up, z towards it."""
        a, e = np.deg2rad([-self.yaw, self.pitch])
        yaw = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
        pitch = np.array([[1, 0, 0], [0, np.cos(e), -np.sin(e)], [0, np.sin(e), np.cos(e)]])
        return pitch @ yaw

    def scale_at(self, point: np.ndarray) -> float:
        """Pixels per unit at a point (3,)."""
        return self.focal / (self.distance - float(self.turn[2] @ point))

    def project(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) -> (N, 2), x and y in pixels."""
        x, y, z = self.turn @ points.T
        f = self.focal / (self.distance - z)
        r = np.deg2rad(self.roll)
        x, y = f * x, -f * y
        x, y = np.cos(r) * x - np.sin(r) * y, np.sin(r) * x + np.cos(r) * y
        return np.stack([x + self.centre[0], y + self.centre[1]], axis=1)

    def shade(self, normal: np.ndarray) -> float:
        """Brightness of a dull surface with that unit normal (3,), of the product's space."""
        return 0.55 + 0.5 * max(float(np.array(self.light) @ (self.turn @ normal)), 0.0)


class Part(Protocol):
    """Anything that can be drawn."""

    @property
    def centre(self) -> np.ndarray: ...
    @property
    def extent(self) -> np.ndarray: ...
    def draw(self, img: Image, camera: Camera) -> None: ...


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * (1 << SUBPIXEL)).astype(np.int32).reshape(-1, 1, 2)


def shaded(colour: Colour, shade: float) -> Colour:
    """The colour under that light."""
    return tuple(int(min(max(c * shade, 0), 255)) for c in colour)


def blend(img: Image, layer: np.ndarray, x: int, y: int, shade: float) -> None:
    """Lay (h, w, 4) on the picture, its upper left corner at (x, y); clipped to the picture."""
    x1, y1 = max(x, 0), max(y, 0)
    x2, y2 = min(x + layer.shape[1], img.shape[1]), min(y + layer.shape[0], img.shape[0])
    if x2 <= x1 or y2 <= y1:
        return
    part = layer[y1 - y : y2 - y, x1 - x : x2 - x].astype(np.float32)
    alpha = part[..., 3:] * np.float32(1 / 255)
    under = img[y1:y2, x1:x2]
    mixed = part[..., :3] * (alpha * np.float32(shade)) + under * (1 - alpha)
    img[y1:y2, x1:x2] = np.minimum(mixed, 255).astype(np.uint8)


def paste(img: Image, levels: tuple[np.ndarray, ...], corners: np.ndarray, shade: float) -> None:
    """Warp a texture pyramid of (h, w, 4) onto `corners` (4, 2): upper left, then clockwise."""
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, img.shape[1::-1])
    if (high <= low).any():
        return
    covered = float(cv2.contourArea(corners.astype(np.float32)))
    h, w = levels[0].shape[:2]
    shrink = np.sqrt(h * w / max(covered, 1.0))
    level = levels[int(np.clip(np.floor(np.log2(max(shrink, 1.0)) + 0.3), 0, len(levels) - 1))]
    h, w = level.shape[:2]
    source = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    warp = cv2.getPerspectiveTransform(source, (corners - low).astype(np.float32))
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    layer = cv2.warpPerspective(
        level, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    mask = np.zeros(size[::-1], np.uint8)
    cv2.fillPoly(mask, [_fixed(corners - low - 0.5)], 255, cv2.LINE_AA, SUBPIXEL)
    layer[..., 3] = np.minimum(layer[..., 3], mask)
    blend(img, layer, int(low[0]), int(low[1]), shade)


class Panel:
    """A flat textured quadrilateral; drawn from its front only, unless `both` sides show."""

    def __init__(self, corners: np.ndarray, texture: np.ndarray, both: bool = False) -> None:
        """`corners` (4, 3): upper left, then clockwise, seen from the front; texture (h, w, 4)."""
        self.extent = corners
        self.centre = corners.mean(axis=0)
        self.both = both
        self.levels = pyramid(texture, 3)
        normal = np.cross(corners[3] - corners[0], corners[1] - corners[0])
        self.normal = normal / max(float(np.linalg.norm(normal)), 1e-9)

    def draw(self, img: Image, camera: Camera) -> None:
        """Warp the texture."""
        corners = camera.project(self.extent)
        if float(cv2.contourArea(corners.astype(np.float32), oriented=True)) <= 0 and not self.both:
            return  # turned away
        paste(img, self.levels, corners, camera.shade(self.normal))


class Polygon:
    """A flat figure of one colour, seen from both sides."""

    def __init__(self, points: np.ndarray, colour: Colour, nearer: float = 0.0) -> None:
        """`points` (N, 3); `nearer` (units) draws it before what lies at the same depth."""
        self.extent, self.colour = points, colour
        self.centre = points.mean(axis=0) + np.array([0, 0, nearer])
        normal = np.cross(points[1] - points[0], points[len(points) // 2] - points[0])
        self.normal = normal / max(float(np.linalg.norm(normal)), 1e-9)

    def draw(self, img: Image, camera: Camera) -> None:
        """Fill it."""
        normal = self.normal if camera.turn[2] @ self.normal > 0 else -self.normal
        colour = shaded(self.colour, camera.shade(normal))
        cv2.fillPoly(img, [_fixed(camera.project(self.extent))], colour, cv2.LINE_AA, SUBPIXEL)


class Tube:
    """A bent bar of one colour along a line of points, with a highlight."""

    def __init__(
        self, points: np.ndarray, radius: float, colour: Colour, closed: bool = False
    ) -> None:
        self.extent, self.radius, self.colour, self.closed = points, radius, colour, closed
        self.centre = points.mean(axis=0)

    def draw(self, img: Image, camera: Camera) -> None:
        """Draw a thick line, and a thin bright one on it."""
        line = [_fixed(camera.project(self.extent))]
        thick = max(round(2 * self.radius * camera.scale_at(self.centre)), 1)
        for share, shade in ((1.0, 0.72), (0.6, 0.95), (0.2, 1.25)):
            if share == 1.0 or thick * share >= 1:
                cv2.polylines(
                    img, line, self.closed, shaded(self.colour, shade),
                    max(round(thick * share), 1), cv2.LINE_AA, SUBPIXEL,
                )  # fmt: skip


class Lathe:
    """A round body about an upright axis, its texture wrapped around it."""

    def __init__(
        self, base: np.ndarray, heights: np.ndarray, radii: np.ndarray, texture: np.ndarray
    ) -> None:
        """`base` (3,): foot of the axis; radius over rising heights (K,); texture (h, w, 4).

        The texture's top row lies at the greatest height, its middle column in front.
        """
        self.base, self.heights, self.radii, self.texture = base, heights, radii, texture
        top, wide = float(heights[-1]), float(radii.max())
        self.centre = base + np.array([0, top / 2, 0])
        ends = np.array([[x, y, z] for x in (-1, 1) for y in (0, 1) for z in (-1, 1)], float)
        self.extent = base + ends * np.array([wide, top, wide])

    def draw(self, img: Image, camera: Camera) -> None:
        """Find the point of the surface behind each pixel of a sprite, then lay it down turned.

        Seen from the pitch e a point at height h and angle t lies at x = r(h) sin t and
        y = h cos e - r(h) cos t sin e; h follows from (x, y) by fixed-point iteration.
        """
        scale = camera.scale_at(self.centre)
        e, wide = np.deg2rad(camera.pitch), float(self.radii.max())
        low, high = -wide * np.sin(abs(e)), self.heights[-1] * np.cos(e) + wide * np.sin(abs(e))
        cols, rows = max(int(2 * wide * scale) + 3, 4), max(int((high - low) * scale) + 3, 4)
        x = ((np.arange(cols) - (cols - 1) / 2) / scale).astype(np.float32)[None]
        y = (high - (np.arange(rows) - 1) / scale).astype(np.float32)[:, None]
        h = np.broadcast_to(y / np.cos(e), (rows, cols))
        for _ in range(4):
            r = np.interp(h, self.heights, self.radii)
            front = np.sqrt(np.maximum(r**2 - x**2, 0))
            h = (y + front * np.sin(e)) / np.cos(e)
        r = np.interp(h, self.heights, self.radii)
        inside = (h >= 0) & (h <= self.heights[-1])
        edge = np.clip((r - np.abs(x)) * scale, 0, 1)  # share of the pixel that is covered
        angle = np.arcsin(np.clip(x / np.maximum(r, 1e-6), -1, 1))
        th, tw = self.texture.shape[:2]
        u = ((angle + np.deg2rad(camera.yaw)) / (2 * np.pi) + 0.5) * tw
        v = (1 - h / self.heights[-1]) * (th - 1)
        layer = cv2.remap(
            self.texture, u.astype(np.float32), v.astype(np.float32),
            cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP,
        )  # fmt: skip
        light = 0.55 + 0.55 * np.maximum(np.cos(angle - np.arctan2(*camera.light[::2])), 0)
        layer[..., :3] = np.minimum(layer[..., :3] * light[..., None], 255).astype(np.uint8)
        layer[..., 3] = np.where(inside, edge * layer[..., 3], 0)
        foot = (cols - 1) / 2, 1 + high * scale
        at = camera.project(self.base[None])[0]
        place = cv2.getRotationMatrix2D(foot, -camera.roll, 1.0)
        place[:, 2] += at - np.array(foot)
        low_xy, size = _bounds(place, rows, cols)
        place[:, 2] -= low_xy
        turned = cv2.warpAffine(layer, place, size, flags=cv2.INTER_LINEAR)
        blend(img, turned, int(low_xy[0]), int(low_xy[1]), 1.0)


def _bounds(place: np.ndarray, rows: int, cols: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Upper left corner (x, y) and size (w, h) of a picture after the affine map (2, 3)."""
    corners = np.array([[0, 0, 1], [cols, 0, 1], [0, rows, 1], [cols, rows, 1]]) @ place.T
    low = np.floor(corners.min(axis=0)).astype(int)
    high = np.ceil(corners.max(axis=0)).astype(int) + 1
    return low, (int(high[0] - low[0]), int(high[1] - low[1]))


def circle(centre: np.ndarray, radius: float, axis: str, count: int = 28) -> np.ndarray:
    """(count, 3): a circle about an axis "x", "y" or "z" through its centre (3,)."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    a, b, zero = radius * np.cos(t), radius * np.sin(t), np.zeros(count)
    order = {"x": (zero, a, b), "y": (a, zero, b), "z": (a, b, zero)}[axis]
    return centre + np.stack(order, axis=1)
