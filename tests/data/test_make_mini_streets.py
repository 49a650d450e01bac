"""The generated streets: same bytes from the same seed, both layouts, true places, look-alikes."""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import make_mini
from data.mini_streets import APART, add_arguments, list_photos, list_routes
from data.streets import Arc, Place, look_alikes, make_street
from data.streets_layouts import CITIES, SUBTASKS, to_degrees
from data.streets_light import as_pyramid
from data.streets_photos import NEAR, Camera, Shot, Things, cut_near, paint, photograph, prepare
from rrt_gld.sift import compute_locals, compute_vlad, train_codebook
from tests.folder_contents import contents
from utils.paths import REPO_ROOT

SIZES = {"--train-routes": 4, "--val-routes": 1, "--test-routes": 2, "--frames": 4,
         "--val-queries": 3, "--test-queries": 5}  # fmt: skip
OPTIONS = [str(word) for pair in SIZES.items() for word in pair]
COUNTS = {"train": (4 * 8, 4 * 4), "val": (8, 3), "test": (2 * 8, 5)}  # database, queries
SIDES = {"database": "database", "queries": "query"}  # the same folder in either layout


def draw(out: Path, *options: str) -> int:
    return make_mini.main(["streets", "--out", str(out), *OPTIONS, *options])


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def places(files: list[Path]) -> np.ndarray:
    """(N, 2) easting and northing from the file names."""
    return np.array([[float(number) for number in file.name.split("@")[1:3]] for file in files])


def defaults() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mini")
    assert draw(out, "--workers", "1") == 0
    return out


def test_bytes_do_not_depend_on_the_number_of_workers(drawn, tmp_path):
    assert draw(tmp_path, "--workers", "2") == 0
    assert contents(tmp_path) == contents(drawn)


def test_another_seed_draws_other_streets():
    pictures = []
    for seed in (0, 1, 0):
        (photo, shot), *_ = list_photos(
            list_routes(argparse.Namespace(**vars(defaults()) | {"seed": seed}))[0]
        )
        street = make_street(Place(seed, 1, 0), 40, 200.0)
        ready = prepare(street, photo.drive, 160, np.random.default_rng(1))
        pictures.append(photograph(ready, shot, (160, 120), np.random.default_rng(2)))
    assert np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1])


def test_folders_and_names_are_those_of_the_geolocalization_benchmark(drawn):
    for split, counts in COUNTS.items():
        for side, count in zip(SIDES, counts, strict=True):
            files = sorted((drawn / "mini_streets" / "images" / split / side).iterdir())
            assert len(files) == count
            for file in files:
                fields = file.name.split("@")
                assert len(fields) == 16
                assert (fields[0], fields[-1]) == ("", ".jpg")
                assert len(fields[1]) == len(fields[2]) == 10
                assert fields[-2].split("_")[0] in ("day", "night")
                assert fields[-2].split("_")[1] in ("forward", "sideways")
                assert cv2.imread(str(file)).shape == (180, 240, 3)


def test_msls_layout_holds_the_same_pictures_at_the_same_places(drawn):
    found = {}
    for split in COUNTS:
        for side in SIDES:
            for file in (drawn / "mini_streets" / "images" / split / side).iterdir():
                found[file.name.split("@")[7]] = file
    for city in CITIES:
        top = drawn / "mini_msls" / ("test" if city.split == "test" else "train_val") / city.name
        for side, msls_side in SIDES.items():
            folder = top / msls_side
            keys = [row["key"] for row in read_table(folder / "seq_info.csv")]
            assert sorted(keys) == sorted(path.stem for path in (folder / "images").iterdir())
            for key in keys:
                original = found.pop(key)
                assert original.parts[-3:-1] == (city.split, side)
                assert (folder / "images" / f"{key}.jpg").read_bytes() == original.read_bytes()
                if city.split != "test":
                    continue
            if city.split == "test":
                assert not (folder / "raw.csv").exists()
                assert not (folder / "postprocessed.csv").exists()
    assert not found


