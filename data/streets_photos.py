"""Photographs of drawn streets: a pinhole camera on a car, traffic, weather, the sensor."""

from dataclasses import dataclass
from math import log2
from typing import NamedTuple

import cv2
import numpy as np

from data.drawing import Image, premultiplied
from data.streets import Street
from data.streets_light import Pass, Pyramid, as_pyramid, shade_ground, shade_pictures
from data.streets_props import GROUND_HALF, GROUND_SCALE, draw_car, draw_person

SUPER = 1.5  # drawn larger, then reduced
NEAR, FAR = 0.7, 120.0  # metres: surfaces outside are not drawn


class Shot(NamedTuple):
    """Where the camera is on its drive, and how it differs from the drive's own settings."""

    s: float  # metres along the route
    t: float  # to the left of the road's middle
    yaw: float  # degrees to the left of the road's direction
    pitch: float
    roll: float


class Camera:
    """A pinhole at `position` (3,) world; pixels x right, y down."""

    def __init__(self, position: np.ndarray, heading: float, shot: Shot, field: float,
                 size: tuple[int, int]) -> None:  # fmt: skip
        """`heading` in radians, yaw included; `field` and the shot's angles in degrees."""
        pitch, roll = np.deg2rad([shot.pitch, shot.roll])
        flat = np.array([np.cos(heading), np.sin(heading), 0.0])
        right, up = np.array([flat[1], -flat[0], 0.0]), np.array([0.0, 0.0, 1.0])
        cos, sin = np.cos(pitch), np.sin(pitch)
        ahead, up = cos * flat + sin * up, cos * up - sin * flat
        cos, sin = np.cos(roll), np.sin(roll)
        self.turn = np.stack([cos * right + sin * up, sin * right - cos * up, ahead])
        self.position, self.size = position, size
        self.focal = size[0] / 2 / np.tan(np.deg2rad(field) / 2)
        self.centre = np.array(size) / 2

    def see(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) world -> metres right, down and ahead of the camera."""
        return (points - self.position) @ self.turn.T

    def project(self, seen: np.ndarray) -> np.ndarray:
        """(..., 3) as from `see`, ahead of the camera -> (..., 2) pixels."""
        return seen[..., :2] / seen[..., 2:] * self.focal + self.centre


class Things(NamedTuple):
    """Pictures that stand in a street: `corners` (N, 4, 3), upper left, then clockwise."""

    corners: np.ndarray
    pictures: list[Pyramid]


@dataclass(frozen=True)
class Drive:
    """A street ready to be photographed in one pass."""

    street: Street
    drive: Pass
    fixed: Things  # world; what stands along or across the road, parked cars too
    feet: np.ndarray  # (N, 3) world, of what always shows its face
    sizes: np.ndarray  # (N, 2) its width and height
    faces: list[Pyramid]
    ground: Image
    sky: Image  # wider than any picture, its lower edge is the horizon
    skyline: Pyramid
    noise: np.ndarray  # (H, W) float32 standard normal, larger than any picture


def prepare(street: Street, drive: Pass, width: int, rng: np.random.Generator) -> Drive:
    """What all photographs of a pass share; `width` of the pictures in pixels."""
    pictures = shade_pictures(street, drive, rng)
    corners = [surface.corners for surface in street.surfaces]
    standing = [pictures[surface.picture] for surface in street.surfaces]
    for s in np.arange(0, street.length, 7.0):
        if rng.random() < drive.traffic * 0.6:
            side = float(rng.choice([-1, 1]))
            quads, painted = make_car(street, drive, float(s), side * (street.road - 0.9), rng)
            corners, standing = corners + quads, standing + painted
    low = np.array(drive.sky[1])
    pale = np.concatenate([np.diag(drive.gain) * 0.5, 0.5 * low[:, None] / 255], axis=1)
    skyline = cv2.transform(street.skyline, np.concatenate([pale, [[0, 0, 0, 1]]]))
    sprites = street.sprites
    return Drive(
        street, drive, Things(np.array(corners), standing),
        np.array([sprite.foot for sprite in sprites]).reshape(-1, 3),
        np.array([(sprite.width, sprite.height) for sprite in sprites]).reshape(-1, 2),
        [pictures[sprite.picture] for sprite in sprites], shade_ground(street, drive, rng),
        make_sky(drive, int(width * SUPER), rng), as_pyramid(skyline),
        rng.standard_normal((width * 2, width * 2), dtype=np.float32),
    )  # fmt: skip


def make_sky(drive: Pass, width: int, rng: np.random.Generator) -> Image:
    """(width, 2 width, 3): a sky with clouds or stars."""
    top, low = np.array(drive.sky[0]), np.array(drive.sky[1])
    ramp = np.linspace(0, 1, width)[:, None, None] ** 1.5
    cloud = cv2.resize(rng.normal(0, drive.clouds, (12, 18)), (2 * width, width))
    sky = top * (1 - ramp) + low * ramp + np.asarray(cloud)[..., None] * (1 - ramp)
    sky = np.clip(sky, 0, 255).astype(np.uint8)
    if drive.night:
        sky[rng.integers(0, width, 30), rng.integers(0, 2 * width, 30)] = 160
    return sky


def make_car(
    street: Street, drive: Pass, s: float, t: float, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[Pyramid]]:
    """A car whose back is at (s, t): corners of its back and of the side to the road's middle."""
    high = bool(rng.random() < 0.2)
    length, tall = float(rng.uniform(3.8, 7.5 if high else 4.8)), 2.6 if high else 1.5
    inner = t - 0.9 if t > 0 else t + 0.9
    sides = [(s, inner), (s + length, inner)]
    quads = []
    for (s1, t1), (s2, t2) in (
        ((s, t + 0.9), (s, t - 0.9)),
        sides if t > 0 else sides[::-1],
    ):
        a, b = street.arc.at(np.array([s1, s2]), np.array([t1, t2]))
        quads.append(np.array([(*a, tall), (*b, tall), (*b, 0.0), (*a, 0.0)]))
    return quads, [lit(picture, drive) for picture in draw_car(rng, length, high)]


