"""Drawn landmarks and their photographs, with the true geometry of every view.

A landmark is a front (and sometimes a side wall) of a building: a texture with an outline, drawn
from a *style* (colours, window shapes, floors) and *details* (ornaments, signs, missing windows).
Landmarks of one family share the style and differ in the details, so they look alike. A photograph
is a pinhole view of these planes in front of sky, ground and other buildings, behind occluders,
under some light, through some camera. Everything follows from the random generators handed in.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from data.drawing import Image, area, colour, ornament, pyramid, sign, texture

FRONT_HEIGHT = 352  # pixels of the tallest front texture


@dataclass(frozen=True)
class Landmark:
    """Textures (H, W, 4) uint8, BGR + outline, as pyramids from fine to coarse."""

    front: tuple[np.ndarray, ...]
    side: tuple[np.ndarray, ...] | None
    width: float  # of the front, in units of its height
    depth: float  # of the side wall, likewise


@dataclass(frozen=True)
class View:
    """How a photograph is taken. Angles in degrees, lengths in heights of the front."""

    azimuth: float  # 0 = from straight ahead
    elevation: float  # camera above (+) or below the middle of the front
    distance: float
    offset: tuple[float, float]  # centre of the front in the picture, in shares of its sides
    roll: float
    size: tuple[int, int]  # width, height in pixels
    occluders: int
    night: bool
    blur: float  # sigma in pixels
    quality: int  # of the JPEG


@dataclass(frozen=True)
class Geometry:
    """What a photograph shows of its landmark's front: the base of easy, hard and junk."""

    box: tuple[float, float, float, float]  # x1, y1, x2, y2 of the visible part, pixels
    visible: float  # share of the front that is inside the picture and not covered
    scale: float  # sqrt(visible pixels of the front / pixels of the picture)
    azimuth: float
    night: bool


