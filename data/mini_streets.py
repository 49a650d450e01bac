"""The generated streets, as UTM-named folders and in the layout of Mapillary SLS (MSLS)."""

import argparse
import os
import shutil
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.drawn_sets import draw_all, draw_sheet, make_side, write_picture
from data.streets import BLOCK, Place, look_alikes, make_arc, make_street
from data.streets_layouts import (
    CITIES,
    City,
    Photo,
    msls_folder,
    msls_path,
    utm_path,
    write_tables,
)
from data.streets_light import sample_pass
from data.streets_photos import Shot, photograph, prepare
from utils.paths import atomic_path

VERSION = 1  # of the drawing code: another number, other pictures
PASS, FRAME, SHADE = 11, 12, 13  # random streams, apart from those of the streets themselves
SPACING = 8.0  # metres between two pictures of a database pass
APART = 80.0  # metres between the cameras of two routes, at least
DATABASE_PASSES, QUERY_PASSES = 2, 2
SIZES = ("train_routes", "val_routes", "test_routes", "frames", "val_queries", "test_queries")


class Route(NamedTuple):
    """A route to drive: how many of its city there are, and how many queries it gets."""

    place: Place
    city: City
    routes: int
    frames: int  # of a database pass
    queries: int

    @property
    def length(self) -> float:
        """Metres that cameras drive."""
        return self.frames * SPACING


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `make_mini streets`."""
    add = parser.add_argument
    add("--out", type=Path, default=Path("data"), help="folder of the two layouts")
    add("--seed", type=int, default=0)
    add("--train-routes", type=int, default=80, help="in two cities, 3 * frames images each")
    add("--val-routes", type=int, default=36, help="2 * frames database images each")
    add("--test-routes", type=int, default=36, help="likewise")
    add("--frames", type=int, default=25, help="images of a pass, 8 m apart")
    add("--val-queries", type=int, default=200)
    add("--test-queries", type=int, default=400)
    add("--width", type=int, default=240, help="of an image in pixels; the height is 3/4 of it")
    add("--workers", type=int, default=os.cpu_count(), help="processes that draw")
    add("--overwrite", action="store_true", help="replace a set drawn otherwise")


def make(options: argparse.Namespace) -> None:
    """Draw the set; ValueError for sizes that make none."""
    least = {"train_routes": 2, "frames": 4, "width": 64}
    for name in (*SIZES, "width", "workers"):
        value, low = getattr(options, name), least.get(name, 1)
        if value < low:
            raise ValueError(f"--{name.replace('_', '-')} is {value}, must be {low} or more")
    sizes = {name: getattr(options, name) for name in (*SIZES, "width")}
    make_side(options, options.out / "mini_streets", VERSION, sizes, draw_set)
    make_side(options, options.out / "mini_msls", VERSION, sizes, link_set)


def list_routes(options: argparse.Namespace) -> list[Route]:
    """All routes, city after city."""
    routes = []
    half = options.train_routes // 2
    counts = (options.train_routes - half, half, options.val_routes, options.test_routes)
    for city, count in zip(CITIES, counts, strict=True):
        wanted = {"val": options.val_queries, "test": options.test_queries}.get(
            city.split, count * options.frames
        )
        ends = np.arange(count + 1) * wanted // count  # spread evenly
        routes += [
            Route(Place(options.seed, city.number, i), city, count, options.frames, int(queries))
            for i, queries in enumerate(np.diff(ends))
        ]
    return routes


def list_photos(route: Route) -> list[tuple[Photo, Shot]]:
    """All photographs of a route: two passes of the database, then queries of two others."""
    rng = np.random.default_rng([*route.place, PASS])
    sideways = float(rng.choice([-1, 1]) * rng.uniform(40, 58)) if rng.random() < 0.12 else 0.0
    listed = []
    for number in range(DATABASE_PASSES + QUERY_PASSES):
        query = number >= DATABASE_PASSES
        stream = np.random.default_rng([*route.place, PASS, number])
        drive = sample_pass(stream, query, sideways)
        count = route.queries if query else route.frames
        step = route.length / max(count, 1)
        places = (np.arange(count) + 0.5 + stream.uniform(-0.2, 0.2, count)) * step
        if query:  # the two passes take turns
            places = places[number - DATABASE_PASSES :: QUERY_PASSES]
        for frame, s in enumerate(places):
            jitter = stream.normal(0, 1, 4)
            shot = Shot(
                float(s), drive.lane + 0.15 * jitter[0], drive.yaw + 1.5 * jitter[1],
                drive.pitch + 0.6 * jitter[2], 0.8 * jitter[3],
            )  # fmt: skip
            where = locate(route, shot)
            photo = Photo(
                route.city, query, route.place.route, number, frame, float(s), drive,
                sideways != 0, *where,
            )  # fmt: skip
            listed.append((photo, shot))
    return listed


def locate(route: Route, shot: Shot) -> tuple[float, float, float]:
    """Easting, northing (to the centimetre) and heading (degrees from north) of a shot.

    The routes of a city lie on a grid, the middle of each in the middle of its cell.
    """
    arc, city = make_arc(route.place), route.city
    columns = int(np.ceil(np.sqrt(route.routes)))
    row, column = divmod(route.place.route, columns)
    cell = route.length + APART
    middle = np.array([city.easting, city.northing]) + cell * (np.array([column, row]) + 0.5)
    offset = arc.at(np.array(shot.s), np.array(shot.t)) - arc.at(
        np.array(route.length / 2), np.array(0.0)
    )
    easting, northing = np.round(middle + offset, 2)
    turned = np.rad2deg(arc.heading + arc.bend * shot.s) + shot.yaw
    return float(easting), float(northing), float((90 - turned) % 360)


def _draw_route(folder: Path, width: int, routes: list[Route], index: int) -> list[Photo]:
    """Draw the photographs of a route that are not there yet; returns all of them."""
    route = routes[index]
    photos = list_photos(route)
    files = [folder / utm_path(route.place.seed, photo) for photo, _ in photos]
    missing = [i for i, file in enumerate(files) if not file.exists()]
    if missing:
        street = make_street(route.place, route.routes, route.length)
        for number, taken in groupby(missing, key=lambda i: photos[i][0].number):
            of_pass = list(taken)
            stream = np.random.default_rng([*route.place, SHADE, number])
            ready = prepare(street, photos[of_pass[0]][0].drive, width, stream)
            for i in of_pass:
                photo, shot = photos[i]
                stream = np.random.default_rng([*route.place, FRAME, number, photo.frame])
                picture = photograph(ready, shot, (width, width * 3 // 4), stream)
                write_picture(files[i], picture, photo.drive.quality)
    return [photo for photo, _ in photos]


def draw_set(folder: Path, options: argparse.Namespace) -> None:
    """`images/{train,val,test}/{database,queries}/@easting@northing@...@.jpg` and sheet.jpg.

    Pictures of an interrupted drawing are kept: `make_side` has seen that they are of this set.
    """
    if options.overwrite and (folder / "images").exists():
        shutil.rmtree(folder / "images")
    routes = list_routes(options)
    draw = partial(_draw_route, folder, options.width, routes)
    photos = [p for listed in draw_all(draw, len(routes), options.workers, "streets", "route")
              for p in listed]  # fmt: skip
    for split in ("train", "val", "test"):
        sides = [photo.query for photo in photos if photo.city.split == split]
        tqdm.write(
            f"{folder}: {split} has {sides.count(False)} database images, {sum(sides)} queries"
        )
    draw_sheet(_sheet(folder, options, photos), folder / "sheet.jpg", tall=120)


def _sheet(
    folder: Path, options: argparse.Namespace, photos: list[Photo]
) -> list[list[tuple[Path, str]]]:
    """Rows of the sheet: a query, its nearest of both passes, farther ones, and a look-alike."""
    test = [photo for photo in photos if photo.city.split == "test"]
    queries = [photo for photo in test if photo.query]
    rows = []
    for query in queries[:: max(len(queries) // 16, 1)][:16]:
        own = [photo for photo in test if not photo.query and photo.route == query.route]
        first, second = (
            [photo for photo in own if photo.number == number] for number in range(DATABASE_PASSES)
        )
        row = [(query, "query"), (_at(first, query.s), "pass 1"), (_at(second, query.s), "pass 2")]
        for ahead in (20, -40):
            near = _at(first, query.s + ahead)
            row.append((near, f"{near.s - query.s:+.0f} m"))
        block = int((query.s + 18) // BLOCK)  # what most of the picture shows
        family = look_alikes(options.seed, query.city.number, block, options.test_routes)
        kin = np.flatnonzero(family == family[query.route])
        others = [p for p in test if p.route in kin and p.route != query.route]
        others = [p for p in others if not p.query and p.sideways == query.sideways]
        row += [(_at(others, query.s), "look-alike")] if others else []
        rows.append([(folder / utm_path(options.seed, p), caption) for p, caption in row])
    return rows


def _at(photos: list[Photo], s: float) -> Photo:
    """The photograph taken nearest to `s` metres along its route."""
    return min(photos, key=lambda photo: abs(photo.s - s))


def link_set(folder: Path, options: argparse.Namespace) -> None:
    """The same pictures as `{train_val,test}/<city>/{query,database}/`, with MSLS's csv files.

    Pictures are hard links where the file system has them, else copies.
    """
    streets = folder.with_name("mini_streets")
    for name in {msls_folder(city) for city in CITIES}:
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    sides: dict[tuple[City, bool], list[Photo]] = {}
    for route in list_routes(options):
        for photo, _ in list_photos(route):
            sides.setdefault((photo.city, photo.query), []).append(photo)
    for photos in tqdm(sides.values(), desc="MSLS's layout", unit="folder"):
        for photo in photos:
            source = streets / utm_path(options.seed, photo)
            _link(source, folder / msls_path(options.seed, photo))
        side = folder / msls_folder(photos[0].city) / photos[0].side
        write_tables(side, options.seed, photos)
    _link(streets / "sheet.jpg", folder / "sheet.jpg")


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{source} is missing; draw the set again (--overwrite)"
            ) from error
        except OSError:
            shutil.copyfile(source, temporary)
