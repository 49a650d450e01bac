"""Names and tables of street photographs: UTM file names, and MSLS's csv files."""

import base64
import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.streets_light import Pass
from utils.paths import atomic_write

MONTHS = {"spring": 4, "summer": 7, "autumn": 10, "winter": 1}
NEWER = 2016  # pictures of this year and later ones are the new ones
SUBTASKS = ("all", "s2w", "w2s", "o2n", "n2o", "d2n", "n2d")


class City(NamedTuple):
    """A city nobody lives in; `easting` and `northing` of its south-western corner, in metres."""

    number: int  # its random streams
    name: str
    split: str  # train, val or test
    zone: int
    band: str
    easting: float
    northing: float


CITIES = (
    City(1, "arven", "train", 31, "U", 480_000.0, 5_400_000.0),
    City(2, "belmora", "train", 32, "T", 520_000.0, 4_900_000.0),
    City(3, "castrel", "val", 33, "U", 460_000.0, 5_600_000.0),
    City(4, "dunmere", "test", 30, "U", 540_000.0, 5_900_000.0),
)


class Photo(NamedTuple):
    """One picture of the set."""

    city: City
    query: bool  # else of the database
    route: int
    number: int  # of its pass among those of the route
    frame: int  # of the pass
    s: float  # metres along the route
    drive: Pass
    sideways: bool
    easting: float
    northing: float
    heading: float  # degrees clockwise from north

    @property
    def side(self) -> str:
        """Its folder in MSLS's layout."""
        return "query" if self.query else "database"


def make_key(*numbers: int) -> str:
    """22 characters, as MSLS names pictures and sequences."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=17).digest()
    return base64.urlsafe_b64encode(digest).decode()[:22]


def key_of(seed: int, photo: Photo) -> str:
    """The name of a photograph."""
    return make_key(seed, photo.city.number, photo.route, photo.number, photo.frame)


def to_degrees(zone: int, easting: float, northing: float) -> tuple[float, float]:
    """UTM (northern half, WGS84) -> latitude, longitude; Krueger's series, good to a millimetre."""
    flat = 1 / 298.257223563
    n = flat / (2 - flat)
    radius = 6_378_137.0 / (1 + n) * (1 + n**2 / 4 + n**4 / 64)
    x, y = northing / (0.9996 * radius), (easting - 500_000.0) / (0.9996 * radius)
    back = (n / 2 - 2 * n**2 / 3 + 37 * n**3 / 96, n**2 / 48 + n**3 / 15, 17 * n**3 / 480)
    forth = (2 * n - 2 * n**2 / 3 - 2 * n**3, 7 * n**2 / 3 - 8 * n**3 / 5, 56 * n**3 / 15)
    a = x - sum(b * np.sin(2 * j * x) * np.cosh(2 * j * y) for j, b in enumerate(back, 1))
    b = y - sum(b * np.cos(2 * j * x) * np.sinh(2 * j * y) for j, b in enumerate(back, 1))
    chi = np.arcsin(np.sin(a) / np.cosh(b))
    latitude = chi + sum(d * np.sin(2 * j * chi) for j, d in enumerate(forth, 1))
    longitude = np.arctan2(np.sinh(b), np.cos(a))
    return float(np.rad2deg(latitude)), float(np.rad2deg(longitude)) + zone * 6 - 183


def captured_at(drive: Pass) -> datetime:
    """Noon or midnight in the middle of the season's first month."""
    return datetime(drive.year, MONTHS[drive.season], 15, 0 if drive.night else 12, tzinfo=UTC)


def utm_path(seed: int, photo: Photo) -> str:
    """Path below the folder of the set, named as in the Visual Geo-localization Benchmark:

    @easting@northing@zone@band@latitude@longitude@key@tile@heading@pitch@roll@height@date@note@.jpg
    """
    city, drive = photo.city, photo.drive
    latitude, longitude = to_degrees(city.zone, photo.easting, photo.northing)
    note = "_".join(
        ("night" if drive.night else "day", "sideways" if photo.sideways else "forward", city.name)
    )
    fields = (
        f"{photo.easting:010.2f}", f"{photo.northing:010.2f}", city.zone, city.band,
        f"{latitude:.5f}", f"{longitude:.5f}", key_of(seed, photo), "", f"{photo.heading:.1f}",
        "", "", f"{drive.height:.1f}", captured_at(drive).strftime("%Y%m%d"), note, ".jpg",
    )  # fmt: skip
    folder = "queries" if photo.query else "database"
    return f"images/{city.split}/{folder}/@" + "@".join(map(str, fields))


def msls_folder(city: City) -> str:
    """Folder of a city below that of the set, in MSLS's layout."""
    return f"{'test' if city.split == 'test' else 'train_val'}/{city.name}"


def msls_path(seed: int, photo: Photo) -> str:
    """Path of a picture below the folder of the set, in MSLS's layout."""
    return f"{msls_folder(photo.city)}/{photo.side}/images/{key_of(seed, photo)}.jpg"


def _subtasks(photo: Photo) -> list[bool]:
    """Whether a picture takes part in each of `SUBTASKS`; a2b has queries of a, database of b."""
    summer, new = photo.drive.season in ("spring", "summer"), photo.drive.year >= NEWER
    pairs = ((summer, not summer), (not new, new), (not photo.drive.night, photo.drive.night))
    flags = [True]
    for a, b in pairs:
        flags += [a, b] if photo.query else [b, a]
    return flags


def _table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A csv file whose first column is an unnamed row number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *columns])
    writer.writerows([i, *row] for i, row in enumerate(rows))
    atomic_write(path, text.getvalue().encode())


def write_tables(folder: Path, seed: int, photos: Sequence[Photo]) -> None:
    """MSLS's csv files of one side (query or database) of one city.

    `photos` are all of that side. A city of the test split gets no coordinates, as in MSLS.
    """
    keys = [key_of(seed, photo) for photo in photos]

    def write(name: str, columns: Sequence[str], row: Callable[[Photo], Sequence[Any]]) -> None:
        rows = [(key, *row(photo)) for key, photo in zip(keys, photos, strict=True)]
        _table(folder / f"{name}.csv", ["key", *columns], rows)

    def sequence(photo: Photo) -> str:
        return make_key(seed, photo.city.number, photo.route, photo.number)

    write("seq_info", ["sequence_key", "frame_number"], lambda p: (sequence(p), p.frame))
    write("subtask_index", SUBTASKS, _subtasks)
    if photos[0].city.split == "test":
        return

    def raw(p: Photo) -> Sequence[Any]:
        latitude, longitude = to_degrees(p.city.zone, p.easting, p.northing)
        time = int(captured_at(p.drive).timestamp() * 1000)
        return f"{longitude:.7f}", f"{latitude:.7f}", f"{p.heading:.2f}", time, False

    def processed(p: Photo) -> Sequence[Any]:
        view = "Sideways" if p.sideways else "Forward"
        place = p.route * 1000 + int(p.s // 10)
        where = f"{p.easting:.2f}", f"{p.northing:.2f}"
        return *where, place, p.drive.night, p.drive.bonnet, view

    write("raw", ["lon", "lat", "ca", "captured_at", "pano"], raw)
    columns = ["easting", "northing", "unique_cluster", "night", "control_panel", "view_direction"]
    write("postprocessed", columns, processed)
