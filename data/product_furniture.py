"""Drawn furniture: cabinet, chair, lamp, sofa, table."""

import cv2
import numpy as np

from data.drawing import Image
from data.product_builder import Builder, Look
from data.product_parts import DENSITY, shaded

WOODS = ("oak", "walnut", "white", "cream", "black", "grey")
CLOTHS = (
    "grey",
    "cream",
    "red",
    "blue",
    "green",
    "walnut",
    "black",
    "yellow",
    "teal",
    "purple",
    "orange",
)


def _fronts(b: Builder, look: Look, wide: float, high: float, rows: int, columns: int) -> Image:
    """Drawers, doors and open shelves in rows and columns, each with its knob."""
    img = b.sheet(look, wide, high)
    h, w = img.shape[0] // rows, img.shape[1] // columns
    line, knob = shaded(look.colour, 0.5), shaded((60, 150, 190), b.uniform(0.4, 1.3))
    handle = int(b.style.integers(3))
    for row in range(rows):
        for column in range(columns):
            x, y, kind = column * w, row * h, b.detail.random()
            hue = shaded(look.colour, float(b.detail.choice([0.9, 1.0, 1.1])))
            if kind < 0.2:  # an open shelf
                cv2.rectangle(img, (x + 3, y + 3), (x + w - 3, y + h - 3), line, -1)
                b.print_marks(img[y + 3 : y + h - 3, x + 3 : x + w - 3], 2, 5, 12)
                continue
            cv2.rectangle(img, (x + 4, y + 4), (x + w - 4, y + h - 4), hue, 2)
            cv2.rectangle(img, (x + 2, y + 2), (x + w - 2, y + h - 2), line, 2)
            side = 0.5 if kind < 0.5 else float(b.detail.choice([0.15, 0.85]))
            at = (x + int(w * side), y + h // 2)
            if handle == 0:
                cv2.circle(img, at, 5, knob, -1, cv2.LINE_AA)
            elif handle == 1:
                cv2.rectangle(img, (at[0] - 9, at[1] - 2), (at[0] + 9, at[1] + 2), knob, -1)
            else:
                cv2.ellipse(img, at, (9, 6), 0, 0, 180, knob, 2, cv2.LINE_AA)
            if b.detail.random() < 0.25:
                inner = img[y + 5 : y + h - 5, x + 5 : x + w - 5]
                b.print_marks(inner, 1, 8, 16)
    return img


def cabinet(b: Builder) -> None:
    """A box of drawers and doors on feet; carvings, open shelves, knobs."""
    look = b.look(*WOODS)
    wide, high, deep = b.uniform(0.5, 1.0), b.uniform(0.45, 1.0), b.uniform(0.28, 0.42)
    rows, columns = max(round(high / b.uniform(0.2, 0.34)), 1), max(round(wide / 0.36), 1)
    b.box((0, 0, 0), (wide, high, deep), look, front=_fronts(b, look, wide, high, rows, columns))
    edge = b.uniform(0.0, 0.05)
    b.box((0, high / 2 + 0.02, 0), (wide + edge, 0.04, deep + edge), b.look(*WOODS))
    foot, hue = b.uniform(0.02, 0.16), shaded(look.colour, 0.7)
    for x in (-1, 1):
        for z in (-1, 1):
            top = np.array([x * (wide / 2 - 0.04), -high / 2, z * (deep / 2 - 0.04)])
            b.tube([top, top - [0, foot, 0]], 0.02, hue)


def _legs(b: Builder, wide: float, deep: float, top: float, low: float) -> None:
    """Four legs and, sometimes, bars between them."""
    hue, thick = b.look(*WOODS, "steel", patterned=False).colour, b.uniform(0.012, 0.03)
    splay, bar = b.uniform(0.0, 0.07), b.uniform(0.25, 0.6)
    bars = [bool(side) for side in b.detail.integers(0, 2, 4)]
    x, z = wide / 2 - 0.03, deep / 2 - 0.03
    corners = [(-x, -z), (x, -z), (x, z), (-x, z)]
    for (cx, cz), (nx, nz), has_bar in zip(corners, corners[1:] + corners[:1], bars, strict=True):
        foot = (cx + np.sign(cx) * splay, low, cz + np.sign(cz) * splay)
        b.tube([(cx, top, cz), foot], thick, hue)
        if has_bar:
            y = top + (low - top) * bar
            b.tube([(cx, y, cz), (nx, y, nz)], thick * 0.7, shaded(hue, 0.9))


def chair(b: Builder) -> None:
    """A seat on four legs with a back of slats or a board; cushion, prints, bars."""
    wide, deep, seat = b.uniform(0.4, 0.52), b.uniform(0.38, 0.48), b.uniform(-0.1, 0.02)
    wood, cloth = b.look(*WOODS), b.look(*CLOTHS)
    _legs(b, wide, deep, seat, -0.52)
    b.box((0, seat, 0), (wide, b.uniform(0.03, 0.08), deep), cloth)
    top, z = seat + b.uniform(0.42, 0.56), -deep / 2
    lean, x = b.uniform(0.02, 0.12), wide / 2 - 0.02
    for side in (-1, 1):
        b.tube([(side * x, seat, z), (side * x, top, z - lean)], 0.02, wood.colour)
    if b.chance(0.5):  # a board
        low = seat + b.uniform(0.05, 0.2)
        img = b.sheet(b.look(*CLOTHS, *WOODS), 2 * x, top - low, int(b.detail.integers(2, 4)))
        corners = [(-x, top, z - lean), (x, top, z - lean), (x, low, z), (-x, low, z)]
        b.panel(np.array(corners), img, both=True)
    else:
        present = b.detail.random(7) < 0.65
        upright = b.chance(0.5)
        for share in np.linspace(0.1, 0.9, 7)[present]:
            if upright:
                ends = [(x * (2 * share - 1), seat, z), (x * (2 * share - 1), top, z - lean)]
            else:
                y = seat + (top - seat) * share
                ends = [(-x, y, z - lean * share), (x, y, z - lean * share)]
            b.tube(ends, 0.013, wood.colour)
        crest = b.sheet(wood, 2 * x, 0.13, 1)
        corners = [
            (-x, top + 0.08, z - lean),
            (x, top + 0.08, z - lean),
            (x, top - 0.05, z - lean),
            (-x, top - 0.05, z - lean),
        ]
        b.panel(np.array(corners), crest, both=True)
    if b.detail.random() < 0.6:
        cx, cz, y = wide * 0.4, deep * 0.4, seat + 0.06
        img = b.sheet(b.own_look(*CLOTHS), 2 * cx, 2 * cz, 3)
        b.panel(np.array([(-cx, y, -cz), (cx, y, -cz), (cx, y, cz), (-cx, y, cz)]), img)


def lamp(b: Builder) -> None:
    """A turned or straight stem under a shade; prints on the shade, beads on the stem."""
    shade, stem = (
        b.look("cream", "white", "red", "blue", "green", "grey"),
        b.look("black", "steel", "oak", "white", patterned=False),
    )
    high, low_r, top_r = b.uniform(0.26, 0.42), b.uniform(0.2, 0.34), b.uniform(0.08, 0.22)
    foot, y = b.uniform(0.1, 0.2), b.uniform(0.0, 0.15)
    b.lathe((0, -0.55, 0), (0, 0.03, 0.06), (foot, foot * 0.9, 0.03), stem)
    if b.chance(0.5):  # turned
        rs = [0.03, *(float(r) for r in b.style.uniform(0.03, 0.13, 5)), 0.02]
        b.lathe(
            (0, -0.5, 0),
            np.linspace(0, y + 0.5, 7).tolist(),
            rs,
            stem,
            int(b.detail.integers(1, 3)),
        )
    else:
        bend = b.uniform(-0.12, 0.12)
        b.tube(
            [(0, -0.5, 0), (bend, (y - 0.5) / 2, 0), (0, y, 0)], b.uniform(0.012, 0.03), stem.colour
        )
    for share in b.detail.uniform(0.1, 0.85, int(b.detail.integers(1, 4))):
        r, at = float(b.detail.uniform(0.03, 0.06)), -0.5 + share * (y + 0.5)
        b.lathe(
            (0, at, 0),
            (0, r, 2 * r),
            (0.02, r, 0.02),
            b.own_look("red", "steel", "blue", "oak", patterned=False),
        )
    waist = (low_r + top_r) / 2 * b.uniform(0.8, 1.15)
    b.lathe(
        (0, y, 0), (0, high / 2, high), (low_r, waist, top_r), shade, int(b.detail.integers(2, 6))
    )
    b.disc((0, y + high, 0), top_r * 0.97, shaded(shade.colour, 1.2))


def sofa(b: Builder) -> None:
    """Seat, back and arms; cushions with patterns and prints."""
    cloth = b.look(*CLOTHS)
    wide, arm = b.uniform(0.7, 1.15), b.uniform(0.07, 0.15)
    seat, back, rest = b.uniform(-0.12, -0.02), b.uniform(0.2, 0.36), b.uniform(0.02, 0.16)
    low, deep = -0.26, 0.42
    b.box(
        (0, (seat + low) / 2, 0.03), (wide, seat - low, deep), cloth, int(b.detail.integers(0, 2))
    )
    b.box((0, (back + low) / 2, -deep / 2 + 0.02), (wide, back - low, 0.12), cloth, 2)
    for side in (-1, 1):
        x = side * (wide / 2 + arm / 2)
        b.box((x, (rest + low) / 2, 0.02), (arm, rest - low, deep), cloth, 1)
        b.tube([(x, low, deep / 2), (x, low - 0.06, deep / 2)], 0.02, (50, 60, 70))
    count = int(b.style.integers(1, 4))
    step = wide / count
    for i in range(count):
        x = (i + 0.5) * step - wide / 2
        b.box((x, seat + 0.04, 0.05), (step * 0.95, 0.08, deep * 0.9), cloth)
    throw = b.look(*CLOTHS), b.look(*CLOTHS)
    for i in b.detail.permutation(4)[: int(b.detail.integers(1, 4))]:
        size, x = float(b.detail.uniform(0.17, 0.26)), ((i + 0.5) / 4 - 0.5) * wide * 0.9
        y, z = seat + 0.06, float(b.detail.uniform(-0.05, 0.08))
        corners = [
            (x - size / 2, y + size, z - 0.09),
            (x + size / 2, y + size, z - 0.09),
            (x + size / 2, y, z),
            (x - size / 2, y, z),
        ]
        img = b.sheet(throw[int(b.detail.integers(2))], size, size, 2)
        b.panel(np.array(corners), img, both=True)


def table(b: Builder) -> None:
    """A board on legs or a pillar; inlays, a drawer, a shelf, things painted on the top."""
    look, wide, deep = b.look(*WOODS), b.uniform(0.6, 1.1), b.uniform(0.4, 0.65)
    top, low, thick = b.uniform(0.08, 0.22), -0.36, b.uniform(0.02, 0.05)
    board = b.sheet(look, wide, deep, int(b.detail.integers(2, 5)))
    x, z, y = wide / 2, deep / 2, top + thick
    if b.chance(0.3):  # round
        mask = np.zeros(board.shape[:2], np.uint8)
        h, w = board.shape[:2]
        cv2.ellipse(
            mask, (w // 2, h // 2), (w // 2 - 1, h // 2 - 1), 0, 0, 360, 255, -1, cv2.LINE_AA
        )
        board = np.dstack([board, mask])
    else:
        b.box((0, top + thick / 2 - 0.002, 0), (wide, thick, deep), look)
    b.panel(np.array([(-x, y, -z), (x, y, -z), (x, y, z), (-x, y, z)]), board)
    if b.chance(0.3):
        r = b.uniform(0.04, 0.09)
        rs = [float(s) * r for s in b.style.uniform(0.5, 1.3, 6)]
        b.lathe((0, low, 0), np.linspace(0, top - low, 6).tolist(), rs, b.look(*WOODS), 1)
        b.lathe((0, low, 0), (0, 0.05), (0.25, 0.1), b.look(*WOODS))
    else:
        _legs(b, wide * 0.92, deep * 0.92, top, low)
    if b.detail.random() < 0.6:
        cells, high = int(b.detail.integers(1, 4)), 0.13
        img = _fronts(b, look, wide * 0.8, high, 1, cells)
        b.box((0, top - high / 2, 0), (wide * 0.8, high, deep * 0.8), look, front=img)
    if b.detail.random() < 0.4:
        b.box((0, low + 0.14, 0), (wide * 0.85, int(0.03 * DENSITY) / DENSITY, deep * 0.8), look, 0)
