"""What stands in drawn streets beside the houses: trees, lamps, signs, cars, people, the ground."""

import cv2
import numpy as np

from data.drawing import Image, colour, ornament, sign, texture

SEASONS = ("spring", "summer", "autumn", "winter")
LEAVES = {"spring": (70, 175, 130), "summer": (45, 115, 60), "autumn": (40, 120, 190)}  # BGR
GROUND_SCALE = 8  # pixels per metre of a ground texture
GROUND_HALF = 14.0  # metres of ground to either side of the road's middle
ROAD, KERB, WALK = (92, 90, 88), (150, 150, 150), (140, 145, 150)


def _blank(w: int, h: int) -> np.ndarray:
    return np.zeros((h, w, 4), np.uint8)


def _opaque(tone: tuple[int, ...]) -> tuple[int, ...]:
    return (*tone, 255)


def draw_tree(seed: list[int], season: str) -> np.ndarray:
    """(H, W, 4): the same tree in any season, 1 : 1.5; `seed` is its own."""
    rng = np.random.default_rng(seed)
    img, trunk = _blank(120, 180), (50, 65, 80, 255)
    cv2.line(img, (60, 180), (60, 80), trunk, int(rng.integers(6, 12)))
    spread, hue = rng.uniform(0.7, 1.2), rng.uniform(0.8, 1.2, 3)
    tips = np.array([60, 68]) + rng.normal(0, 1, (26, 2)) * np.array([21 * spread, 22])
    for x, y in tips:
        cv2.line(img, (60, 110), (int(x), int(y)), trunk, 2, cv2.LINE_AA)
    if season == "winter":
        for x, y in tips:
            for dx, dy in rng.normal(0, 11, (4, 2)):
                cv2.line(img, (int(x), int(y)), (int(x + dx), int(y + dy)), trunk, 1, cv2.LINE_AA)
        return img
    for x, y in tips:
        tone = np.array(LEAVES[season]) * hue * rng.uniform(0.6, 1.35)
        leaf = tuple(int(c) for c in np.clip(tone, 0, 255))
        r = int(rng.integers(8, 19) * (0.7 if season == "autumn" else 1.0))
        cv2.circle(img, (int(x), int(y)), r, _opaque(leaf), -1, cv2.LINE_AA)
    return img


def draw_lamp(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 4): a street lamp, 1 : 4; its light is at the top."""
    img, tone = _blank(40, 160), _opaque(colour(rng, 30, 120))
    cv2.rectangle(img, (18, 12), (21, 160), tone, -1)
    if rng.random() < 0.5:
        cv2.rectangle(img, (10, 4), (30, 18), (210, 225, 230, 255), -1)
        cv2.rectangle(img, (8, 1), (32, 5), tone, -1)
    else:
        cv2.circle(img, (20, 12), 10, (210, 225, 230, 255), -1)
    return img


def draw_traffic_sign(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 4): a board of its own on a pole, 1 : 3."""
    img, kind = _blank(50, 150), int(rng.integers(4))
    cv2.rectangle(img, (23, 40), (26, 150), (120, 120, 120, 255), -1)
    rim, field = _opaque(colour(rng, 30, 255)), _opaque(colour(rng, 150, 255))
    if kind == 0:
        cv2.circle(img, (25, 25), 24, rim, -1)
        cv2.circle(img, (25, 25), 18, field, -1)
    elif kind == 1:
        cv2.fillPoly(img, [np.array([(25, 0), (49, 46), (1, 46)], np.int32)], rim)
        cv2.fillPoly(img, [np.array([(25, 12), (40, 41), (10, 41)], np.int32)], field)
    else:
        cv2.rectangle(img, (1, 1), (48, 46 if kind == 2 else 62), rim, -1)
        cv2.rectangle(img, (5, 5), (44, 42 if kind == 2 else 58), field, -1)
    mark = np.ascontiguousarray(img[..., :3])
    ornament(mark, rng, 25, 27, 10)
    img[14:42, 12:39, :3] = mark[14:42, 12:39]
    return img


