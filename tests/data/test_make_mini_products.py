"""The generated product set: same bytes from the same seed, SOP's layout, unseen test products."""

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
from data.mini_products import FEWEST, HEADER, MOST, list_photos, list_products, make_parts
from data.product_parts import Camera, Lathe, Panel
from data.product_photos import aim, photograph, sample_view
from data.products import SUPER_CLASSES
from tests.folder_contents import contents
from utils.paths import REPO_ROOT

TRAIN, TEST = 13, 15  # every super-class on each side, one or three of them twice
SIZES = ["--train-products", str(TRAIN), "--test-products", str(TEST)]
Line = tuple[int, int, int, str]


def draw(out: Path, *options: str) -> int:
    return make_mini.main(["products", "--out", str(out), *SIZES, *options])


def read_list(path: Path) -> list[Line]:
    header, *lines = path.read_text().splitlines()
    assert header == HEADER
    rows = [line.split(" ") for line in lines]
    return [(int(a), int(b), int(c), path) for a, b, c, path in rows]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mini")
    assert draw(out, "--workers", "1") == 0
    return out


def test_bytes_do_not_depend_on_the_number_of_workers(drawn, tmp_path):
    assert draw(tmp_path, "--workers", "2") == 0
    assert contents(tmp_path) == contents(drawn)


def test_another_seed_draws_other_pictures():
    product = list_products(12, 12)[0]
    assert not set(list_photos(0, product)) & set(list_photos(1, product))
    pictures = []
    for seed in (0, 1, 0):
        rng = np.random.default_rng(5)
        pictures.append(photograph(make_parts(seed, product), sample_view(rng), rng))
    assert np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1])


def test_lists_have_the_layout_of_stanford_online_products(drawn):
    folder = drawn / "mini_products"
    train, test = read_list(folder / "Ebay_train.txt"), read_list(folder / "Ebay_test.txt")
    assert read_list(folder / "Ebay_info.txt") == train + test
    assert [line[0] for line in train + test] == list(range(1, len(train + test) + 1))
    assert sorted({line[1] for line in train}) == list(range(1, TRAIN + 1))
    assert sorted({line[1] for line in test}) == list(range(TRAIN + 1, TRAIN + TEST + 1))
    for side in (train, test):
        assert [line[1:3] for line in side] == sorted(line[1:3] for line in side)
        assert {line[2] for line in side} == set(range(1, 13))
    for _, _, super_class, path in train + test:
        assert path.split("/")[0] == f"{list(SUPER_CLASSES)[super_class - 1]}_final"
        picture = cv2.imread(str(folder / path))
        assert picture is not None
        assert max(picture.shape) == 256
    listed = {line[3] for line in train + test}
    assert listed == {str(p.relative_to(folder)) for p in folder.glob("*/*.JPG")}
    assert len(listed) == len(train + test)


def test_every_product_has_two_to_twelve_photographs(drawn):
    counts: dict[int, int] = {}
    for line in read_list(drawn / "mini_products" / "Ebay_info.txt"):
        counts[line[1]] = counts.get(line[1], 0) + 1
    assert set(counts) == set(range(1, TRAIN + TEST + 1))
    assert min(counts.values()) >= FEWEST
    assert max(counts.values()) <= MOST


def test_the_default_set_has_about_six_thousand_images():
    products = list_products(564, 564)
    counts = np.array([len(list_photos(0, product)) for product in products])
    assert abs(counts[:564].sum() - 3000) < 100
    assert abs(counts[564:].sum() - 3000) < 100
    assert counts.min() == FEWEST
    assert counts.max() == MOST
    per_super_class = np.bincount([product.super_class_id for product in products])[1:]
    assert (per_super_class == 94).all()
    paths = [path for product in products for path in list_photos(0, product)]
    assert len(set(paths)) == len(paths)


def test_look_alikes_share_their_shape_and_the_sides_share_nothing():
    """Products 0, 12 and 24 of a side are a family of bicycles; 0 of the other side is not."""
    by_key = {(p.side, p.number): p for p in list_products(60, 60)}

    def frame(side: int, number: int) -> np.ndarray:
        return make_parts(0, by_key[side, number])[0].extent  # a wheel: style only

    assert np.array_equal(frame(2, 0), frame(2, 12))
    assert np.array_equal(frame(2, 0), frame(2, 24))
    assert not np.array_equal(frame(2, 0), frame(2, 36))
    assert not np.array_equal(frame(2, 0), frame(1, 0))


def test_a_finished_set_is_kept_and_another_one_is_not_mixed_in(drawn, capsys):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*.JPG")}
    assert draw(drawn, "--workers", "1") == 0
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*.JPG")} == before
    assert draw(drawn, "--workers", "1", "--seed", "7") == 1
    assert "--overwrite" in capsys.readouterr().err


def test_overwriting_leaves_no_picture_of_the_former_set(tmp_path):
    small = ["products", "--out", str(tmp_path), "--workers", "1", "--test-products", "2"]
    assert make_mini.main([*small, "--train-products", "4"]) == 0
    assert make_mini.main([*small, "--train-products", "2", "--overwrite"]) == 0
    folder = tmp_path / "mini_products"
    listed = {line[3] for line in read_list(folder / "Ebay_info.txt")}
    assert listed == {str(p.relative_to(folder)) for p in folder.glob("*/*.JPG")}


def test_an_interrupted_drawing_goes_on_where_it_stopped(drawn, tmp_path):
    assert draw(tmp_path, "--workers", "1") == 0
    folder = tmp_path / "mini_products"
    record = folder / "drawn.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"complete": False}))
    (folder / "Ebay_test.txt").unlink()
    lost, *kept = sorted(folder.glob("*/*.JPG"))
    lost.unlink()
    before = [path.stat().st_mtime_ns for path in kept]
    assert draw(tmp_path, "--workers", "1") == 0
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert contents(tmp_path) == contents(drawn)