def lit(picture: np.ndarray, drive: Pass) -> Pyramid:
    """A picture (H, W, 4) in the light of a pass, and of headlights by night."""
    gain = np.diag([*np.maximum(drive.gain, 0.2), 1.0])
    return as_pyramid(cv2.transform(premultiplied(picture), gain))


def paint(img: Image, camera: Camera, things: Things, haze: np.ndarray, air: np.ndarray) -> None:
    """Paint things, the first ones first; what is behind the camera is cut off.

    Their corners are as from `Camera.see`; `haze` (N,): the share of each that is lost in `air`.
    """
    corners, shares = cut_near(things.corners)
    flat = camera.project(corners)
    low = np.maximum(np.floor(flat.min(axis=1)), 0).astype(int)
    high = np.minimum(np.ceil(flat.max(axis=1)) + 1, camera.size).astype(int)
    spread = (flat.max(axis=1) - flat.min(axis=1)).min(axis=1)
    seen = np.flatnonzero(((high - low) > 0).all(axis=1) & (spread > 0.5))
    a, b = flat[:, 1] - flat[:, 3], flat[:, 2] - flat[:, 0]
    shown = np.maximum(np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2, 1.0)
    placed = np.ascontiguousarray(flat - low[:, None], np.float32)
    mix = np.zeros((len(haze), 3, 4), np.float32)
    mix[:, [0, 1, 2], [0, 1, 2]] = 1 - haze[:, None]
    mix[:, :, 3] = haze[:, None] * air / 255
    for i in seen:
        pyramid, (x1, x2) = things.pictures[i], shares[i]
        th, tw = pyramid[0].shape[:2]
        shrink = max(th * tw * (x2 - x1) / shown[i], 1.0)
        picture = pyramid[min(int(log2(shrink) / 2 + 0.3), len(pyramid) - 1)]
        th, tw = picture.shape[:2]
        source = np.array([(tw * x1, 0), (tw * x2, 0), (tw * x2, th), (tw * x1, th)], np.float32)
        (x, y), (right, bottom) = low[i].tolist(), high[i].tolist()
        warp = cv2.getPerspectiveTransform(source, placed[i])
        layer = cv2.warpPerspective(picture, warp, (right - x, bottom - y))
        _blend(img[y:bottom, x:right], layer, mix[i])