def test_msls_tables_agree_with_each_other_and_with_the_file_names(drawn):
    names = {p.name.split("@")[7]: p.name.split("@") for p in (drawn / "mini_streets").rglob("@*")}
    for city in CITIES[:3]:
        for side in SIDES.values():
            folder = drawn / "mini_msls" / "train_val" / city.name / side
            names_of_tables = ("seq_info", "subtask_index", "raw", "postprocessed")
            tables = {name: read_table(folder / f"{name}.csv") for name in names_of_tables}
            keys = [row["key"] for row in tables["seq_info"]]
            for rows in tables.values():
                assert [row[""] for row in rows] == [str(i) for i in range(len(keys))]
                assert [row["key"] for row in rows] == keys
            for row in tables["postprocessed"]:
                fields = names[row["key"]]
                assert float(row["easting"]) == float(fields[1])
                assert float(row["northing"]) == float(fields[2])
                assert row["night"] == str(fields[-2].startswith("night"))
                assert row["view_direction"].lower() == fields[-2].split("_")[1]
                assert row["control_panel"] in ("True", "False")
            for row in tables["subtask_index"]:
                assert row["all"] == "True"
                assert {row[name] for name in SUBTASKS} <= {"True", "False"}
                for forth, back in (("s2w", "w2s"), ("o2n", "n2o"), ("d2n", "n2d")):
                    assert {row[forth], row[back]} == {"True", "False"}
            for row in tables["raw"]:
                assert (row["pano"], float(row["lat"])) == ("False", pytest.approx(
                    float(names[row["key"]][5]), abs=1e-5))  # fmt: skip


def test_the_default_set_has_the_stated_sizes_and_every_query_its_places():
    """Positives within 25 m are of the query's own route; other routes are much farther away."""
    routes = list_routes(defaults())
    listed = [(index, photo) for index, route in enumerate(routes)
              for photo, _ in list_photos(route)]  # fmt: skip
    assert sum(photo.city.split == "train" for _, photo in listed) == 6000
    for split, queries in (("val", 200), ("test", 400)):
        sides = [photo.query for _, photo in listed if photo.city.split == split]
        assert (sum(sides), len(sides) - sum(sides)) == (queries, 1800)
    for city in CITIES:
        mine = [(index, photo) for index, photo in listed if photo.city == city]
        where = np.array([(photo.easting, photo.northing) for _, photo in mine])
        route = np.array([index for index, _ in mine])
        query = np.array([photo.query for _, photo in mine])
        away = np.linalg.norm(where[query][:, None] - where[~query][None], axis=2)
        own = route[query][:, None] == route[~query][None]
        assert away[~own].min() > APART - 20
        near = (away <= 25).sum(axis=1)
        assert near.min() >= 4
        assert near.max() < 20
        assert ((away <= 10).sum(axis=1) >= 1).all()  # what training calls a positive


def test_passes_of_a_route_differ_and_those_of_the_queries_are_their_own():
    for route in list_routes(defaults())[::12]:
        passes = {photo.number: photo for photo, _ in list_photos(route)}
        assert {number: photo.query for number, photo in passes.items()} == {
            0: False, 1: False, 2: True, 3: True}  # fmt: skip
        assert len({photo.drive for photo in passes.values()}) == 4
        assert len({photo.sideways for photo in passes.values()}) == 1


def test_a_finished_set_is_kept_and_another_one_is_not_mixed_in(drawn, capsys):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*.jpg")}
    assert draw(drawn, "--workers", "1") == 0
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*.jpg")} == before
    assert draw(drawn, "--workers", "1", "--width", "160") == 1
    assert "--overwrite" in capsys.readouterr().err


def test_an_interrupted_drawing_goes_on_where_it_stopped(drawn, tmp_path):
    assert draw(tmp_path, "--workers", "1") == 0
    for name in ("mini_streets", "mini_msls"):
        record = tmp_path / name / "drawn.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"complete": False}))
    lost, *kept = sorted((tmp_path / "mini_streets" / "images").rglob("@*"))
    lost.unlink()
    (tmp_path / "mini_msls" / "train_val" / "castrel" / "query" / "raw.csv").unlink()
    before = [path.stat().st_mtime_ns for path in kept]
    assert draw(tmp_path, "--workers", "1") == 0
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert contents(tmp_path) == contents(drawn)