def draw_board(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 4): the sign of a shop that sticks out over the pavement, 1 : 1.2."""
    img = np.full((60, 50, 3), colour(rng, 30, 255), np.uint8)
    cv2.rectangle(img, (0, 0), (49, 59), colour(rng, 20, 255), 4)
    if rng.random() < 0.4:
        sign(img, rng, 4, 36)
    for _ in range(2):
        ornament(img, rng, 25, 30, 16)
    return np.dstack([img, np.full((60, 50), 255, np.uint8)])


def draw_poster(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 4): an advertising column, 1 : 2."""
    img = np.full((120, 60, 3), colour(rng, 120, 255), np.uint8)
    for y in (32, 84):
        ornament(img, rng, 30, y, 22)
    cv2.rectangle(img, (0, 0), (59, 10), colour(rng, 20, 120), -1)
    cv2.rectangle(img, (0, 108), (59, 119), (70, 70, 70), -1)
    return np.dstack([img, np.full((120, 60), 255, np.uint8)])


def draw_hedge(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 4): a hedge, a fence or a wall before a garden."""
    kind, (w, h) = int(rng.integers(3)), (160, 30)
    tone = colour(rng, 60, 220)
    if kind == 0:
        green = (50, int(rng.integers(80, 130)), 60)
        return np.dstack([texture(green, rng.normal(0, 18, (6, 30, 1)), w, h), _full(w, h)])
    if kind == 1:
        img = _blank(w, h)
        for x in range(0, w, 8):
            cv2.rectangle(img, (x, 0), (x + 3, h), _opaque(tone), -1)
        cv2.rectangle(img, (0, 6), (w, 9), _opaque(tone), -1)
        return img
    return np.dstack([texture(tone, rng.normal(0, 8, (3, 9, 1)), w, h), _full(w, h)])


def _full(w: int, h: int) -> np.ndarray:
    return np.full((h, w), 255, np.uint8)


def draw_car(rng: np.random.Generator, length: float, high: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (H, W, 4) of its back, 1.8 m wide, and its side, `length` metres long."""
    paint, glass = colour(rng, 20, 245), (70, 60, 50, 255)
    body, dark = _opaque(paint), (30, 30, 30, 255)
    back, side = _blank(90, 110 if high else 75), _blank(int(length * 45), 110 if high else 75)
    h, w = side.shape[:2]
    waist = int(h * (0.3 if high else 0.45))
    inset = 2 if high else 12
    roof = [(inset, 2), (90 - inset, 2), (89, waist), (89, h - 14), (0, h - 14), (0, waist)]
    cv2.fillPoly(back, [np.array(roof, np.int32)], body, cv2.LINE_AA)
    cv2.rectangle(back, (14, 7), (76, waist - 3), glass, -1)
    for x in (3, 76):
        cv2.rectangle(back, (x, waist + 4), (x + 11, waist + 14), (40, 40, 200, 255), -1)
        cv2.rectangle(back, (x + 1, h - 15), (x + 10, h), dark, -1)
    cv2.rectangle(back, (32, h - 27), (58, h - 20), (230, 235, 235, 255), -1)
    slope = 4 if high else w // 6
    hull = [(slope, 2), (w - slope, 2), (w - 2, waist), (w - 1, h - 12), (0, h - 12), (2, waist)]
    cv2.fillPoly(side, [np.array(hull, np.int32)], body, cv2.LINE_AA)
    cv2.rectangle(side, (slope + 8, 8), (w - slope - 8, waist - 3), glass, -1)
    cv2.line(side, (w // 2, 3), (w // 2, h - 12), dark, 2)
    for x in (w // 5, w - w // 5):
        cv2.circle(side, (x, h - 13), 13, dark, -1, cv2.LINE_AA)
    return back, side


def draw_person(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 4): someone walking, 1 : 2.5."""
    img, coat, legs = _blank(40, 100), colour(rng, 30, 240), colour(rng, 20, 120)
    stride = int(rng.integers(3, 11))
    for dx in (-stride, stride):
        cv2.line(img, (20, 55), (20 + dx, 99), _opaque(legs), 7)
    cv2.ellipse(img, (20, 38), (11, 24), 0, 0, 360, _opaque(coat), -1, cv2.LINE_AA)
    cv2.circle(img, (20, 9), 8, (130, 160, 200, 255), -1, cv2.LINE_AA)
    return img


def draw_skyline(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 4): far roofs, towers and hills, 8 : 1."""
    w, h = 640, 80
    img = _blank(w, h)
    for _ in range(int(rng.integers(10, 24))):
        x, bw = int(rng.integers(-20, w)), int(rng.integers(8, 50))
        top = h - int(rng.gamma(3.0, 8.0)) - 6
        tone = _opaque(tuple(int(c) for c in np.array([150, 140, 130]) * rng.uniform(0.7, 1.15)))
        cv2.rectangle(img, (x, max(top, 8)), (x + bw, h), tone, -1)
        if rng.random() < 0.3:
            points = [(x, max(top, 8)), (x + bw // 2, max(top - bw, 0)), (x + bw, max(top, 8))]
            cv2.fillPoly(img, [np.array(points, np.int32)], tone)
    return img


def draw_ground(
    rng: np.random.Generator, length: float, road: float, gaps: list[tuple[float, float]]
) -> Image:
    """(H, W, 3): the ground along a route; x is the way along it, y = 0 is farthest to the left.

    `road` is half its width; `gaps` are the stretches (from, to) where side streets meet it.
    """
    w, h = int(length * GROUND_SCALE), int(2 * GROUND_HALF * GROUND_SCALE)
    middle, half = h // 2, int(road * GROUND_SCALE)
    img = texture((95, 125, 115), rng.normal(0, 12, (8, 90, 1)), w, h)
    walk = int(rng.uniform(2.0, 3.5) * GROUND_SCALE)
    cv2.rectangle(img, (0, middle - half - walk), (w, middle + half + walk), WALK, -1)
    for x in range(0, w, GROUND_SCALE * 2):
        cv2.line(img, (x, middle - half - walk), (x, middle + half + walk), KERB, 1)
    shade = rng.uniform(0.75, 1.25)
    tone = tuple(int(c * shade * rng.uniform(0.95, 1.05)) for c in ROAD)
    for start, end in gaps:
        box = (int(start * GROUND_SCALE), 0), (int(end * GROUND_SCALE), h)
        cv2.rectangle(img, *box, tone, -1)
    asphalt = texture(tone, rng.normal(0, 5, (4, 60, 1)), w, 2 * half)
    img[middle - half : middle + half] = asphalt
    for y in (middle - half, middle + half):
        cv2.line(img, (0, y), (w, y), KERB, 2)
    _mark_road(img, rng, middle, half, gaps)
    return img


def _mark_road(
    img: Image,
    rng: np.random.Generator,
    middle: int,
    half: int,
    gaps: list[tuple[float, float]],
) -> None:
    """Lines, zebra crossings, patches, manholes and arrows."""
    w, white = img.shape[1], (215, 215, 215)
    dash, pause = int(rng.integers(16, 32)), int(rng.integers(20, 45))
    if rng.random() < 0.8:
        for x in range(0, w, dash + pause):
            cv2.line(img, (x, middle), (x + dash, middle), white, 2)
    if rng.random() < 0.4:
        for y in (middle - half + 16, middle + half - 16):
            cv2.line(img, (0, y), (w, y), white, 1)
    for start, _ in gaps:
        if rng.random() < 0.6:
            x = int((start - 4) * GROUND_SCALE)
            for y in range(middle - half + 3, middle + half - 3, 9):
                cv2.rectangle(img, (x, y), (x + 24, y + 4), white, -1)
    for _ in range(int(rng.integers(8, 20))):
        x, y = int(rng.integers(0, w)), int(rng.integers(middle - half + 4, middle + half - 14))
        size = (int(rng.integers(10, 60)), int(rng.integers(6, 14)))
        if rng.random() < 0.5:
            tone = int(rng.integers(55, 110))
            cv2.rectangle(img, (x, y), (x + size[0], y + size[1]), (tone, tone, tone), -1)
        else:
            cv2.circle(img, (x, y), 4, (50, 50, 50), -1)
