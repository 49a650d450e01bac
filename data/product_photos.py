"""Photographs of drawn products: turned, cropped, before some background, in some light."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data.drawing import Image, colour, ornament, sign, texture
from data.product_parts import Camera, Part

SIZES = ((256, 256), (256, 192), (192, 256), (256, 224), (224, 256))


@dataclass(frozen=True)
class View:
    """How a photograph is taken. Angles in degrees, lengths in units of the product's space."""

    yaw: float
    pitch: float
    roll: float
    distance: float
    share: float  # of the picture's side that the product fills; above 1 it is cut off
    offset: tuple[float, float]  # of the product's middle, in shares of the picture's sides
    size: tuple[int, int]  # width, height in pixels
    scene: int  # 0 plain, 1 room, 2 cluttered
    things: int  # in front of the product
    blur: float  # sigma in pixels
    quality: int  # of the JPEG


def sample_view(rng: np.random.Generator) -> View:
    """Any view; one in ten is a close-up of a part."""
    close = rng.random() < 1 / 10
    shift = 0.15 if close else 0.04
    return View(
        yaw=float(np.clip(rng.normal(0, 17), -45, 45)),
        pitch=float(rng.uniform(6, 28)),
        roll=float(rng.normal(0, 4)),
        distance=float(rng.uniform(2.2, 4.5)),
        share=float(rng.uniform(1.15, 1.5) if close else rng.uniform(0.72, 1.0)),
        offset=(float(rng.normal(0, shift)), float(rng.normal(0, shift))),
        size=SIZES[int(rng.integers(len(SIZES)))],
        scene=int(rng.choice(3, p=[0.65, 0.25, 0.1])),
        things=int(rng.choice(3, p=[0.78, 0.16, 0.06])),
        blur=float(rng.uniform(0.0, 0.9)),
        quality=int(rng.integers(45, 92)),
    )


def aim(parts: Sequence[Part], view: View, light: np.ndarray) -> Camera:
    """The camera of a view: the product fills its share of the picture, at its place."""
    points = np.concatenate([part.extent for part in parts])
    raw = Camera(view.yaw, view.pitch, view.roll, view.distance)
    flat = raw.project(points)
    low, high = flat.min(axis=0), flat.max(axis=0)
    size = np.array(view.size, float)
    focal = float((size * view.share / np.maximum(high - low, 1e-6)).min())
    centre = size * (0.5 + np.array(view.offset)) - focal * (low + high) / 2
    return Camera(
        view.yaw, view.pitch, view.roll, view.distance, focal,
        (float(centre[0]), float(centre[1])), (float(light[0]), float(light[1]), float(light[2])),
    )  # fmt: skip


def _plain(rng: np.random.Generator, w: int, h: int) -> Image:
    """A white or grey sheet, seldom a coloured one."""
    base = (int(rng.integers(185, 253)),) * 3 if rng.random() < 0.85 else _paper(rng)
    return texture(base, rng.normal(0, float(rng.uniform(0, 10)), (3, 3, 1)), w, h)


def _paper(rng: np.random.Generator) -> tuple[int, ...]:
    """A pale colour of low saturation."""
    value, tint = int(rng.integers(110, 250)), 1 - 0.22 * rng.random(3)
    return tuple(int(c) for c in value * tint)


def _room(rng: np.random.Generator, w: int, h: int) -> Image:
    """A wall and a floor or table of planks."""
    horizon = int(h * rng.uniform(0.25, 0.75))
    img = np.empty((h, w, 3), np.uint8)
    wood = np.array([(95, 145, 185), (60, 90, 125), (150, 170, 185), (110, 110, 110)])
    floor = tuple(int(c) for c in wood[int(rng.integers(4))] * rng.uniform(0.7, 1.2))
    grid = (int(rng.integers(2, 24)), int(rng.integers(2, 24)), 1)
    img[:horizon] = texture(_paper(rng), rng.normal(0, 8, (3, 4, 1)), w, horizon)
    img[horizon:] = texture(floor, rng.normal(0, 9, grid), w, h - horizon)
    dark = tuple(int(c * 0.75) for c in floor)
    for near in range(-w, 2 * w, int(rng.integers(20, 70))):
        far = round(w / 2 + (near - w / 2) * 0.4)
        cv2.line(img, (far, horizon), (near, h), dark, 1, cv2.LINE_AA)
    if rng.random() < 0.5:
        x, y = int(rng.integers(-20, w - 30)), int(rng.integers(-30, max(horizon - 30, 1)))
        corner = (x + int(rng.integers(30, 90)), min(y + int(rng.integers(30, 90)), horizon))
        cv2.rectangle(img, (x, y), corner, colour(rng, 60, 250), -1)
        cv2.rectangle(img, (x, y), corner, colour(rng, 40, 200), 3)
    return img


