"""Surfaces of drawn products, and a builder that puts parts together.

A product has a *style* (shape, colours, materials), which look-alikes share, and *details* (marks,
prints, which knob sits where), which are its own: two random generators, never mixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data.drawing import Image, colour, ornament, sign
from data.product_parts import (
    DENSITY,
    Colour,
    Lathe,
    Panel,
    Part,
    Polygon,
    Tube,
    circle,
    shaded,
)

# few colours, so that many products share theirs; each product varies it slightly
PAINTS: dict[str, Colour] = {
    "white": (225, 228, 230),
    "black": (42, 40, 40),
    "steel": (168, 165, 160),
    "red": (45, 40, 165),
    "blue": (150, 90, 50),
    "green": (80, 120, 70),
    "cream": (175, 210, 225),
    "oak": (95, 145, 185),
    "walnut": (45, 70, 105),
    "grey": (110, 112, 114),
    "yellow": (60, 185, 225),
    "teal": (140, 140, 40),
    "pink": (165, 125, 225),
    "purple": (120, 60, 110),
    "orange": (40, 110, 220),
}
PATTERNS = ("plain", "plain", "stripes", "checks", "dots", "zigzag", "weave")
Point = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Look:
    """A colour, a second one, and the pattern that they make; `period` in pixels."""

    colour: Colour
    second: Colour
    pattern: str
    period: int
    slant: bool


def choose_look(rng: np.random.Generator, paints: Sequence[str], patterned: bool = True) -> Look:
    """A look in one of the named paints."""
    base = PAINTS[paints[int(rng.integers(len(paints)))]]
    main = shaded(base, float(rng.uniform(0.85, 1.12)))
    second = shaded(main, float(rng.choice([0.55, 0.75, 1.4])))
    if rng.random() < 0.3:
        second = colour(rng, 60, 240)
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))] if patterned else "plain"
    if paints[0] in ("oak", "walnut") and pattern not in ("checks", "stripes"):
        pattern = "grain"
    return Look(main, second, pattern, int(rng.integers(12, 34)), bool(rng.integers(2)))


def surface(look: Look, w: int, h: int) -> Image:
    """(h, w, 3): the look over a face of that many pixels."""
    x, y = np.meshgrid(np.arange(w), np.arange(h))
    if look.slant:
        x, y = x + y, x - y + h
    p = look.period
    masks = {
        "stripes": x % p < p // 2,
        "checks": (x // p + y // p) % 2 == 0,
        "dots": (x % p - p // 2) ** 2 + (y % p - p // 2) ** 2 < (0.3 * p) ** 2,
        "zigzag": (y + np.abs(x % p - p // 2)) % p < p // 2,
        "weave": (x % 4 < 2) ^ (y % 4 < 2),
        "grain": (y + 3 * np.sin(x / (3.0 * p)) * np.sin(y / 5.0)) % (p / 2) < p / 6,
    }
    flat = np.full((h, w, 3), look.colour, np.uint8)
    if look.pattern == "plain":
        return flat
    second = look.second
    if look.pattern in ("weave", "grain"):
        second = shaded(look.colour, 0.86)
    flat[masks[look.pattern]] = second
    return flat


def mark(img: Image, rng: np.random.Generator, x: int, y: int, r: int) -> None:
    """A print that nobody else has, about (x, y): a medallion, a word or a band of figures."""
    kind = rng.random()
    if kind < 0.62:
        ornament(img, rng, x, y, r)
    elif kind < 0.82:
        sign(img, rng, max(x - 2 * r, 0), y)
    else:
        hue, count = colour(rng, 20, 255), int(rng.integers(2, 5))
        corners = int(rng.integers(3, 7))
        t = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(0, np.pi)
        figure = np.stack([np.cos(t), np.sin(t)], axis=1) * r * 0.6
        for i in range(count):
            at = np.array([x + round((i - count / 2) * 1.5 * r), y])
            cv2.fillPoly(img, [(figure + at).astype(np.int32)], hue, cv2.LINE_AA)


class Builder:
    """Collects the parts of one product; lengths in units, y up, z to the front."""

    def __init__(self, style: np.random.Generator, detail: np.random.Generator) -> None:
        self.style, self.detail = style, detail
        self.parts: list[Part] = []

    def uniform(self, low: float, high: float) -> float:
        """A measure of the style."""
        return float(self.style.uniform(low, high))

    def chance(self, share: float) -> bool:
        """A choice of the style."""
        return bool(self.style.random() < share)

    def look(self, *paints: str, patterned: bool = True) -> Look:
        """A look of the style."""
        return choose_look(self.style, paints, patterned)

    def own_look(self, *paints: str, patterned: bool = True) -> Look:
        """A look of the details, for parts that look-alikes need not share."""
        return choose_look(self.detail, paints, patterned)

    def print_marks(self, img: Image, count: int, smallest: int = 12, largest: int = 32) -> None:
        """Marks of the details, anywhere on a surface (h, w, 3)."""
        h, w = img.shape[:2]
        for _ in range(count):
            r = min(int(self.detail.integers(smallest, largest)), min(h, w) // 2)
            x, y = int(self.detail.integers(r, w - r + 1)), int(self.detail.integers(r, h - r + 1))
            mark(img, self.detail, x, y, max(r, 4))

    def sheet(self, look: Look, wide: float, high: float, marks: int = 0) -> Image:
        """(h, w, 3): a surface of wide x high units with marks."""
        img = surface(look, max(int(wide * DENSITY), 4), max(int(high * DENSITY), 4))
        self.print_marks(img, marks)
        return img

    def panel(self, corners: np.ndarray, img: Image, both: bool = False) -> None:
        """A flat surface; `corners` (4, 3) upper left, then clockwise; img (h, w, 3) or 4."""
        if img.shape[2] == 3:
            img = np.dstack([img, np.full(img.shape[:2], 255, np.uint8)])
        self.parts.append(Panel(np.asarray(corners, float), img, both))

    def box(
        self, centre: Point, size: Point, look: Look, marks: int = 0, front: Image | None = None
    ) -> None:
        """A box; its marks, or the picture `front`, are on the front; the bottom is left out."""
        c, (dx, dy, dz) = np.array(centre, float), np.array(size, float) / 2
        p = {
            (i, j, k): c + np.array([i * dx, j * dy, k * dz])
            for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)
        }  # fmt: skip
        face = self.sheet(look, size[0], size[1], marks) if front is None else front
        side = self.sheet(look, size[2], size[1])
        top = self.sheet(look, size[0], size[2])
        back = self.sheet(look, size[0], size[1])
        for corners, img in (
            ([(-1, 1, 1), (1, 1, 1), (1, -1, 1), (-1, -1, 1)], face),
            ([(1, 1, -1), (-1, 1, -1), (-1, -1, -1), (1, -1, -1)], back),
            ([(1, 1, 1), (1, 1, -1), (1, -1, -1), (1, -1, 1)], side),
            ([(-1, 1, -1), (-1, 1, 1), (-1, -1, 1), (-1, -1, -1)], side),
            ([(-1, 1, -1), (1, 1, -1), (1, 1, 1), (-1, 1, 1)], top),
        ):
            h, w = img.shape[:2]
            cv2.rectangle(img, (0, 0), (w - 1, h - 1), shaded(look.colour, 0.7), 2)
            self.panel(np.array([p[corner] for corner in corners]), img)

    def lathe(
        self, base: Point, heights: Sequence[float], radii: Sequence[float], look: Look,
        marks: int = 0,
    ) -> None:  # fmt: skip
        """A round body; marks lie on its front half."""
        hs, rs = np.array(heights, float), np.array(radii, float)
        img = self.sheet(look, 2 * np.pi * float(rs.max()), float(hs[-1]))
        w = img.shape[1]
        self.print_marks(img[:, w // 5 : w - w // 5], marks)
        texture = np.dstack([img, np.full(img.shape[:2], 255, np.uint8)])
        self.parts.append(Lathe(np.array(base, float), hs, rs, texture))

    def disc(
        self, centre: Point, radius: float, hue: Colour, axis: str = "y", nearer: float = 0.0
    ) -> None:
        """A flat disc about an axis."""
        points = circle(np.array(centre, float), radius, axis)
        self.parts.append(Polygon(points, hue, nearer))

    def polygon(self, points: Sequence[Point], hue: Colour, nearer: float = 0.0) -> None:
        """A flat figure."""
        self.parts.append(Polygon(np.array(points, float), hue, nearer))

    def tube(
        self, points: Sequence[Point] | np.ndarray, radius: float, hue: Colour, closed: bool = False
    ) -> None:
        """A bent bar."""
        self.parts.append(Tube(np.array(points, float), radius, hue, closed))

    def bars(self, ends: Sequence[tuple[Point, Point]], radius: float, hue: Colour) -> None:
        """Straight bars."""
        for a, b in ends:
            self.tube([a, b], radius, hue)
