"""Passes along a drawn street: season, light, weather and camera of one drive, and its shading."""

from dataclasses import dataclass

import cv2
import numpy as np

from data.drawing import Image
from data.streets import Street, season_pictures
from data.streets_fronts import SCALE, Front
from data.streets_props import GROUND_HALF, GROUND_SCALE, SEASONS

Pyramid = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Pass:
    """One drive along a route. Lengths in metres, angles in degrees, colours BGR."""

    night: bool
    season: str
    year: int
    gain: tuple[float, float, float]  # of all surfaces
    sun: int  # 1 shines on the houses to the left, -1 to the right, 0 behind clouds
    shadow: float  # brightness of what is in shadow
    shadow_height: float  # up to where houses across the road shade the sunny side
    haze: float  # share of a surface's colour lost over 100 m
    sky: tuple[tuple[float, ...], tuple[float, ...]]  # at the top, at the horizon
    clouds: float
    snow: bool
    lane: float  # the camera's place to the left of the road's middle
    yaw: float  # to the left of the road's direction
    pitch: float
    height: float
    field: float  # horizontal angle of view
    bonnet: bool  # the car's own shows at the bottom
    rain: bool  # drops on the windscreen
    exposure: float
    gamma: float
    noise: float
    quality: int  # of the JPEG
    traffic: float  # things per 10 m


def sample_pass(rng: np.random.Generator, query: bool, sideways: float) -> Pass:
    """Any pass; queries are taken by night and in another lane more often.

    `sideways`: degrees that the cameras of this route look away from the road's direction.
    """
    night = bool(rng.random() < (0.15 if query else 0.1))
    season = SEASONS[int(rng.integers(4))]
    dusk, cloudy = rng.random() < 0.15, rng.random() < 0.45
    warm = rng.uniform(-0.16, 0.16) + (0.1 if dusk else 0.0)
    level = rng.uniform(0.18, 0.34) if night else rng.uniform(0.8, 1.1) * (0.65 if dusk else 1.0)
    tint = np.array([1.3, 1.0, 0.85]) if night else np.array([1 - warm, 1.0, 1 + warm])
    blue, grey = np.array([225, 170, 110]), np.array([215, 212, 208])
    top = (grey if cloudy else blue) * rng.uniform(0.75, 1.1)
    low = np.array([235, 230, 225]) * rng.uniform(0.85, 1.05)
    if dusk:
        low = np.array([120, 160, 235]) * rng.uniform(0.8, 1.05)
    if night:
        top, low = np.array([35, 22, 18]), np.array([60, 50, 50]) * rng.uniform(0.6, 1.4)
    return Pass(
        night=night, season=season, year=int(rng.integers(2013, 2020)),
        gain=tuple(float(v) for v in level * tint),  # type: ignore[arg-type]
        sun=0 if cloudy or night else int(rng.choice([-1, 1])),
        shadow=float(rng.uniform(0.45, 0.75)), shadow_height=float(rng.uniform(0, 6)),
        haze=float(rng.choice([0.15, 0.3, 0.75], p=[0.5, 0.4, 0.1])),
        sky=(tuple(top), tuple(low)), clouds=float(rng.uniform(0, 25)),
        snow=season == "winter" and bool(rng.random() < 0.5),
        lane=float(rng.choice([-1.6, 1.4]) if query else -1.6) + float(rng.normal(0, 0.3)),
        yaw=sideways + float(rng.uniform(-10, 10) if query else rng.uniform(-5, 5)),
        pitch=float(rng.uniform(-1, 5)), height=float(rng.uniform(1.5, 2.4)),
        field=float(rng.uniform(64, 84)),
        bonnet=bool(rng.random() < 0.25), rain=bool(rng.random() < 0.1),
        exposure=float(rng.uniform(0.85, 1.2)), gamma=float(rng.uniform(0.85, 1.2)),
        noise=float(rng.uniform(4, 8) if night else rng.uniform(1, 4)),
        quality=int(rng.integers(65, 92)), traffic=float(rng.uniform(0.05, 0.45)),
    )  # fmt: skip


def as_pyramid(picture: np.ndarray) -> Pyramid:
    """(H, W, 4) and its halves, down to about 8 pixels."""
    levels = [picture]
    while min(levels[-1].shape[:2]) >= 16 and len(levels) < 5:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
    return tuple(levels)


