"""Drawn products of twelve super-classes, those of Stanford Online Products."""

from collections.abc import Callable

import cv2
import numpy as np

from data.product_builder import Builder, Look
from data.product_furniture import cabinet, chair, lamp, sofa, table
from data.product_kitchen import coffee_maker, kettle, mug, toaster
from data.product_parts import Part, circle, shaded


def bicycle(b: Builder) -> None:
    """Two wheels, a frame, saddle and handlebar; stickers, bottle, basket, rack, reflectors."""
    frame, dark = (
        b.look("red", "blue", "black", "white", "green", "yellow", "teal", "pink", patterned=False),
        (40, 40, 40),
    )
    r, base = b.uniform(0.24, 0.31), b.uniform(0.46, 0.54)
    ground, crank = -0.34 + r, np.array([-0.03, -0.34 + r - 0.02, 0.0])
    back, front = np.array([-base / 1.1, ground, 0.0]), np.array([base / 1.1, ground, 0.0])
    seat = np.array([b.uniform(-0.2, -0.12), b.uniform(0.2, 0.32), 0.0])
    head = np.array([b.uniform(0.22, 0.32), b.uniform(0.2, 0.34), 0.0])
    step, thick = b.chance(0.4), b.uniform(0.012, 0.022)
    low_head = head - np.array([-0.03, 0.1 if not step else 0.16, 0])
    tyre, rim = b.uniform(0.01, 0.022), shaded((190, 190, 190), b.uniform(0.4, 1.1))
    spokes = int(b.style.integers(5, 15))
    for wheel in (back, front):
        b.tube(circle(wheel, r, "z", 40), tyre, dark, closed=True)
        b.tube(circle(wheel, r * 0.9, "z", 40), 0.006, rim, closed=True)
        for point in circle(wheel, r * 0.88, "z", spokes):
            b.tube([wheel, point], 0.002, (170, 170, 170))
        for point in circle(wheel, r * 0.6, "z", 12)[b.detail.permutation(12)[:2]]:
            hue = [(30, 140, 240), (240, 240, 240), (40, 40, 200)][int(b.detail.integers(3))]
            b.disc(point, 0.035, hue, "z", 0.01)
    top = low_head if step else head - np.array([0, 0.04, 0])
    ends = [(crank, seat), (crank, low_head), (seat * [1, 0.75, 1], top), (back, crank)]
    b.bars([*ends, (back, seat * [1, 0.7, 1]), (head, front)], thick, frame.colour)
    b.tube(circle(crank, b.uniform(0.05, 0.08), "z"), 0.012, (120, 120, 120), closed=True)
    b.bars([(crank, _at(crank, 0.08, -0.08, 0.05))], 0.009, dark)
    b.polygon(
        [_at(seat, -0.13, 0.05, 0.03), _at(seat, 0.1, 0.05, 0.0), _at(seat, -0.1, 0.0, -0.03)], dark
    )
    bend, out = b.uniform(-0.1, 0.12), b.uniform(0.08, 0.16)
    for z in (-1, 1):
        b.tube(
            [head, _at(head, 0.02, 0.05, out * z), _at(head, -bend, 0.06, out * z * 1.2)],
            0.01,
            dark,
        )
    _bicycle_extras(b, frame, crank, low_head, back, front, r)