def cut_near(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut upright rectangles (N, 4, 3) where they are nearer than `NEAR`.

    Returns the corners of what is left and the shares (N, 2) of their width where it begins and
    ends. One end of each must be ahead of `NEAR`.
    """
    depth = corners[..., 2]
    left, right = np.minimum(depth[:, 0], depth[:, 3]), np.minimum(depth[:, 1], depth[:, 2])
    apart = np.where(np.abs(right - left) < 1e-9, 1.0, right - left)
    share = np.clip((NEAR - left) / apart, 0, 1)
    shares = np.stack(
        [np.where(left < NEAR, share, 0.0), np.where(right < NEAR, share, 1.0)], axis=1
    )
    ends = shares[:, [0, 1, 1, 0], None]  # of upper left, upper right, lower right, lower left
    starts, stops = corners[:, [0, 0, 3, 3]], corners[:, [1, 1, 2, 2]]
    return starts + ends * (stops - starts), shares


def _blend(part: Image, layer: np.ndarray, mix: np.ndarray) -> None:
    """Lay a premultiplied layer (H, W, 4) over a part; `mix` (3, 4) gives its colours."""
    clear = cv2.merge([255 - layer[..., 3]] * 3)
    cv2.add(cv2.transform(layer, mix), cv2.multiply(part, clear, scale=1 / 255), dst=part)


def paint_ground(img: Image, camera: Camera, ready: Drive, air: np.ndarray) -> None:
    """Paint the ground below the horizon: every pixel's ray meets it at some (s, t)."""
    w, h = camera.size
    step = 3  # places are smooth: every third pixel is computed, the others lie between
    x, y = np.meshgrid(np.arange(0, w + step, step), np.arange(0, h + step, step))
    plane = (np.stack([x, y], axis=-1) - camera.centre) / camera.focal
    rays = np.concatenate([plane, np.ones((*x.shape, 1))], axis=-1) @ camera.turn
    away = camera.position[2] / np.maximum(-rays[..., 2], 2e-3)
    s, t = ready.street.arc.along(camera.position[:2] + rays[..., :2] * away[..., None])
    haze = 1 - (1 - ready.drive.haze) ** (away / 100)
    grids = s * GROUND_SCALE, (GROUND_HALF - t) * GROUND_SCALE, haze, -rays[..., 2]
    fine = np.array([[1 / step, 0, 0], [0, 1 / step, 0]])
    xs, ys, haze, down = (
        cv2.warpAffine(g.astype(np.float32), fine, (w, h), flags=cv2.WARP_INVERSE_MAP)
        for g in grids
    )
    first = int(np.argmax((down > 0).any(axis=1)))  # row of the horizon
    xs, ys, haze = xs[first:], ys[first:], haze[first:, :, None]
    floor = cv2.remap(ready.ground, xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = floor * (1 - haze) + air.astype(np.float32) * haze
    img[first:] = np.where(down[first:, :, None] > 0, seen, img[first:])


def _paint_sky(img: Image, camera: Camera, ready: Drive, heading: float) -> None:
    """The sky above the horizon, turned with the camera."""
    h, w = img.shape[:2]
    horizon = camera.centre[1] + camera.focal * camera.turn[2, 2]
    share = 1 - heading / (2 * np.pi) % 1  # of a full turn, clockwise
    left = int(share * (ready.sky.shape[1] - w))
    top = int(np.clip(ready.sky.shape[0] - horizon - 4, 0, ready.sky.shape[0] - 1))
    piece = ready.sky[top : top + h, left : left + w]
    img[: len(piece)] = piece
    img[len(piece) :] = ready.drive.sky[1]


def upright(camera: Camera, feet: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Corners (N, 4, 3) as the camera sees them of what shows its face; `feet` (N, 3) likewise."""
    down = camera.turn[:, 2]
    level = np.array([-down[1], down[0], 0.0])  # at right angles to it and to the line of sight
    across = sizes[:, :1] * level / (2 * np.linalg.norm(level))
    up = sizes[:, 1:] * down
    return np.stack([feet - across + up, feet + across + up, feet + across, feet - across], axis=1)


def _visible(camera: Camera, ready: Drive, shot: Shot, rng: np.random.Generator) -> Things:
    """All that stands, drives and walks before the camera."""
    street, fixed = ready.street, ready.fixed
    feet, sizes, faces = [ready.feet], [ready.sizes], list(ready.faces)
    corners, pictures = [camera.see(fixed.corners)], list(fixed.pictures)
    for _ in range(int(rng.poisson(ready.drive.traffic * 3))):
        s = shot.s + float(rng.uniform(8, 45))
        if rng.random() < 0.5:
            t = float(rng.choice([-1.7, 1.7]))
            quads, painted = make_car(street, ready.drive, s, t, rng)
            corners.append(camera.see(np.array(quads)))
            pictures += painted
        else:
            t = float(rng.choice([-1, 1]) * (street.road + rng.uniform(0.3, 2.2)))
            feet.append(np.append(street.arc.at(np.array(s), np.array(t)), 0.0)[None])
            sizes.append(np.array([[0.7, 1.75]]))
            faces.append(lit(draw_person(rng), ready.drive))
    at = camera.see(np.concatenate(feet))
    front = upright(camera, at, np.concatenate(sizes))
    front[at[:, 2] < 1.5] = -1.0  # behind the camera, or too near
    every = np.concatenate([*corners, front])
    depth = every[..., 2]
    seen = (depth[:, :2].max(axis=1) > NEAR * 1.5) & (depth.min(axis=1) < FAR)
    order = np.argsort(-np.linalg.norm(every.mean(axis=1), axis=1), kind="stable")
    order = order[seen[order]]
    pictures += faces
    return Things(every[order], [pictures[i] for i in order])


def _shine(img: Image, camera: Camera, street: Street) -> None:
    """The light around street lamps by night."""
    for sprite in street.sprites:
        if not sprite.light:
            continue
        head = camera.see(sprite.foot + np.array([0, 0, sprite.height * 0.93]))
        if not 2 < head[2] < 70:
            continue
        x, y = np.rint(camera.project(head)).astype(int)
        r = max(int(camera.focal * 0.8 / head[2]), 2)
        x1, y1, x2, y2 = max(x - r, 0), max(y - r, 0), x + r + 1, y + r + 1
        part = img[y1 : max(y2, 0), x1 : max(x2, 0)]
        if not part.size:
            continue
        ys, xs = np.ogrid[y1 : y1 + part.shape[0], x1 : x1 + part.shape[1]]
        glow = np.maximum(1 - ((xs - x) ** 2 + (ys - y) ** 2) / r**2, 0)[..., None] ** 2
        part[:] = np.minimum(part + glow * np.array([150, 210, 240]), 255)


def _expose(img: Image, ready: Drive, rng: np.random.Generator) -> Image:
    """Windscreen, lens and sensor."""
    drive, (h, w) = ready.drive, img.shape[:2]
    if drive.bonnet:
        tone = tuple(float(c) for c in np.array(drive.gain) * 70 + 10)
        cv2.ellipse(img, (w // 2, int(h * 1.06)), (int(w * 0.6), int(h * 0.17)), 0, 180, 360, tone,
                    -1, cv2.LINE_AA)  # fmt: skip
    if drive.rain:
        soft = cv2.GaussianBlur(img, (0, 0), 3)
        drops = np.zeros((h, w), np.uint8)
        for x, y, r in rng.integers(0, (w, h, 6), (45, 3)):
            cv2.circle(drops, (int(x), int(y)), 2 + int(r), 255, -1)
        img = np.where(drops[..., None] > 0, cv2.flip(soft, 0) // 4 + soft // 4 * 3, img)
    if rng.random() < 0.15:
        img = cv2.blur(img, (int(rng.integers(2, 5)), 1))
    y, x = rng.integers(0, np.array(ready.noise.shape) - (h, w) + 1)
    grain = ready.noise[y : y + h, x : x + w, None] * np.float32(drive.noise)
    level = drive.exposure * float(rng.uniform(0.92, 1.08))
    out = np.clip(img * np.float32(level) + grain, 0, 255).astype(np.uint8)
    curve = 255 * (np.arange(256) / 255) ** drive.gamma
    return cv2.LUT(out, curve.astype(np.uint8))


def photograph(ready: Drive, shot: Shot, size: tuple[int, int], rng: np.random.Generator) -> Image:
    """The picture (H, W, 3) BGR of a `shot`; `size` is (width, height) in pixels."""
    street, drive = ready.street, ready.drive
    large = (int(size[0] * SUPER), int(size[1] * SUPER))
    road = street.arc.heading + street.arc.bend * shot.s
    heading = road + np.deg2rad(shot.yaw)
    position = np.append(street.arc.at(np.array(shot.s), np.array(shot.t)), drive.height)
    camera = Camera(position, heading, shot, drive.field, large)
    img, air = np.empty((large[1], large[0], 3), np.uint8), np.array(drive.sky[1])
    _paint_sky(img, camera, ready, heading)
    paint_ground(img, camera, ready, air)
    far = np.array([np.cos(road), np.sin(road)]) * 140
    across = np.array([-far[1], far[0]]) * 1.5
    ends = (*(far + across), *(far - across))
    skyline = np.array([(*ends[:2], 52), (*ends[2:], 52), (*ends[2:], -1), (*ends[:2], -1)], float)
    skyline[:, :2] += position[:2]
    paint(img, camera, Things(camera.see(skyline)[None], [ready.skyline]), np.zeros(1), air)
    things = _visible(camera, ready, shot, rng)
    away = np.linalg.norm(things.corners.mean(axis=1), axis=1)
    paint(img, camera, things, 1 - (1 - drive.haze) ** (away / 100), air)
    if drive.night:
        _shine(img, camera, street)
    return _expose(cv2.resize(img, size, interpolation=cv2.INTER_AREA), ready, rng)