def _shade_front(
    front: Front, picture: np.ndarray, drive: Pass, facing: int, glow: float,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """A front in the light of a pass: its sun, a slanted shadow, lit windows."""
    h, w = picture.shape[:2]
    light = np.full((h, w), 1.0 if drive.sun == 0 or drive.sun == facing else drive.shadow)
    light = light.astype(np.float32)
    if drive.sun == facing:
        y = h - int(drive.shadow_height * SCALE)
        slant = int(rng.integers(-20, 21))
        edge = np.array([(0, y - slant), (w, y + slant), (w, h), (0, h)], np.int32)
        cv2.fillPoly(light, [edge], drive.shadow)
    gain = np.array(drive.gain) + glow * np.array([0.35, 0.55, 0.7])
    levels = cv2.merge([*(light * np.float32(g) for g in gain), np.ones_like(light)])
    shaded = cv2.multiply(picture, levels, dtype=cv2.CV_8U)
    if drive.night:
        for x1, y1, x2, y2 in front.windows:
            if rng.random() < 0.3:
                lit = (*(int(c) for c in np.array([110, 190, 235]) * rng.uniform(0.5, 1.05)), 255)
                cv2.rectangle(shaded, (x1, y1), (x2, y2), lit, -1)
                cv2.line(shaded, ((x1 + x2) // 2, y1), ((x1 + x2) // 2, y2), (20, 30, 40, 255), 1)
    return shaded


def _lamp_light(street: Street, point: np.ndarray) -> float:
    """0 to 1: how much of the street lamps on its side reaches a house at `point` (2,) world."""
    s, t = street.arc.along(point)
    own = street.lamps[np.sign(street.lamps[:, 1]) == np.sign(t)]
    away = np.abs(own[:, 0] - s).min(initial=np.inf)
    return float(np.exp(-((away / 9) ** 2)))


def shade_pictures(street: Street, drive: Pass, rng: np.random.Generator) -> list[Pyramid]:
    """Pictures of a street as they look in a pass, from fine to coarse, colours premultiplied."""
    pictures = season_pictures(street, drive.season)
    facing = {surface.picture: surface.facing for surface in street.surfaces}
    middle = {surface.picture: surface.corners[:2, :2].mean(axis=0) for surface in street.surfaces}
    gain, shaded = np.diag([*drive.gain, 1.0]), []
    for index, (front, picture) in enumerate(zip(street.pictures, pictures, strict=True)):
        if front.windows:
            glow = _lamp_light(street, middle[index]) if drive.night else 0.0
            ready = _shade_front(front, picture, drive, facing[index], glow, rng)
        else:
            ready = cv2.transform(picture, gain)
        shaded.append(as_pyramid(ready))
    return shaded


def shade_ground(street: Street, drive: Pass, rng: np.random.Generator) -> Image:
    """The ground of a street in a pass: snow, the shadow of a row of houses, lamps by night."""
    ground = street.ground
    h, w = ground.shape[:2]
    if drive.snow:
        grid = rng.uniform(0.3, 1.0, (7, 60)).astype(np.float32)
        grid[2:5] *= 0.5  # driven over
        cover = np.asarray(cv2.resize(grid, (w, h), interpolation=cv2.INTER_LINEAR))[..., None]
        ground = (ground * (1 - cover) + np.float32(235) * cover).astype(np.uint8)
    light = np.ones((28, max(w // GROUND_SCALE, 1)), np.float32)
    if drive.sun:
        rows = slice(0, 16) if drive.sun < 0 else slice(12, 28)
        light[rows] = drive.shadow
    levels = light[..., None] * np.array(drive.gain, np.float32)
    if drive.night:
        s, y = np.arange(light.shape[1]) + 0.5, GROUND_HALF - np.arange(28) - 0.5
        for at, t in street.lamps:
            pool = np.exp(-(((s - at) / 6) ** 2)) * np.exp(-(((y - t) / 5) ** 2))[:, None]
            levels += pool[..., None].astype(np.float32) * np.array([0.4, 0.6, 0.75], np.float32)
    return cv2.multiply(ground, cv2.resize(levels, (w, h)), dtype=cv2.CV_8U)
