"""Fronts of drawn houses: what look-alikes share (a style) and what each has alone (details)."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from data.drawing import Image, colour, ornament, sign, texture

SCALE = 18  # texture pixels per metre
GABLES = ("flat", "gable", "steps", "dome", "tower")
Colour = tuple[int, ...]
Rect = tuple[int, int, int, int]  # x1, y1, x2, y2 in texture pixels


@dataclass(frozen=True)
class FrontStyle:
    """What the houses of a terrace, and those of its look-alikes elsewhere, have in common."""

    width: float  # metres, as is `floor`, the height of one
    floor: float
    floors: int
    columns: int  # of windows on a floor
    wall: Colour
    trim: Colour
    material: int  # 0 plaster, 1 bricks, 2 courses of stone, 3 panels
    glass: Colour
    window: tuple[float, float]  # shares of a window's cell
    arched: bool
    cross: bool  # bars in the windows
    shutters: bool
    gable: str  # one of GABLES
    shop: bool
    base: Colour  # of the ground floor

    @property
    def height(self) -> float:
        """Metres from the ground to the eaves; a gable comes on top."""
        return self.floor * self.floors + 0.6

    @property
    def rise(self) -> float:
        """Metres of the gable."""
        return 0.0 if self.gable == "flat" else 0.3 * self.width


class Front(NamedTuple):
    """`picture` (H, W, 4) uint8, BGR and coverage; `windows` are those that can be lit."""

    picture: np.ndarray
    windows: tuple[Rect, ...]
    width: float  # metres
    height: float


def sample_style(rng: np.random.Generator, palette: np.ndarray) -> FrontStyle:
    """Any style; walls are near the colours (N, 3) of the city's palette."""
    base = palette[int(rng.integers(len(palette)))] * rng.uniform(0.85, 1.15)
    wall = tuple(int(c) for c in np.clip(base * rng.uniform(0.92, 1.08, 3), 30, 240))
    pale = int(rng.integers(170, 245))
    trim = (pale, pale, pale) if rng.random() < 0.6 else colour(rng, 50, 240)
    return FrontStyle(
        width=float(rng.uniform(6.5, 13.0)),
        floor=float(rng.uniform(2.8, 3.6)),
        floors=int(rng.integers(2, 6)),
        columns=int(rng.integers(2, 6)),
        wall=wall,
        trim=trim,
        material=int(rng.integers(4)),
        glass=colour(rng, 35, 110),
        window=(float(rng.uniform(0.35, 0.7)), float(rng.uniform(0.45, 0.72))),
        arched=bool(rng.random() < 0.25),
        cross=bool(rng.integers(2)),
        shutters=bool(rng.random() < 0.35),
        gable=GABLES[int(rng.choice(5, p=[0.45, 0.2, 0.12, 0.08, 0.15]))],
        shop=bool(rng.random() < 0.45),
        base=colour(rng, 60, 210) if rng.random() < 0.5 else wall,
    )


def vary_style(style: FrontStyle, rng: np.random.Generator) -> FrontStyle:
    """A neighbour in the same terrace: other width, gable, ground floor and a shade of colour."""
    shade = rng.uniform(0.85, 1.15)
    return replace(
        style,
        width=float(np.clip(style.width * rng.uniform(0.8, 1.25), 5.5, 14)),
        floors=int(np.clip(style.floors + rng.integers(-1, 2), 2, 6)),
        wall=tuple(int(min(c * shade, 240)) for c in style.wall),
        gable=GABLES[int(rng.integers(5))] if rng.random() < 0.4 else style.gable,
        shop=bool(rng.random() < (0.7 if style.shop else 0.15)),
    )