def _clutter(rng: np.random.Generator, w: int, h: int) -> Image:
    """A room full of things."""
    img = _room(rng, w, h)
    for _ in range(int(rng.integers(3, 9))):
        x, y, r = int(rng.integers(0, w)), int(rng.integers(0, h)), int(rng.integers(8, 40))
        kind = int(rng.integers(4))
        if kind == 0:
            cv2.circle(img, (x, y), r, colour(rng), -1, cv2.LINE_AA)
        elif kind == 1:
            turned = cv2.boxPoints(((x, y), (2 * r, r), float(rng.uniform(0, 180))))
            cv2.fillPoly(img, [turned.astype(np.int32)], colour(rng), cv2.LINE_AA)
        elif kind == 2:
            ornament(img, rng, x, y, max(r // 2, 6))
        else:
            sign(img, rng, x, y)
    return img


def _shadow(img: Image, parts: Sequence[Part], camera: Camera, strength: float) -> None:
    """Darken the ground under the product."""
    points = np.concatenate([part.extent for part in parts])
    low, high = points.min(axis=0), points.max(axis=0)
    t = np.linspace(0, 2 * np.pi, 24)
    mid, half = (low + high) / 2, (high - low) / 2 * 1.1
    ring = np.stack(
        [mid[0] + half[0] * np.cos(t), np.full(24, low[1]), mid[2] + half[2] * np.sin(t)], axis=1
    )
    h, w = img.shape[:2]
    small = np.zeros((h // 4, w // 4), np.uint8)  # a soft thing needs few pixels
    cv2.fillPoly(small, [np.rint(camera.project(ring) / 4).astype(np.int32)], 255)
    soft = cv2.resize(cv2.GaussianBlur(small, (0, 0), 2.5), (w, h))
    dark = 1 - np.float32(strength / 255) * soft[..., None]
    img[:] = (img * dark).astype(np.uint8)


def _cover(img: Image, rng: np.random.Generator, count: int) -> None:
    """Price tags, sellers' names, boxes, fingers and cables in front."""
    h, w = img.shape[:2]
    for _ in range(count):
        kind, r = int(rng.integers(4)), int(rng.integers(10, 34))
        x, y = int(rng.integers(0, w)), int(rng.integers(0, h))
        if kind == 0:
            sign(img, rng, x, y)
        elif kind == 1:
            turned = cv2.boxPoints(((x, y), (2 * r, r), float(rng.uniform(0, 180))))
            cv2.fillPoly(img, [turned.astype(np.int32)], colour(rng), cv2.LINE_AA)
        elif kind == 2:
            edge = (x, h) if rng.random() < 0.5 else (w, y)
            cv2.line(img, (x, y), edge, (120, 150, 205), max(r // 2, 6), cv2.LINE_AA)
        else:
            points = np.cumsum(rng.normal(0, 22, (9, 2)), axis=0) + np.array([x, y])
            cv2.polylines(img, [points.astype(np.int32)], False, colour(rng, 0, 90), 3, cv2.LINE_AA)


def _expose(img: Image, view: View, rng: np.random.Generator) -> Image:
    """Light, colour cast, lens blur and sensor noise."""
    h, w = img.shape[:2]
    shade = rng.uniform(0.9, 1.1, (3, 3)).astype(np.float32)
    cast = (rng.uniform(0.85, 1.1) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
    light = np.asarray(cv2.resize(shade, (w, h), interpolation=cv2.INTER_CUBIC))
    out = img * (light[..., None] * cast)
    if view.blur > 0.3:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), view.blur))
    noise = rng.standard_normal((h, w, 1), dtype=np.float32)
    return np.clip(out + noise * np.float32(rng.uniform(1, 4)), 0, 255).astype(np.uint8)


def photograph(parts: Sequence[Part], view: View, rng: np.random.Generator) -> Image:
    """The picture (H, W, 3) BGR of a product."""
    w, h = view.size
    img = (_plain, _room, _clutter)[view.scene](rng, w, h)
    light = rng.normal(0, 1, 3) * [0.6, 0.4, 0] + [0, 0.6, 0.8]
    camera = aim(parts, view, light / np.linalg.norm(light))
    if rng.random() < 0.7:
        _shadow(img, parts, camera, float(rng.uniform(0.2, 0.55)))
    for part in sorted(parts, key=lambda p: float(camera.turn[2] @ p.centre)):
        part.draw(img, camera)
    _cover(img, rng, view.things)
    return _expose(img, view, rng)