def _at(point: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    return point + np.array([x, y, z])


def _bicycle_extras(
    b: Builder, frame: Look, crank: np.ndarray, head: np.ndarray, back: np.ndarray,
    front: np.ndarray, r: float,
) -> None:  # fmt: skip
    """Sticker boards on the down tube, a basket, a rack, mudguards."""
    for share in b.detail.uniform(0.25, 0.75, int(b.detail.integers(1, 3))):
        at, wide = crank + (head - crank) * share, 0.09
        square = np.array(
            [[-wide, wide, 0.03], [wide, wide, 0.03], [wide, -wide, 0.03], [-wide, -wide, 0.03]]
        )
        b.panel(
            at + square * 0.8,
            b.sheet(b.own_look("white", "black", "cream", patterned=False), 0.3, 0.3, 3),
            True,
        )
    if b.detail.random() < 0.35:
        b.box(
            _at(front, 0.06, r + 0.2, 0), (0.2, 0.15, 0.2), b.own_look("oak", "black", "white"), 2
        )
    if b.detail.random() < 0.45:
        b.box(
            _at(back, -0.02, r + 0.1, 0), (0.26, 0.05, 0.1), b.own_look("black", "steel", "red"), 1
        )
    if b.chance(0.5):
        for wheel in (back, front):
            arc = circle(wheel, r * 1.1, "z", 40)[4:17]
            b.tube(arc, 0.012, frame.colour)


def fan(b: Builder) -> None:
    """A cage with blades on a stand; hub print, cage figure, knobs."""
    metal = b.look("white", "black", "steel", "blue", "cream", "pink", "teal", patterned=False)
    blade = b.look("white", "grey", "blue", "green", "red", "yellow", "orange", patterned=False)
    r, low = b.uniform(0.26, 0.36), -0.5
    middle = np.array([0.0, b.uniform(0.1, 0.24), 0.1])
    b.box((0, low + 0.05, 0), (b.uniform(0.3, 0.5), 0.1, 0.34), metal, 2)
    b.tube([(0, low + 0.1, 0), (0, middle[1], -0.02)], b.uniform(0.02, 0.045), metal.colour)
    b.tube([(0, middle[1], -0.1), (0, middle[1], 0.06)], 0.08, shaded(metal.colour, 0.9))
    count, twist = int(b.style.integers(3, 6)), b.uniform(0.3, 0.8)
    broad = b.uniform(0.5, 0.85)
    for t in np.arange(count) * 2 * np.pi / count + b.detail.uniform(0, 2):
        turn = [t, t + twist * broad, t + twist * broad * 1.4, t + 0.2]
        reach = [0.25, 0.85, 0.92, 0.3]
        points = [
            _at(middle, r * k * np.cos(a), r * k * np.sin(a), -0.02)
            for a, k in zip(turn, reach, strict=True)
        ]
        b.polygon(points, blade.colour)
    rings, rays = int(b.style.integers(2, 5)), int(b.style.integers(8, 22))
    for i in range(rings):
        ring = circle(middle, r * (0.35 + 0.65 * (i + 1) / rings), "z", 44)
        b.tube(ring, 0.012 if i == rings - 1 else 0.004, metal.colour, closed=True)
    bend = b.uniform(0.0, 0.35)
    for outer, inner in zip(
        circle(middle, r, "z", rays), circle(middle, r * 0.3, "z", rays), strict=True
    ):
        half = middle + np.array(
            [[np.cos(bend), -np.sin(bend), 0], [np.sin(bend), np.cos(bend), 0], [0, 0, 1]]
        ) @ ((outer + inner) / 2 - middle)
        b.tube([outer, half, inner], 0.003, metal.colour)
    hub = r * b.uniform(0.28, 0.4)
    square = np.array([[-hub, hub, 0.03], [hub, hub, 0.03], [hub, -hub, 0.03], [-hub, -hub, 0.03]])
    img = b.sheet(b.look("white", "red", "steel", "black"), 2 * hub, 2 * hub, 3)
    round_mask = np.zeros(img.shape[:2], np.uint8)
    cv2.circle(
        round_mask,
        (img.shape[1] // 2, img.shape[0] // 2),
        min(img.shape[:2]) // 2 - 1,
        255,
        -1,
        cv2.LINE_AA,
    )
    b.panel(middle + square, np.dstack([img, round_mask]), True)


def stapler(b: Builder) -> None:
    """A foot and a long arm, hinged at one end; prints along the arm."""
    arm = b.look("black", "red", "steel", "blue", "white", "grey", "yellow", "teal", "pink")
    long, wide, tall = b.uniform(0.8, 1.0), b.uniform(0.14, 0.22), b.uniform(0.12, 0.2)
    foot = b.look("black", "grey", "steel", patterned=False)
    b.box((0, -0.2, 0), (long, 0.06, wide * 1.2), foot)
    lift = b.uniform(0.08, 0.26)
    left, right = -long / 2 + 0.03, long / 2 * b.uniform(0.85, 1.0)
    nose = b.uniform(0.4, 1.0)
    y1, y2 = -0.14, -0.14 + lift
    z = wide / 2
    img = b.sheet(arm, right - left, tall, int(b.detail.integers(2, 5)))
    upper, lower = [(left, y1 + tall), (right, y2 + tall * nose)], [(right, y2), (left, y1)]
    for side, flip in ((z, False), (-z, True)):
        ring = [(*upper[0], side), (*upper[1], side), (*lower[0], side), (*lower[1], side)]
        order = [1, 0, 3, 2] if flip else [0, 1, 2, 3]
        b.panel(np.array([ring[i] for i in order]), img)
    top = [(*upper[0], -z), (*upper[1], -z), (*upper[1], z), (*upper[0], z)]
    b.panel(np.array(top), b.sheet(arm, right - left, wide, int(b.detail.integers(1, 3))))
    end = [(*upper[1], z), (*upper[1], -z), (*lower[0], -z), (*lower[0], z)]
    b.panel(np.array(end), b.sheet(foot, wide, tall))
    b.tube([(left, -0.19, 0), (right - 0.05, y2 - 0.02, 0)], 0.03, (170, 170, 170))
    hinge = float(b.detail.uniform(0.03, 0.06))
    b.disc((left + 0.06, -0.1, z + 0.01), hinge, (150, 150, 150), "z", 0.05)


SUPER_CLASSES: dict[str, Callable[[Builder], None]] = {
    "bicycle": bicycle,
    "cabinet": cabinet,
    "chair": chair,
    "coffee_maker": coffee_maker,
    "fan": fan,
    "kettle": kettle,
    "lamp": lamp,
    "mug": mug,
    "sofa": sofa,
    "stapler": stapler,
    "table": table,
    "toaster": toaster,
}


def draw_product(
    super_class: str, style: np.random.Generator, detail: np.random.Generator
) -> list[Part]:
    """The parts of a product; `style` is shared by look-alikes, `detail` is its own."""
    builder = Builder(style, detail)
    SUPER_CLASSES[super_class](builder)
    return builder.parts