def draw_wall(style: FrontStyle, rng: np.random.Generator, w: int, h: int) -> Image:
    """(h, w, 3): a surface of the style's material."""
    img = texture(style.wall, rng.normal(0, 6, (6, 6, 1)), w, h)
    dark = tuple(int(c * 0.8) for c in style.wall)
    if style.material == 1:
        for y in range(0, h, 7):
            cv2.line(img, (0, y), (w, y), dark, 1)
            for x in range((y // 7 % 2) * 7, w, 14):
                cv2.line(img, (x, y), (x, y + 7), dark, 1)
    elif style.material == 2:
        for y in range(0, h, 13):
            cv2.line(img, (0, y), (w, y), dark, 2)
    elif style.material == 3:
        for x in range(0, w, 26):
            cv2.line(img, (x, 0), (x, h), dark, 2)
    return img


def _pane(img: Image, style: FrontStyle, glass: Colour, box: Rect) -> None:
    """One window with its frame."""
    x1, y1, x2, y2 = box
    middle = (x1 + x2) // 2
    cv2.rectangle(img, (x1 - 2, y1 - 2), (x2 + 2, y2 + 2), style.trim, -1)
    cv2.rectangle(img, (x1, y1), (x2, y2), glass, -1)
    pale = tuple(min(c + 45, 255) for c in glass)
    cv2.fillPoly(img, [np.array([(x1, y1), (middle, y1), (x1, (y1 + y2) // 2)], np.int32)], pale)
    if style.arched:
        half = (x2 - x1) // 2
        cv2.ellipse(img, (middle, y1), (half + 2, half + 2), 0, 180, 360, style.trim, -1)
        cv2.ellipse(img, (middle, y1), (half, half), 0, 180, 360, glass, -1)
    if style.cross:
        cv2.line(img, (middle, y1), (middle, y2), style.trim, 1)
        cv2.line(img, (x1, (y1 + y2) // 2), (x2, (y1 + y2) // 2), style.trim, 1)


def _furnish(img: Image, style: FrontStyle, rng: np.random.Generator, box: Rect) -> None:
    """What the people behind a window did: curtains, shutters, flowers, a balcony."""
    x1, y1, x2, y2 = box
    w, kind = x2 - x1, rng.random()
    if style.shutters:
        tone = tuple(int(c * 0.7) for c in style.trim)
        if kind < 0.3:
            cv2.rectangle(img, (x1, y1), (x2, y2), tone, -1)
        elif kind < 0.85:
            for x in (x1 - w // 2 - 2, x2 + 3):
                cv2.rectangle(img, (x, y1), (x + w // 2 - 1, y2), tone, -1)
    elif kind < 0.3:
        cloth = colour(rng, 120, 250)
        cv2.rectangle(img, (x1, y1), (x2, y1 + int((y2 - y1) * rng.uniform(0.3, 1))), cloth, -1)
    if kind > 0.93:
        rail = colour(rng, 20, 230)
        cv2.rectangle(img, (x1 - 6, y2 - 12), (x2 + 6, y2 + 4), rail, -1)
        cv2.rectangle(img, (x1 - 8, y2 + 3), (x2 + 8, y2 + 6), (60, 60, 60), -1)
    elif kind > 0.85:
        cv2.rectangle(img, (x1 - 2, y2), (x2 + 2, y2 + 4), (60, 130, 60), -1)
        for x in range(x1, x2 + 1, 3):
            cv2.circle(img, (x, y2), 2, colour(rng, 120, 255), -1)


def _draw_floors(
    img: Image, style: FrontStyle, rng: np.random.Generator, top: int
) -> tuple[Rect, ...]:
    """The windows above the ground floor; a few are bricked up or gave way to an ornament."""
    w, step = img.shape[1], round(style.floor * SCALE)
    cell, windows = w / style.columns, []
    for floor in range(style.floors - 1):
        y = top + floor * step
        for column in range(style.columns):
            half, tall = int(cell * style.window[0] / 2), int(step * style.window[1])
            x, y1 = int((column + 0.5) * cell), y + (step - tall) // 2 + 2
            if rng.random() < 0.07:
                ornament(img, rng, x, y1 + tall // 2, max(min(half, tall // 2), 6))
                continue
            box = (x - half, y1, x + half, y1 + tall)
            _pane(img, style, style.glass, box)
            _furnish(img, style, rng, box)
            windows.append(box)
    return tuple(windows)


def _draw_door(img: Image, rng: np.random.Generator, trim: Colour, x: int, top: int) -> None:
    """A door of its own colour, 1.2 m wide, from `top` to the ground."""
    w, h = int(1.2 * SCALE), img.shape[0]
    cv2.rectangle(img, (x - 3, top - 3), (x + w + 3, h), trim, -1)
    paint = colour(rng, 20, 250)
    cv2.rectangle(img, (x, top), (x + w, h), paint, -1)
    dark = tuple(int(c * 0.55) for c in paint)
    if rng.random() < 0.5:
        cv2.rectangle(img, (x + 4, top + 4), (x + w - 4, top + 14), dark, -1)
    else:
        cv2.line(img, (x + w // 2, top), (x + w // 2, h), dark, 2)


def _draw_shop(img: Image, rng: np.random.Generator, x1: int, x2: int, top: int) -> None:
    """A shop window with its goods, its name and sometimes an awning."""
    h, glass = img.shape[0], colour(rng, 60, 170)
    cv2.rectangle(img, (x1, top + 8), (x2, h - 9), glass, -1)
    for _ in range(int(rng.integers(2, 6))):
        x, r = int(rng.integers(x1 + 6, x2 - 5)), int(rng.integers(4, 9))
        ornament(img, rng, x, h - 12 - r, r)
    cv2.rectangle(img, (x1, top + 8), (x2, h - 9), colour(rng, 20, 240), 2)
    board = colour(rng, 20, 250)
    cv2.rectangle(img, (x1 - 3, top - 14), (x2 + 3, top + 8), board, -1)
    sign(img, rng, x1 + 4, top + 4)
    if rng.random() < 0.5:
        tones = (colour(rng, 60, 255), colour(rng, 150, 255))
        for n, x in enumerate(range(x1 - 3, x2 + 3, 11)):
            corners = [(x, top + 8), (x + 11, top + 8), (x + 11, top + 24), (x, top + 24)]
            cv2.fillPoly(img, [np.array(corners, np.int32)], tones[n % 2])


def _draw_ground_floor(img: Image, style: FrontStyle, rng: np.random.Generator) -> None:
    """Door, and a shop, a gate or windows beside it."""
    h, w = img.shape[:2]
    top = h - round(style.floor * SCALE) + 8
    cv2.rectangle(img, (0, top - 8), (w, h), style.base, -1)
    cv2.rectangle(img, (0, top - 9), (w, top - 5), style.trim, -1)
    door = int(1.2 * SCALE)
    at_left = rng.random() < 0.5
    x = 8 if at_left else w - door - 8
    _draw_door(img, rng, style.trim, x, h - int(2.2 * SCALE))
    x1, x2 = (door + 20, w - 10) if at_left else (10, w - door - 20)
    if style.shop:
        _draw_shop(img, rng, x1, x2, top + 6)
    elif rng.random() < 0.25:
        gate = colour(rng, 40, 210)
        cv2.rectangle(img, (x1, top + 8), (x2, h), gate, -1)
        for y in range(top + 8, h, 8):
            cv2.line(img, (x1, y), (x2, y), tuple(int(c * 0.75) for c in gate), 1)
    else:
        for middle in np.linspace(x1, x2, style.columns + 1)[1::2]:
            box = (int(middle) - 9, top + 9, int(middle) + 9, h - 20)
            _pane(img, style, style.glass, box)
            _furnish(img, style, rng, box)


def _outline(style: FrontStyle, w: int, h: int) -> np.ndarray:
    """(h, w) uint8: 255 where the house is."""
    rise = round(style.rise * SCALE)
    mask = np.full((h, w), 255, np.uint8)
    mask[:rise] = 0
    if style.gable == "gable":
        cv2.fillPoly(mask, [np.array([(0, rise), (w // 2, 0), (w, rise)], np.int32)], 255)
    elif style.gable == "steps":
        for step in range(4):
            x = w * step // 8
            cv2.rectangle(mask, (x, rise - (step + 1) * rise // 4), (w - x, rise), 255, -1)
    elif style.gable == "dome":
        cv2.ellipse(mask, (w // 2, rise), (w // 3, rise), 0, 180, 360, 255, -1)
    elif style.gable == "tower":
        cv2.rectangle(mask, (0, rise // 4), (w // 3, rise), 255, -1)
        cv2.fillPoly(mask, [np.array([(0, rise // 4), (w // 6, 0), (w // 3, rise // 4)])], 255)
    return mask


def draw_front(style: FrontStyle, rng: np.random.Generator) -> Front:
    """A house of the style with its own door, shop, curtains, ornaments and paintings."""
    w = round(style.width * SCALE)
    rise = round(style.rise * SCALE)
    h = rise + round(style.height * SCALE)
    img = draw_wall(style, rng, w, h)
    top = rise + round(0.6 * SCALE)
    windows = _draw_floors(img, style, rng, top)
    cv2.rectangle(img, (0, rise), (w, rise + 7), style.trim, -1)
    _draw_ground_floor(img, style, rng)
    if rng.random() < 0.25:  # a painting over some of the windows
        r = int(rng.integers(14, 32))
        x, y = int(rng.integers(r, w - r)), int(rng.integers(top + r, max(h - 3 * r, top + r + 1)))
        for _ in range(3):
            ornament(img, rng, x + int(rng.integers(-8, 9)), y + int(rng.integers(-8, 9)), r)
    if rise and style.gable != "tower":
        ornament(img, rng, w // 2, int(rise * 0.7), max(int(rise * 0.22), 4))
    return Front(np.dstack([img, _outline(style, w, h)]), windows, w / SCALE, h / SCALE)
