"""Drawn things of the kitchen: coffee maker, kettle, mug, toaster."""

import cv2
import numpy as np

from data.drawing import Image
from data.product_builder import Builder, Look
from data.product_parts import shaded

CASES = (
    "black",
    "steel",
    "white",
    "red",
    "cream",
    "grey",
    "blue",
    "yellow",
    "teal",
    "pink",
    "orange",
)


def _controls(b: Builder, img: Image, count: int) -> None:
    """Dials, buttons, lamps and displays of the details on a surface (h, w, 3)."""
    h, w = img.shape[:2]
    for _ in range(count):
        x, y = int(b.detail.integers(8, max(w - 8, 9))), int(b.detail.integers(8, max(h - 8, 9)))
        r = int(b.detail.integers(6, 14))
        hue = [(40, 40, 40), (225, 225, 225), (40, 40, 190), (150, 190, 90), (60, 170, 230)]
        paint = hue[int(b.detail.integers(5))]
        if b.detail.random() < 0.5:
            cv2.circle(img, (x, y), r, paint, -1, cv2.LINE_AA)
            end = (x + round(r * np.cos(y)), y + round(r * np.sin(y)))
            cv2.line(img, (x, y), end, (250, 250, 250), 2, cv2.LINE_AA)
        else:
            cv2.rectangle(img, (x - r, y - r // 2), (x + r, y + r // 2), paint, -1)


def _handle(
    b: Builder, x: float, low: float, high: float, reach: float, thick: float, look: Look
) -> None:
    """A handle on the right (reach > 0) or left side, from height `low` to `high`."""
    square = b.uniform(0.5, 1.0)
    t = np.linspace(-np.pi / 2, np.pi / 2, 13)
    bow = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** square
    points = np.stack([x + reach * bow, (low + high) / 2 + (high - low) / 2 * np.sin(t), 0 * t], 1)
    b.tube(points, thick, look.colour)


def mug(b: Builder) -> None:
    """A cup with a handle; a printed band of marks is all that look-alikes differ in."""
    look, high = b.look(*CASES, "green"), b.uniform(0.6, 0.85)
    low_r = b.uniform(0.22, 0.34)
    top_r, waist = low_r * b.uniform(0.9, 1.3), low_r * b.uniform(0.85, 1.2)
    _handle(b, top_r * 0.85, -high * 0.3, high * 0.3, b.uniform(0.18, 0.28), 0.03, look)
    heights = (0, high * 0.08, high * 0.5, high)
    b.lathe(
        (0, -high / 2, 0),
        heights,
        (low_r * 0.85, low_r, waist, top_r),
        look,
        int(b.detail.integers(3, 7)),
    )
    b.disc((0, high / 2, 0), top_r, shaded(look.colour, 1.1))
    b.disc((0, high / 2 - 0.01, 0), top_r * 0.92, shaded(look.colour, 0.55), nearer=0.01)


def kettle(b: Builder) -> None:
    """A round body with spout, lid and handle; prints, a gauge, a knob."""
    look, dark = b.look(*CASES, "green"), b.look("black", "oak", "grey", patterned=False)
    high, r = b.uniform(0.45, 0.65), b.uniform(0.26, 0.36)
    belly = b.uniform(0.15, 0.6)
    top_r, y = r * b.uniform(0.4, 0.75), -high / 2 - 0.06
    side = 1 if b.chance(0.5) else -1
    spout = b.uniform(0.5, 0.95)
    tip = np.array([side * (r + b.uniform(0.1, 0.2)), y + high * spout, 0])
    b.tube(
        [(side * r * 0.7, y + high * 0.35, 0), tip * [0.9, 0.6, 1], tip],
        b.uniform(0.03, 0.06),
        look.colour,
    )
    if b.chance(0.5):  # over the top
        t = np.linspace(0, np.pi, 13)
        arch = np.stack(
            [top_r * 1.2 * np.cos(t), y + high * 0.9 + b.uniform(0.2, 0.34) * np.sin(t), 0 * t], 1
        )
        b.tube(arch, 0.025, dark.colour)
    else:
        _handle(
            b,
            -side * r * 0.8,
            y + high * 0.2,
            y + high * 0.9,
            -side * b.uniform(0.16, 0.26),
            0.028,
            dark,
        )
    b.lathe(
        (0, y, 0), (0, high * belly, high), (r * 0.9, r, top_r), look, int(b.detail.integers(3, 6))
    )
    b.lathe(
        (0, y + high, 0),
        (0, 0.04, 0.07),
        (top_r, top_r * 0.8, 0.02),
        b.look(*CASES, patterned=False),
    )
    knob = float(b.detail.uniform(0.025, 0.055))
    b.lathe(
        (0, y + high + 0.05, 0),
        (0, knob, 2 * knob),
        (0.02, knob, 0.015),
        b.own_look("black", "red", "steel", "oak", patterned=False),
    )


def coffee_maker(b: Builder) -> None:
    """A base, a column and a head around a jug; controls, prints, a display."""
    look, other = b.look(*CASES, patterned=False), b.look(*CASES)
    wide, high, deep = b.uniform(0.42, 0.58), b.uniform(0.8, 1.0), b.uniform(0.4, 0.5)
    base, head = b.uniform(0.08, 0.16), b.uniform(0.2, 0.32)
    low, top = -high / 2, high / 2
    foot = b.sheet(look, wide, base)
    _controls(b, foot, int(b.detail.integers(1, 4)))
    b.box((0, low + base / 2, 0), (wide, base, deep), look, front=foot)
    column = deep * 0.35
    b.box((0, 0, -deep / 2 + column / 2), (wide, high - 0.02, column), other, 1)
    front = b.sheet(look, wide, head, 1)
    _controls(b, front, int(b.detail.integers(2, 6)))
    b.box((0, top - head / 2, 0), (wide, head, deep), look, front=front)
    jug = high - base - head - 0.08
    r, glass = (
        wide * b.uniform(0.3, 0.42),
        b.look("black", "grey", "steel", "walnut", patterned=False),
    )
    z = deep * 0.12
    b.lathe(
        (0, low + base, z),
        (0, jug * 0.4, jug * 0.85, jug),
        (r * 0.8, r, r * 0.7, r * 0.75),
        glass,
        int(b.detail.integers(1, 4)),
    )
    _handle(
        b,
        r * 0.8,
        low + base + jug * 0.2,
        low + base + jug * 0.85,
        0.12 * (1 if b.chance(0.5) else -1) + 0.02,
        0.02,
        b.look("black", "white", patterned=False),
    )


def toaster(b: Builder) -> None:
    """A box with slots on top; lever, dials, prints and a pattern on the front."""
    look, trim = b.look(*CASES, "green"), b.look("black", "steel", "white", patterned=False)
    wide, high, deep = b.uniform(0.75, 1.0), b.uniform(0.48, 0.62), b.uniform(0.34, 0.5)
    front = b.sheet(look, wide, high, int(b.detail.integers(2, 4)))
    band = int(front.shape[0] * b.uniform(0.0, 0.35))
    if band > 8:
        front[-band:] = trim.colour
        _controls(b, front[-band:], int(b.detail.integers(1, 5)))
    _controls(b, front, int(b.detail.integers(0, 3)))
    b.box((0, 0, 0), (wide, high, deep), look, front=front)
    top = b.sheet(trim, wide * 0.9, deep * 0.8)
    slots = int(b.style.integers(1, 3))
    h, w = top.shape[:2]
    for i in range(slots):
        y = int((i + 0.5) / slots * h)
        cv2.rectangle(top, (w // 10, y - h // 12), (w - w // 10, y + h // 12), (25, 25, 25), -1)
    x, z, y1 = wide * 0.45, deep * 0.4, high / 2 + 0.005
    b.panel(np.array([(-x, y1, -z), (x, y1, -z), (x, y1, z), (-x, y1, z)]), top)
    side = 1 if b.chance(0.5) else -1
    at = float(b.detail.uniform(-0.1, 0.18))
    b.box((side * (wide / 2 + 0.03), at, 0), (0.06, 0.05, 0.12), trim)
    b.box(
        (0, -high / 2 - 0.02, 0),
        (wide * 0.9, 0.04, deep * 0.9),
        b.look("black", "grey", patterned=False),
    )
