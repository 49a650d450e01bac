"""The generated landmark set: same bytes from the same seed, layouts, the rule of its labels."""

import csv
import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import make_mini
from data.landmarks import (
    Geometry,
    draw_landmark,
    photograph,
    relate,
    sample_view,
)
from rrt_gld.sift import as_box, compute_locals, compute_vlad, crop, train_codebook
from tests.folder_contents import contents
from utils.revisited import evaluate_ranks, load_ground_truth

SIZES = {"--queries": 3, "--views": 4, "--distractors": 5, "--train-landmarks": 4}
OPTIONS = [str(word) for pair in SIZES.items() for word in pair]


def draw(out: Path, *options: str) -> int:
    return make_mini.main(["landmarks", "--out", str(out), *OPTIONS, *options])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mini")
    assert draw(out, "--workers", "1") == 0
    return out


def test_bytes_do_not_depend_on_the_number_of_workers(drawn, tmp_path):
    assert draw(tmp_path, "--workers", "2") == 0
    assert contents(tmp_path) == contents(drawn)


def test_another_seed_draws_other_pictures(drawn, tmp_path):
    assert draw(tmp_path, "--workers", "1", "--seed", "1", "--train-landmarks", "0") == 0
    name = "mini_landmarks/jpg/landmark000_000000.jpg"
    assert contents(tmp_path)[name] != contents(drawn)[name]


def test_test_side_has_the_layout_of_revisited_oxford(drawn):
    folder = drawn / "mini_landmarks"
    gnd = load_ground_truth(folder / "gnd_mini_landmarks.pkl")
    assert (len(gnd.qimlist), len(gnd.imlist)) == (3, 3 * 4 + 5)
    assert not set(gnd.qimlist) & set(gnd.imlist)
    for name in (*gnd.qimlist, *gnd.imlist):
        assert cv2.imread(str(folder / "jpg" / f"{name}.jpg")) is not None
    for query, lists in zip(gnd.qimlist, gnd.gnd, strict=True):
        related = [gnd.imlist[i] for key in ("easy", "hard", "junk") for i in lists[key]]
        own = [name for name in gnd.imlist if name.split("_")[0] == query.split("_")[0]]
        assert sorted(related) == sorted(own)  # every view is labelled, no other landmark's is


def test_train_side_has_the_layout_of_google_landmarks(drawn):
    folder = drawn / "mini_gldv2"
    lines = [line.split(",") for line in (folder / "train.txt").read_text().split("\n")]
    assert len(lines) == 4 * 5
    with (folder / "train.csv").open() as file:
        landmark = {row["id"]: row["landmark_id"] for row in csv.DictReader(file)}
    with (folder / "train_clean.csv").open() as file:
        clean = {row["landmark_id"]: row["images"].split() for row in csv.DictReader(file)}
    for path, label, width, height in lines:
        stem = Path(path).stem
        assert path == f"train/{stem[0]}/{stem[1]}/{stem[2]}/{stem}.jpg"
        assert cv2.imread(str(folder / path)).shape == (int(height), int(width), 3)
        assert landmark[stem] == label
        assert stem in clean[label]
    assert sum(map(len, clean.values())) == len(lines)


def test_a_finished_set_is_kept_and_another_one_is_not_mixed_in(drawn, capsys):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*.jpg")}
    assert draw(drawn, "--workers", "1") == 0
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*.jpg")} == before
    assert draw(drawn, "--workers", "1", "--seed", "7") == 1
    assert "--overwrite" in capsys.readouterr().err


def test_an_interrupted_drawing_is_taken_up(drawn, tmp_path):
    assert draw(tmp_path, "--workers", "1") == 0
    record = tmp_path / "mini_landmarks" / "drawn.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"complete": False}))
    for lost in ("jpg/landmark001_000002.jpg", "gnd_mini_landmarks.pkl"):
        (record.parent / lost).unlink()
    assert draw(tmp_path, "--workers", "1") == 0
    assert contents(tmp_path) == contents(drawn)