def test_overwriting_leaves_no_picture_of_the_former_set(drawn, tmp_path):
    assert draw(tmp_path, "--workers", "1", "--frames", "5", "--width", "64") == 0
    assert draw(tmp_path, "--workers", "1", "--overwrite") == 0
    assert contents(tmp_path) == contents(drawn)


def test_ctrl_c_ends_with_one_line_and_a_set_that_goes_on(tmp_path):
    """A real SIGINT to the whole process group, as a terminal sends it."""
    command = [sys.executable, "-m", "data.make_mini", "streets", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=REPO_ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("@*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, 2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in err
    assert "Traceback" not in err
    assert not json.loads((tmp_path / "mini_streets" / "drawn.json").read_text())["complete"]
    assert not (tmp_path / "mini_msls").exists()


@pytest.mark.parametrize(
    "wrong",
    [("--train-routes", "1"), ("--test-routes", "0"), ("--frames", "3"), ("--width", "32"),
     ("--val-queries", "0"), ("--workers", "0")],
)  # fmt: skip
def test_options_that_make_no_set_are_refused(tmp_path, capsys, wrong):
    assert draw(tmp_path, *wrong) == 1
    assert wrong[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_degrees_of_known_places():
    """CN Tower (17T 630084 4833438) and the meridian's length up to 45 degrees, 4,984,944.378 m."""
    assert to_degrees(17, 630084, 4833438) == pytest.approx((43.642567, -79.387139), abs=2e-5)
    assert to_degrees(31, 500_000, 0.9996 * 4_984_944.378) == pytest.approx((45.0, 3.0), abs=1e-8)


def test_an_arc_leads_around_its_circle_and_back():
    """Eastwards and to the left on a radius of 100 m: a quarter of it ends at (100, 100)."""
    arc = Arc(heading=0.0, bend=0.01)
    quarter = 50 * np.pi
    assert arc.at(np.array(quarter), np.array(0.0)) == pytest.approx([100, 100])
    assert arc.at(np.array(quarter), np.array(10.0)) == pytest.approx([90, 100])  # left is west
    s, t = np.array([0.0, 30, 170]), np.array([-8.0, 0, 12])
    for bent in (arc, Arc(2.5, -1 / 300), Arc(-3.0, 1 / 2500)):
        assert np.allclose(bent.along(bent.at(s, t)), (s, t))


def test_a_camera_projects_as_a_pinhole():
    """Looking north with 90 degrees: focal length 50; 10 m ahead, 2 m to the left and 1 m up."""
    camera = Camera(np.array([5.0, 5, 2]), np.pi / 2, Shot(0, 0, 0, 0, 0), 90.0, (100, 80))
    seen = camera.see(np.array([3.0, 15, 3]))
    assert seen == pytest.approx([-2, -1, 10])
    assert camera.project(seen) == pytest.approx([50 - 50 * 0.2, 40 - 50 * 0.1])
    tilted = Camera(np.array([5.0, 5, 2]), np.pi / 2, Shot(0, 0, 0, 45, 0), 90.0, (100, 80))
    assert tilted.project(tilted.see(np.array([5.0, 15, 12]))) == pytest.approx([50, 40])


def test_what_is_behind_the_camera_is_cut_off():
    """Of a wall from 0 to 2 m ahead 35 % are nearer than 0.7 m, at its left or its right."""
    wall = np.array([[-1, -1, 0], [-1, -1, 2], [-1, 1, 2], [-1, 1, 0]], float)
    corners, shares = cut_near(np.stack([wall, wall[[1, 0, 3, 2]]]))
    assert shares == pytest.approx(np.array([[NEAR / 2, 1], [0, 1 - NEAR / 2]]))
    assert corners[0, :, 2] == pytest.approx([NEAR, 2, 2, NEAR])
    assert corners[1, :, 2] == pytest.approx([2, NEAR, NEAR, 2])


def test_a_picture_is_painted_where_the_camera_sees_it():
    camera = Camera(np.zeros(3), 0.0, Shot(0, 0, 0, 0, 0), 90.0, (200, 200))
    corners = np.array([[-2, -1, 5], [3, -1, 5], [3, 1, 5], [-2, 1, 5]], float)
    picture = np.full((40, 100, 4), 255, np.uint8)
    picture[:, :50, :3] = 90
    img = np.zeros((200, 200, 3), np.uint8)
    things = Things(corners[None], [as_pyramid(picture)])
    paint(img, camera, things, np.array([0.0]), np.array([0.0, 0, 0]))
    rows, columns = np.nonzero(img[..., 0] > 40)
    assert (columns.min(), columns.max()) == pytest.approx((60, 160), abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((80, 120), abs=1)
    assert img[100, 90, 0] == pytest.approx(90, abs=2)  # the left half; its end is at 110
    assert img[100, 130, 0] == 255
    paint(img, camera, things, np.array([1.0]), np.array([10.0, 20, 30]))
    assert img[100, 130].tolist() == [10, 20, 30]  # lost in the haze


def test_look_alike_blocks_have_the_same_walls_and_other_details():
    family = look_alikes(0, 4, 1, 36)
    assert np.isin(np.bincount(family, minlength=36), (0, 1, 4)).all()
    assert (np.bincount(family)[family] == 4).sum() == 12  # a third of the routes
    twin, other = (
        np.flatnonzero(family == kind)
        for kind in (
            np.flatnonzero(np.bincount(family) == 4)[0],
            np.flatnonzero(np.bincount(family) == 1)[0],
        )
    )
    streets = [make_street(Place(0, 4, int(route)), 36, 120.0) for route in (*twin[:2], other[0])]

    def fronts(number: int) -> list[np.ndarray]:
        """Fronts of the houses in the middle of block 1, to the left."""
        street, kept = streets[number], []
        for surface in street.surfaces:
            s, t = street.arc.along(surface.corners[:, :2].mean(axis=0))
            if surface.facing == 1 and 70 < s < 95 and t > 0:
                kept.append(street.pictures[surface.picture].picture)
        return kept

    first, second, third = fronts(0), fronts(1), fronts(2)
    assert [f.shape for f in first] == [f.shape for f in second]
    assert [f.shape for f in first] != [f.shape for f in third]
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a[..., 3], b[..., 3])  # the outline
        same = (np.abs(a[..., :3].astype(int) - b[..., :3]).max(axis=2) < 40).mean()
        assert 0.5 < same < 0.995


def test_neither_colour_nor_layout_alone_finds_the_places(tmp_path):
    """Recall@1 of colour histograms and tiny grey pictures is low, and below RootSIFT-VLAD's."""
    sizes = ["--train-routes", "2", "--val-routes", "1", "--test-routes", "14", "--frames", "12",
             "--val-queries", "1", "--test-queries", "70"]  # fmt: skip
    assert make_mini.main(["streets", "--out", str(tmp_path), *sizes, "--workers", "1"]) == 0
    folder = tmp_path / "mini_streets" / "images" / "test"
    database, queries = (sorted((folder / side).iterdir()) for side in SIDES)
    away = np.linalg.norm(places(queries)[:, None] - places(database)[None], axis=2)
    images = [cv2.imread(str(path)) for path in (*queries, *database)]
    grey = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]
    histograms = [cv2.calcHist([i], [0, 1, 2], None, [6] * 3, [0, 256] * 3).ravel() for i in images]
    tiny = [cv2.resize(g, (16, 12), interpolation=cv2.INTER_AREA).ravel() / 255 for g in grey]
    local = [compute_locals(g, 200, 1024) for g in grey]
    codebook = train_codebook(np.concatenate([features.descriptors for features in local]))
    vlad = [compute_vlad(features.descriptors, codebook) for features in local]

    def recall(vectors: list[np.ndarray]) -> float:
        unit = np.array([v / np.linalg.norm(v) for v in vectors])
        best = np.argmax(unit[: len(queries)] @ unit[len(queries) :].T, axis=1)
        return float((away[np.arange(len(queries)), best] <= 25).mean())

    colour = recall([np.sqrt(h) for h in histograms])
    layout = recall([t - t.mean() for t in tiny])
    sift = recall(vlad)
    assert colour < 0.25
    assert layout < 0.35
    assert sift > max(colour, layout) + 0.15
