"""Drawn streets: where houses, trees, lamps, signs and parked places stand along a route.

A route is an arc of a circle. A point of it is (s, t): metres along the road's middle and metres to
the left of it; in the world x points east, y north and z up, in metres from the route's start.
Houses stand in blocks. A third of the blocks come in families of four, spread over the routes of a
city, which share everything that a style says (walls, windows, widths, trees) and differ in the
details of each house only. Everything follows from the numbers handed in.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.drawing import premultiplied
from data.streets_fronts import (
    SCALE,
    Front,
    FrontStyle,
    draw_front,
    draw_wall,
    sample_style,
    vary_style,
)
from data.streets_props import (
    SEASONS,
    draw_board,
    draw_ground,
    draw_hedge,
    draw_lamp,
    draw_poster,
    draw_skyline,
    draw_traffic_sign,
    draw_tree,
)

BLOCK = 58.0  # metres, the side street behind it included
AHEAD = 75.0  # metres of street beyond the last place of a camera
FAMILY = 4  # blocks that look alike
CITY, ROUTE, STYLE, DETAIL, TREE, KIN = 1, 2, 3, 4, 5, 6  # random streams
SIDE_WALL = 9.0  # metres that a house is deep


class Place(NamedTuple):
    """Of which street something is drawn: all random streams of a street start with these."""

    seed: int
    city: int
    route: int


@dataclass(frozen=True)
class Arc:
    """The middle of a road, which starts at (0, 0)."""

    heading: float  # at the start, in radians counterclockwise from east
    bend: float  # 1 / radius in metres, positive to the left, never 0

    def at(self, s: np.ndarray, t: np.ndarray) -> np.ndarray:
        """World (..., 2) of points `s` metres along and `t` to the left."""
        angle = self.heading + self.bend * np.asarray(s)
        out = 1 / self.bend - np.asarray(t)
        start = np.array([np.sin(self.heading), -np.cos(self.heading)]) / self.bend
        return np.stack([np.sin(angle) * out, -np.cos(angle) * out], axis=-1) - start

    def along(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(s, t) of world points (..., 2): the inverse of `at` within half a turn."""
        side = np.sign(self.bend)
        centre = np.array([-np.sin(self.heading), np.cos(self.heading)]) / self.bend
        v = points - centre.astype(points.dtype)
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        ahead, left = v[..., 0] * cos + v[..., 1] * sin, v[..., 1] * cos - v[..., 0] * sin
        turn = np.arctan2(ahead * side, -left * side)
        return turn / self.bend, side * (1 / abs(self.bend) - np.sqrt(ahead**2 + left**2))


class Surface(NamedTuple):
    """A standing rectangle; `corners` (4, 3) world: as seen, upper left, then clockwise."""

    corners: np.ndarray
    picture: int  # index of `Street.pictures`
    facing: int  # 1 stands to the left of the road, -1 to the right, 0 across it


class Sprite(NamedTuple):
    """Something thin that always shows its face."""

    foot: np.ndarray  # (3,) world
    width: float
    height: float
    picture: int
    light: bool = False  # a lamp, which shines by night


@dataclass(frozen=True)
class Street:
    """All that stands still along a route."""

    arc: Arc
    length: float  # metres that are drawn
    road: float  # half its width in metres
    pictures: list[Front]  # premultiplied
    trees: dict[int, list[int]]  # pictures that change with the season: their random streams
    surfaces: list[Surface]
    sprites: list[Sprite]
    lamps: np.ndarray  # (N, 2): s, t
    ground: np.ndarray  # (H, W, 3), see `draw_ground`
    skyline: np.ndarray


def make_arc(place: Place) -> Arc:
    """Direction and bend of a route."""
    rng = np.random.default_rng([place.seed, place.city, ROUTE, place.route])
    bend = rng.choice([-1, 1]) / rng.uniform(250, 2500)
    return Arc(float(rng.uniform(0, 2 * np.pi)), float(bend))


def make_palette(seed: int, city: int) -> np.ndarray:
    """(9, 3) BGR wall colours of a city."""
    rng = np.random.default_rng([seed, city, CITY])
    grey = rng.uniform(90, 215, (9, 1))
    return grey * (1 - 0.45 * rng.random((9, 3)) * rng.random((9, 1)))