def test_ctrl_c_ends_with_one_line_and_a_set_that_goes_on(tmp_path):
    """A real SIGINT to the whole process group, as a terminal sends it."""
    command = [sys.executable, "-m", "data.make_mini", "products", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--train-products", "900"],
        cwd=REPO_ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.JPG")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, 2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in err
    assert "Traceback" not in err
    assert not json.loads((tmp_path / "mini_products" / "drawn.json").read_text())["complete"]
    assert not list(tmp_path.rglob("Ebay_*.txt"))


@pytest.mark.parametrize(
    "wrong", [("--train-products", "1"), ("--test-products", "0"), ("--workers", "0")]
)
def test_options_that_make_no_set_are_refused(tmp_path, capsys, wrong):
    assert draw(tmp_path, *wrong) == 1
    assert wrong[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SUPER_CLASSES)
def test_a_photograph_shows_the_product_at_its_place(name):
    """Where the product stands the picture differs from the one without it; outside it does not."""
    product = next(p for p in list_products(12, 12) if p.super_class == name)
    parts = make_parts(3, product)
    view = sample_view(np.random.default_rng(1))
    light = np.array([0.0, 0.6, 0.8])
    camera = aim(parts, view, light)
    blank = np.full((view.size[1], view.size[0], 3), 200, np.uint8)
    picture = blank.copy()
    for part in parts:
        part.draw(picture, camera)
    rows, columns = np.nonzero((picture != blank).any(axis=2))
    corners = camera.project(np.concatenate([part.extent for part in parts]))
    low, high = corners.min(axis=0), corners.max(axis=0)
    assert len(rows) > 0.02 * blank.shape[0] * blank.shape[1]
    margin = 14  # half the thickness of the thickest tube
    assert columns.min() > low[0] - margin
    assert columns.max() < high[0] + margin
    assert rows.min() > low[1] - margin
    assert rows.max() < high[1] + margin


def test_a_camera_on_the_right_sees_the_right_side_of_a_panel_nearer():
    """Unit square at z = 0, distance 4: at yaw 90 degrees x = 0.5 is 3.5 away, x = -0.5 is 4.5."""
    camera = Camera(yaw=90.0, pitch=0.0, roll=0.0, distance=4.0, focal=100.0)
    assert camera.scale_at(np.array([0.5, 0, 0])) == pytest.approx(100 / 3.5)
    assert camera.scale_at(np.array([-0.5, 0, 0])) == pytest.approx(100 / 4.5)
    front = np.array([[0.0, 0.0, 1.0]])
    assert camera.project(front)[0] == pytest.approx([-100 / 4, 0])  # the front is to the left
    above = Camera(yaw=0.0, pitch=90.0, roll=0.0, distance=4.0, focal=100.0)
    assert above.project(front)[0] == pytest.approx([0, 100 / 4])  # and below, from above


def test_a_panel_shows_its_front_only_and_upright():
    corners = np.array([[-0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, -0.5, 0], [-0.5, -0.5, 0]])
    texture = np.full((40, 40, 4), 255, np.uint8)
    texture[:20, :, :3] = 0  # upper half black
    for yaw, seen in ((0.0, True), (180.0, False)):
        img = np.full((100, 100, 3), 128, np.uint8)
        camera = Camera(yaw, 0.0, 0.0, 4.0, 200.0, (50.0, 50.0))
        Panel(corners, texture).draw(img, camera)
        assert bool((img != 128).any()) == seen
        if seen:
            assert img[35, 50].max() < 10
            assert img[65, 50].min() > 130


def test_a_mark_on_a_round_body_turns_away_with_the_camera():
    """A black column in the middle of the texture: in front at yaw 0, out of sight at 120."""
    texture = np.full((50, 360, 4), 255, np.uint8)
    texture[:, 175:185, :3] = 0
    body = Lathe(np.array([0, -0.5, 0]), np.array([0, 1.0]), np.array([0.5, 0.5]), texture)
    places = []
    for yaw in (0.0, 40.0, 120.0):
        img = np.full((120, 120, 3), 128, np.uint8)
        body.draw(img, Camera(yaw, 10.0, 0.0, 4.0, 300.0, (60.0, 60.0)))
        dark = np.nonzero(img[60].max(axis=1) < 20)[0]
        places.append(dark.mean() if len(dark) else None)
    assert places[0] == pytest.approx(60, abs=1.5)
    # radius 0.5 at 75 pixels per unit: 37.5 * sin(-40 degrees) = -24.1
    assert places[1] == pytest.approx(60 - 24.1, abs=2)
    assert places[2] is None


def test_colour_alone_does_not_find_the_products(tmp_path):
    """Nearest colour histogram: right for less than a half, although the set is small."""
    sizes = ["--train-products", "2", "--test-products", "48", "--workers", "1"]
    assert make_mini.main(["products", "--out", str(tmp_path), *sizes]) == 0
    folder = tmp_path / "mini_products"
    lines = read_list(folder / "Ebay_test.txt")
    labels = np.array([line[1] for line in lines])
    images = [cv2.imread(str(folder / line[3])) for line in lines]
    counts = [cv2.calcHist([i], [0, 1, 2], None, [6] * 3, [0, 256] * 3).ravel() for i in images]
    vectors = np.array([np.sqrt(h / h.sum()) for h in counts])
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    assert (labels[similar.argmax(axis=1)] == labels).mean() < 1 / 2