@pytest.mark.parametrize("wrong", [("--queries", "0"), ("--train-views", "1")])
def test_sizes_that_make_no_set_are_refused(tmp_path, capsys, wrong):
    assert draw(tmp_path, *wrong) == 1
    assert "make_mini:" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_labels_follow_the_stated_rule():
    query = Geometry((0, 0, 10, 10), visible=1.0, scale=0.7, azimuth=-10.0, night=False)
    good = dataclasses.replace(query, azimuth=20.0)
    assert relate(query, good) == "easy"
    for change in ({"azimuth": 40.0}, {"visible": 0.6}, {"scale": 0.39}, {"night": True}):
        assert relate(query, dataclasses.replace(good, **change)) == "hard"
    for change in ({"azimuth": 56.0}, {"visible": 0.29}, {"scale": 0.19}):
        assert relate(query, dataclasses.replace(good, **change)) == "junk"


def test_geometry_is_what_the_picture_shows():
    """An unobstructed frontal view: all visible, box and scale as the pinhole camera has them."""
    for number in range(30):
        streams = [np.random.default_rng([number, k]) for k in range(3)]
        landmark = draw_landmark(streams[0], streams[1])
        view = dataclasses.replace(
            sample_view(streams[2], "query"),
            azimuth=0.0, elevation=0.0, roll=0.0, distance=2.0, offset=(0.5, 0.5), occluders=0,
            size=(320, 240),
        )  # fmt: skip
        _, geometry = photograph(landmark, view, streams[2])
        # focal length 1.1 * 240 pixels, so a front of height 1 at distance 2 is 132 pixels tall
        outline = landmark.front[0][..., 3] > 127
        assert geometry.visible == pytest.approx(1.0, abs=0.05)
        width = 132 * landmark.width
        assert geometry.box[2] - geometry.box[0] == pytest.approx(width, abs=4)
        area = 132 * width * outline.mean()
        assert geometry.scale == pytest.approx(np.sqrt(area / (320 * 240)), rel=0.03)


def test_an_occluder_lowers_the_visible_share():
    shares = []
    for occluders in (0, 6):
        rng = np.random.default_rng(3)
        landmark = draw_landmark(np.random.default_rng(1), np.random.default_rng(2))
        view = dataclasses.replace(sample_view(rng, "near"), occluders=occluders)
        shares.append(photograph(landmark, view, np.random.default_rng(4))[1].visible)
    assert shares[1] < shares[0]


def test_colour_alone_does_not_find_the_landmarks(tmp_path):
    """Colour histograms reach less than half of the mAP of the VLAD of RootSIFT."""
    sizes = ["--queries", "12", "--views", "4", "--distractors", "60", "--train-landmarks", "0"]
    assert make_mini.main(["landmarks", "--out", str(tmp_path), *sizes, "--workers", "1"]) == 0
    folder = tmp_path / "mini_landmarks"
    gnd = load_ground_truth(folder / "gnd_mini_landmarks.pkl")
    boxes = [as_box(entry["bbx"]) for entry in gnd.gnd] + [None] * len(gnd.imlist)
    images = [cv2.imread(str(folder / "jpg" / f"{n}.jpg")) for n in (*gnd.qimlist, *gnd.imlist)]
    parts = [i if b is None else crop(i, b) for i, b in zip(images, boxes, strict=True)]
    histograms = [cv2.calcHist([p], [0, 1, 2], None, [6] * 3, [0, 256] * 3).ravel() for p in parts]
    colour = np.array([np.sqrt(h / h.sum()) for h in histograms])
    local = [compute_locals(cv2.cvtColor(p, cv2.COLOR_BGR2GRAY), 200, 1024) for p in parts]
    codebook = train_codebook(np.concatenate([features.descriptors for features in local]))
    sift = np.array([compute_vlad(features.descriptors, codebook) for features in local])

    def medium(vectors: np.ndarray) -> float:
        queries, gallery = vectors[: len(gnd.qimlist)], vectors[len(gnd.qimlist) :]
        ranks = np.argsort(-queries @ gallery.T, axis=1, kind="stable")
        return evaluate_ranks(ranks, gnd)["medium"]["map"]

    assert medium(colour) < 0.5 * medium(sift)