def _stone(rng: np.random.Generator, base: tuple[int, ...], h: int, w: int) -> Image:
    """A wall: base colour, stains, courses of bricks."""
    cells = int(rng.integers(6, 24))
    stains = cv2.resize(
        rng.integers(0, 255, (cells, cells, 3)).astype(np.uint8),
        (w, h),
        interpolation=cv2.INTER_CUBIC,
    )
    wall = cv2.addWeighted(np.full((h, w, 3), base, np.uint8), 0.82, stains, 0.18, 0)
    course, brick = int(rng.integers(9, 22)), int(rng.integers(14, 44))
    mortar = tuple(int(c * 0.8) for c in base)
    for row, y in enumerate(range(0, h, course)):
        cv2.line(wall, (0, y), (w, y), mortar, 1)
        for x in range((row % 2) * brick // 2, w, brick):
            cv2.line(wall, (x, y), (x, min(y + course, h)), mortar, 1)
    return wall


def _window(img: Image, style: dict, x: int, y: int, w: int, h: int) -> None:
    """One window of the style, its upper left corner at (x, y)."""
    glass, frame, shape = style["glass"], style["frame"], style["shape"]
    right, bottom, middle = x + w, y + h, x + w // 2
    if shape == 1:  # round
        cv2.ellipse(img, (middle, y + h // 2), (w // 2, h // 2), 0, 0, 360, glass, -1, cv2.LINE_AA)
        cv2.ellipse(img, (middle, y + h // 2), (w // 2, h // 2), 0, 0, 360, frame, 2, cv2.LINE_AA)
    elif shape == 2:  # arched
        cv2.rectangle(img, (x, y + h // 3), (right, bottom), glass, -1)
        cv2.ellipse(
            img, (middle, y + h // 3), (w // 2, h // 3), 0, 180, 360, glass, -1, cv2.LINE_AA
        )
        cv2.ellipse(img, (middle, y + h // 3), (w // 2, h // 3), 0, 180, 360, frame, 2, cv2.LINE_AA)
        cv2.rectangle(img, (x, y + h // 3), (right, bottom), frame, 2)
    elif shape == 3:  # under a gable
        cv2.rectangle(img, (x, y + h // 4), (right, bottom), glass, -1)
        gable = np.array([[x - 3, y + h // 4], [middle, y], [right + 3, y + h // 4]], np.int32)
        cv2.fillPoly(img, [gable], frame, cv2.LINE_AA)
    else:  # plain
        cv2.rectangle(img, (x, y), (right, bottom), glass, -1)
        cv2.rectangle(img, (x, y), (right, bottom), frame, 2)
    if style["cross"]:
        cv2.line(img, (middle, y + h // 4), (middle, bottom), frame, 1)
        cv2.line(img, (x, y + h // 2), (right, y + h // 2), frame, 1)
    if style["sill"]:
        cv2.rectangle(img, (x - 3, bottom), (right + 3, bottom + 3), frame, -1)


def _outline(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """(H, W) uint8 mask of the front: flat, gabled, stepped, domed or with towers."""
    mask = np.zeros((h, w), np.uint8)
    top = int(h * rng.uniform(0.1, 0.25))
    cv2.rectangle(mask, (0, top), (w, h), 255, -1)
    kind = int(rng.integers(5))
    if kind == 1:
        cv2.fillPoly(mask, [np.array([[0, top], [w // 2, 0], [w, top]], np.int32)], 255)
    elif kind == 2:
        t = int(w * rng.uniform(0.15, 0.28))
        cv2.rectangle(mask, (0, 0), (t, h), 255, -1)
        cv2.rectangle(mask, (w - t, 0), (w, h), 255, -1)
    elif kind == 3:
        cv2.ellipse(
            mask, (w // 2, top), (int(w * rng.uniform(0.2, 0.45)), top), 0, 180, 360, 255, -1
        )
    elif kind == 4:
        t, x = int(w * rng.uniform(0.2, 0.35)), int(w * rng.uniform(0.0, 0.65))
        cv2.rectangle(mask, (x, 0), (x + t, h), 255, -1)
    else:
        mask[:] = 255
    return mask


def _window_style(rng: np.random.Generator) -> dict:
    return {
        "glass": colour(rng, 10, 200),
        "frame": colour(rng, 60, 255),
        "shape": int(rng.integers(4)),
        "cross": bool(rng.integers(2)),
        "sill": bool(rng.integers(2)),
    }


def _draw_wall(
    style: np.random.Generator, detail: np.random.Generator, h: int, w: int
) -> np.ndarray:
    """(H, W, 4): wall, floors of windows, cornices, door, ornaments, signs, outline."""
    img = _stone(style, colour(style, 90, 215), h, w)
    windows = [_window_style(style) for _ in range(2)]
    floors, columns = int(style.integers(3, 7)), int(style.integers(3, 8))
    fh, fw = h // floors, w // columns
    wide, tall = style.uniform(0.35, 0.65, 2)
    for floor in range(floors):
        kind = windows[int(style.integers(2))]
        if style.random() < 0.5:
            cv2.rectangle(img, (0, floor * fh), (w, floor * fh + 5), colour(style), -1)
        for column in range(columns):
            if detail.random() < 0.15:  # bricked up, or an ornament in its place
                if detail.random() < 0.6:
                    x, y = column * fw + fw // 2, floor * fh + fh // 2
                    ornament(img, detail, x, y, max(min(fw, fh) // 3, 5))
                continue
            ww, wh = max(int(fw * wide), 5), max(int(fh * tall), 6)
            _window(
                img, kind, column * fw + (fw - ww) // 2, floor * fh + (fh - wh) // 2 + 3, ww, wh
            )
    door = _window_style(style) | {"shape": int(style.choice([0, 2]))}
    dw, dh = int(w * style.uniform(0.12, 0.25)), int(h * style.uniform(0.18, 0.3))
    _window(img, door, int(w * style.uniform(0.2, 0.65)), h - dh, dw, dh)
    for _ in range(int(detail.integers(3, 9))):
        x, y = int(detail.integers(10, w - 10)), int(detail.integers(20, h - 10))
        ornament(img, detail, x, y, int(detail.integers(8, 30)))
    for _ in range(int(detail.integers(1, 4))):
        sign(img, detail, int(detail.integers(0, max(w - 70, 1))), int(detail.integers(30, h)))
    return np.dstack([img, _outline(style, h, w)])


def draw_landmark(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A landmark; `style` is shared by a family of look-alikes, `detail` is its own."""
    h = FRONT_HEIGHT
    w = int(h * style.uniform(0.7, 1.35))
    front = pyramid(_draw_wall(style, detail, h, w))
    if style.random() < 0.5:
        return Landmark(front, None, w / h, 0.0)
    d = int(h * style.uniform(0.4, 0.8))
    side = _draw_wall(style, detail, h, d)
    side[..., 3] = 255
    return Landmark(front, pyramid(side), w / h, d / h)


def sample_view(rng: np.random.Generator, kind: str) -> View:
    """A view of the given kind: "query", "near" (mostly easy) or "far" (mostly hard or junk)."""
    near = kind != "far"
    spread = {"query": 15.0, "near": 25.0, "far": 55.0}[kind]
    size = [(320, 240), (240, 320), (288, 288)][int(rng.integers(3))]
    shift = {"query": 0.06, "near": 0.09, "far": 0.22}[kind]
    return View(
        azimuth=float(rng.uniform(-spread, spread)),
        elevation=float(rng.uniform(-8, 18 if near else 28)),
        distance=float(
            rng.uniform(1.1, 1.6) if near else np.exp(rng.uniform(np.log(0.8), np.log(2.8)))
        ),
        offset=(0.5 + float(rng.normal(0, shift)), 0.5 + float(rng.normal(0, shift))),
        roll=float(rng.normal(0, 3 if near else 9)),
        size=size,
        occluders=int(rng.integers(0, 3) if near else rng.integers(1, 6)),
        night=bool(kind != "query" and rng.random() < (0.04 if near else 0.15)),
        blur=float(rng.uniform(0.0, 0.6) if near else rng.uniform(0.0, 1.2)),
        quality=int(rng.integers(70, 95) if near else rng.integers(35, 85)),
    )


def _project(view: View, points: np.ndarray) -> np.ndarray:
    """(N, 3) points (x right, y down, z to the camera, front centred at 0) -> (N, 2) pixels."""
    a, e, r = np.deg2rad([view.azimuth, view.elevation, view.roll])
    turn = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    nod = np.array([[1, 0, 0], [0, np.cos(e), np.sin(e)], [0, -np.sin(e), np.cos(e)]])
    x, y, z = nod @ turn @ points.T
    focal = min(view.size) * 1.1
    z = np.maximum(view.distance - z, 0.1)
    x, y = focal * x / z, focal * y / z
    x, y = np.cos(r) * x - np.sin(r) * y, np.sin(r) * x + np.cos(r) * y
    return np.stack([x + view.offset[0] * view.size[0], y + view.offset[1] * view.size[1]], axis=1)


def _paste(
    img: Image, pyramid: tuple[np.ndarray, ...], corners: np.ndarray, covered: np.ndarray
) -> None:
    """Warp a texture onto the picture; `covered` (H, W) uint8 becomes 255 where it lies."""
    h, w = pyramid[0].shape[:2]
    shrink = np.sqrt(h * w / max(abs(area(corners)), 1.0))
    texture = pyramid[int(np.clip(np.floor(np.log2(max(shrink, 1.0)) + 0.3), 0, len(pyramid) - 1))]
    th, tw = texture.shape[:2]
    source = np.array([[0, 0], [tw, 0], [tw, th], [0, th]], np.float32)
    warp = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    layer = cv2.warpPerspective(texture, warp, (img.shape[1], img.shape[0]), flags=cv2.INTER_LINEAR)
    inside = layer[..., 3] > 127
    img[inside] = layer[..., :3][inside]
    covered[inside] = 255


def _scenery(rng: np.random.Generator, w: int, h: int) -> Image:
    """Sky, ground and parts of other buildings."""
    horizon = int(h * rng.uniform(0.55, 0.9))
    sky, ground = colour(rng, 150, 250), colour(rng, 60, 170)
    clouds = rng.normal(0, 18, (int(rng.integers(2, 10)), int(rng.integers(2, 10)), 1))
    gravel = rng.normal(0, 22, (int(rng.integers(4, 40)), int(rng.integers(4, 40)), 1))
    img = np.empty((h, w, 3), np.uint8)
    img[:horizon] = texture(sky, clouds, w, horizon)
    img[horizon:] = texture(ground, gravel, w, h - horizon)
    for _ in range(int(rng.integers(1, 5))):
        bw, bh = int(w * rng.uniform(0.12, 0.4)), int(h * rng.uniform(0.2, 0.7))
        x, y = int(rng.integers(-bw // 2, w - bw // 2)), horizon - bh
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + bw, w), horizon
        if x2 - x1 < 8 or y2 - y1 < 8:
            continue
        block = np.full((y2 - y1, x2 - x1, 3), colour(rng), np.uint8)
        style, step = _window_style(rng), int(rng.integers(12, 30))
        for wy in range(3, block.shape[0] - step, step):
            for wx in range(3, block.shape[1] - step, step):
                _window(block, style, wx, wy, step // 2, step // 2)
        img[y1:y2, x1:x2] = block
    return img


def _occlude(img: Image, rng: np.random.Generator, count: int, covered: np.ndarray) -> None:
    """Trees, people, vans, posters and lamp posts in front; clears `covered` under them."""
    h, w = img.shape[:2]
    for _ in range(count):
        kind, c = int(rng.integers(5)), colour(rng, 0, 255)
        x, y, r = int(rng.integers(0, w)), int(rng.integers(h // 3, h)), int(rng.integers(10, 46))
        shape = np.zeros((h, w), np.uint8)
        if kind == 0:  # tree
            blobs = rng.normal(0, 0.5 * r, (14, 2)) + np.array([x, y - r])
            for bx, by in blobs:
                cv2.circle(shape, (int(bx), int(by)), int(rng.integers(4, max(r // 2, 6))), 255, -1)
            cv2.rectangle(shape, (x - 3, y - r), (x + 3, h), 255, -1)
            c = (int(rng.integers(10, 60)), int(rng.integers(50, 140)), int(rng.integers(10, 70)))
        elif kind == 1:  # person
            cv2.ellipse(shape, (x, y), (max(r // 3, 4), r), 0, 0, 360, 255, -1)
            cv2.circle(shape, (x, y - r - 4), max(r // 4, 3), 255, -1)
        elif kind == 2:  # van
            cv2.rectangle(shape, (x, y), (x + 2 * r, y + r), 255, -1)
        elif kind == 3:  # poster
            cv2.rectangle(shape, (x, y - r), (x + r, y + r // 3), 255, -1)
        else:  # lamp post
            cv2.rectangle(shape, (x, y - 3 * r), (x + 4, h), 255, -1)
            cv2.circle(shape, (x + 2, y - 3 * r), 6, 255, -1)
        inside = shape > 0
        img[inside] = c
        if kind == 0:
            img[inside] = np.clip(
                img[inside] * rng.uniform(0.6, 1.4, (int(inside.sum()), 1)), 0, 255
            ).astype(np.uint8)
        if kind in (2, 3):
            sign(img, rng, x + 2, y + r // 3)
        covered[inside] = 0


def _expose(img: Image, view: View, rng: np.random.Generator) -> Image:
    """Light, colour cast, lens blur and sensor noise."""
    gain, lift = rng.uniform(0.6, 1.35), rng.uniform(-25, 25)
    cast = rng.uniform(0.85, 1.15, 3)
    noise = rng.uniform(1.0, 5.0)
    if view.night:
        gain, lift, noise = rng.uniform(0.18, 0.4), rng.uniform(0, 12), rng.uniform(4.0, 9.0)
        cast = np.array([rng.uniform(0.6, 0.9), rng.uniform(0.8, 1.0), rng.uniform(1.0, 1.3)])
    h, w = img.shape[:2]
    shade = cv2.resize(
        rng.uniform(0.75, 1.25, (3, 3)).astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC
    )
    light = (gain * cast).astype(np.float32) * np.asarray(shade)[..., None]
    out = img.astype(np.float32) * light + np.float32(lift)
    if view.blur > 0.3:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), view.blur))
    out += rng.standard_normal((h, w, 1), dtype=np.float32) * np.float32(noise)
    return np.clip(out, 0, 255).astype(np.uint8)


def photograph(landmark: Landmark, view: View, rng: np.random.Generator) -> tuple[Image, Geometry]:
    """The picture (H, W, 3) BGR of a landmark, and what it shows of the front."""
    w, h = view.size
    img = _scenery(rng, w, h)
    x, y, d = landmark.width / 2, 0.5, landmark.depth
    front = _project(view, np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]], float))
    covered = np.zeros((h, w), np.uint8)
    if landmark.side is not None:
        s = 1 if view.azimuth > 0 else -1  # the wall on the camera's side
        near, far = (s * x, 0.0), (s * x, -d)
        left, right = (near, far) if s > 0 else (far, near)
        wall = _project(
            view,
            np.array(
                [
                    [left[0], -y, left[1]],
                    [right[0], -y, right[1]],
                    [right[0], y, right[1]],
                    [left[0], y, left[1]],
                ]
            ),
        )
        if area(wall) > 1:
            _paste(img, landmark.side, wall, covered)
    covered[:] = 0
    _paste(img, landmark.front, front, covered)
    _occlude(img, rng, view.occluders, covered)
    outline_share = float((landmark.front[0][..., 3] > 127).mean())
    return _expose(img, view, rng), _measure(view, front, covered, outline_share)


def _measure(view: View, front: np.ndarray, covered: np.ndarray, outline_share: float) -> Geometry:
    pixels = int(np.count_nonzero(covered))
    w, h = view.size
    x, y, bw, bh = cv2.boundingRect(covered) if pixels else (0, 0, 0, 0)
    visible = pixels / max(abs(area(front)) * outline_share, 1.0)
    scale = float(np.sqrt(pixels / (w * h)))
    box = (float(x), float(y), float(x + bw), float(y + bh))
    return Geometry(box, min(visible, 1.0), scale, view.azimuth, view.night)


def relate(query: Geometry, image: Geometry) -> str:
    """Easy, hard or junk: the stated rule for a gallery image of the query's landmark.

    junk: less than 30 % of the front visible, or its visible part smaller than 20 % of the
          picture's side, or the viewing directions more than 65 degrees apart
    easy: at least 70 % visible, at least 40 % of the picture's side, at most 40 degrees, by day
    hard: everything else
    """
    angle = abs(query.azimuth - image.azimuth)
    if image.visible < 0.30 or image.scale < 0.20 or angle > 65:
        return "junk"
    if image.visible >= 0.70 and image.scale >= 0.40 and angle <= 40 and not image.night:
        return "easy"
    return "hard"