def look_alikes(seed: int, city: int, number: int, routes: int) -> np.ndarray:
    """(routes,): the family of each route's block `number`; blocks of one family share their style.

    A third of the routes are in families of four, other ones for each number; the rest is alone.
    """
    order = np.random.default_rng([seed, city, KIN, number]).permutation(routes)
    family = np.arange(routes)
    for first in range(0, routes, 3 * FAMILY):
        kin = order[first : first + FAMILY]
        family[kin] = kin[0]
    return family


class _Builder:
    """Collects what stands in one street; its pictures are premultiplied."""

    def __init__(self, place: Place, routes: int, length: float) -> None:
        self.place, self.routes, self.length = place, routes, length
        self.arc = make_arc(place)
        rng = np.random.default_rng([place.seed, place.city, ROUTE, place.route, 1])
        self.rng = rng
        self.road = float(rng.uniform(3.4, 5.2))
        self.palette = make_palette(place.seed, place.city)
        self.pictures: list[Front] = []
        self.trees: dict[int, list[int]] = {}
        self.surfaces: list[Surface] = []
        self.sprites: list[Sprite] = []
        self.lamps: list[tuple[float, float]] = []
        self.gaps: list[tuple[float, float]] = []

    def add_picture(self, picture: np.ndarray) -> int:
        """Keep a picture without windows; returns its index."""
        self.pictures.append(Front(premultiplied(picture), (), 0.0, 0.0))
        return len(self.pictures) - 1

    def stand(
        self, a: tuple[float, float], b: tuple[float, float], z: tuple[float, float],
        picture: int, facing: int,
    ) -> None:  # fmt: skip
        """Put a picture upright from (s, t) `a`, at its left, to `b`, from height z[0] to z[1]."""
        ends = self.arc.at(np.array([a[0], b[0]]), np.array([a[1], b[1]]))
        (ax, ay), (bx, by) = ends
        low, high = z
        corners = np.array([(ax, ay, high), (bx, by, high), (bx, by, low), (ax, ay, low)])
        self.surfaces.append(Surface(corners, picture, facing))

    def plant(
        self, s: float, t: float, size: tuple[float, float], picture: int, light: bool = False
    ) -> None:
        """Put a sprite of `size` (width, height) at (s, t)."""
        foot = np.append(self.arc.at(np.array(s), np.array(t)), 0.0)
        self.sprites.append(Sprite(foot, *size, picture, light))

    def add_block(self, number: int, side: int) -> None:
        """Houses of block `number` along the route on one side (1 left, -1 right)."""
        seed, city, route = self.place
        block = (number, side + 1)
        family = int(look_alikes(seed, city, number, self.routes)[route])
        style = np.random.default_rng([seed, city, STYLE, *block, family])
        start, end = number * BLOCK, (number + 1) * BLOCK
        end -= 7.5 if style.random() < 0.6 else 0.0
        self.gaps += [(end, start + BLOCK)] * (end < start + BLOCK)
        garden = float(style.choice([0.0, 0.0, 3.0]))
        back = self.road + float(style.uniform(2.6, 4.5)) + garden
        terrace = style.random() < 0.5
        base, before = sample_style(style, self.palette), 0.0
        s, house = start, 0
        while s < end - 3:
            this = vary_style(base, style) if terrace else sample_style(style, self.palette)
            detail = np.random.default_rng([seed, city, DETAIL, route, *block, house])
            width = min(this.width, end - s) if end - s - this.width > 4 else end - s
            self.add_house(this, detail, s, min(width, 15.0), side * back, before)
            s, house, before = s + min(width, 15.0), house + 1, this.height
        own = np.random.default_rng([seed, city, DETAIL, route, *block, 1000])
        if garden:
            self.add_hedge(own, start, end, side * (back - garden))
        self.add_kerb_side(style, own, (start, end), side, back - garden)

    def add_house(
        self, style: FrontStyle, rng: np.random.Generator, s: float, width: float, t: float,
        before: float,
    ) -> None:  # fmt: skip
        """A front along the road, its side wall where it shows, a board that sticks out."""
        side = 1 if t > 0 else -1
        front = draw_front(style, rng)
        self.pictures.append(front._replace(picture=premultiplied(front.picture)))
        ends = ((s, t), (s + width, t))
        left, right = ends if side > 0 else ends[::-1]
        self.stand(left, right, (0.0, front.height), len(self.pictures) - 1, side)
        if before < style.height - 0.5:
            size = (int(SIDE_WALL * SCALE) // 2, int(style.height * SCALE) // 2)
            wall = np.dstack([draw_wall(style, rng, *size), np.full(size[::-1], 255, np.uint8)])
            picture, inner, outer = self.add_picture(wall), (s, t), (s, t + side * SIDE_WALL)
            ends = (outer, inner) if side > 0 else (inner, outer)
            self.stand(*ends, (0.0, style.height), picture, 0)
        if style.shop and rng.random() < 0.6:
            picture, at = self.add_picture(draw_board(rng)), s + float(rng.uniform(1, width - 1))
            ends = ((at, t), (at, t - side * 1.3))
            self.stand(*(ends if side > 0 else ends[::-1]), (3.0, 4.6), picture, 0)

    def add_hedge(self, rng: np.random.Generator, start: float, end: float, t: float) -> None:
        """Hedges before the gardens, with ways in."""
        picture, height = self.add_picture(draw_hedge(rng)), float(rng.uniform(0.8, 1.6))
        for s in np.arange(start, end - 8, 9.5):
            ends = ((float(s), t), (float(s) + 8, t))
            self.stand(*(ends if t > 0 else ends[::-1]), (0.0, height), picture, 0)

    def add_kerb_side(
        self, style: np.random.Generator, own: np.random.Generator,
        span: tuple[float, float], side: int, back: float,
    ) -> None:  # fmt: skip
        """Trees and lamps where the style has them; signs and columns of this street alone."""
        seed, city, route = self.place
        t, lamp = side * (self.road + 0.7), self.add_picture(draw_lamp(style))
        for s in np.arange(span[0] + style.uniform(2, 12), span[1], style.uniform(22, 32)):
            self.plant(float(s), t, (1.4, 5.6), lamp, light=True)
            self.lamps.append((float(s), t))
        if style.random() < 0.5:
            for s in np.arange(span[0] + style.uniform(3, 12), span[1], style.uniform(9, 20)):
                size = style.uniform(3.6, 6.5)
                stream = [seed, city, TREE, route, len(self.pictures)]
                self.trees[len(self.pictures)] = stream
                self.plant(float(s), t + side * 0.6, (size, 1.5 * size), len(self.pictures))
                self.add_picture(np.zeros((1, 1, 4), np.uint8))
        for _ in range(int(own.integers(0, 4))):
            at = float(own.uniform(*span))
            if own.random() < 0.7:
                self.plant(at, t, (0.9, 2.7), self.add_picture(draw_traffic_sign(own)))
            else:
                poster = self.add_picture(draw_poster(own))
                self.plant(at, side * (back - 0.7), (1.4, 2.8), poster)


def make_street(place: Place, routes: int, length: float) -> Street:
    """The street of a route; `routes` of its city, cameras drive its first `length` metres."""
    blocks = int(np.ceil((length + AHEAD) / BLOCK))
    builder = _Builder(place, routes, blocks * BLOCK)
    for number in range(blocks):
        for side in (1, -1):
            builder.add_block(number, side)
    ground = draw_ground(builder.rng, builder.length, builder.road, builder.gaps)
    return Street(
        builder.arc, builder.length, builder.road, builder.pictures, builder.trees,
        builder.surfaces, builder.sprites, np.array(builder.lamps).reshape(-1, 2), ground,
        premultiplied(draw_skyline(builder.rng)),
    )  # fmt: skip


def season_pictures(street: Street, season: str) -> list[np.ndarray]:
    """All pictures (H, W, 4), premultiplied, of a street; trees as they are in that season."""
    if season not in SEASONS:
        raise ValueError(f"season {season!r} is none of {SEASONS}")
    pictures = [front.picture for front in street.pictures]
    for index, stream in street.trees.items():
        pictures[index] = premultiplied(draw_tree(stream, season))
    return pictures
