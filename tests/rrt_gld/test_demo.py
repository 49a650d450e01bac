"""The demo on small folders of photographs: with and without ground truth, again, and bad input."""

import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import make_mini
from rrt_gld import demo, demo_search


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two queries and eight gallery images of a small generated set, with its ground truth."""
    out = tmp_path_factory.mktemp("photos")
    sizes = ["--queries", "2", "--views", "3", "--distractors", "2", "--train-landmarks", "0"]
    assert make_mini.main(["landmarks", "--out", str(out), *sizes, "--workers", "1"]) == 0
    (out / "mini_landmarks/sheet.jpg").unlink()
    return out / "mini_landmarks"


def copy_photos(source: Path, target: Path) -> list[Path]:
    target.mkdir()
    return [
        Path(target / path.name) for path in sorted((source / "jpg").iterdir())
        if (target / path.name).write_bytes(path.read_bytes())
    ]  # fmt: skip


def test_a_folder_with_ground_truth_is_measured(photos, tmp_path, capsys):
    assert demo.main([str(photos), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert len(re.findall(r"^[MH]_map ", shown, flags=re.M)) == 6  # global, learned, geometric
    assert shown.rstrip().endswith(str(tmp_path / "index.html")), "the page's path comes last"
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") > 10
    assert not re.search(r"(src|href)=\"https?:", page), "the page asks for nothing from anywhere"


def test_a_ground_truth_without_hard_images_is_measured_on_the_rest(photos, tmp_path, capsys):
    folder = tmp_path / "own"
    copy_photos(photos, folder)
    truth = pickle.loads((photos / "gnd_mini_landmarks.pkl").read_bytes())
    for entry in truth["gnd"]:
        entry["easy"], entry["hard"] = entry["easy"] + entry["hard"], []
    (folder / "gnd_own.pkl").write_bytes(pickle.dumps(truth, protocol=3))
    assert demo.main([str(folder), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^M_map ", shown, flags=re.M)
    assert not re.search(r"^H_map ", shown, flags=re.M)


def test_a_folder_may_be_named_by_any_path(photos, tmp_path, monkeypatch):
    copy_photos(photos, tmp_path / ".own")  # below a hidden folder, and with .. on the way
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (tmp_path / ".own", Path("../.own")):
        assert len(demo_search.list_photos(folder)) == 10, folder


def test_a_folder_without_ground_truth_gives_ranked_lists(photos, tmp_path, capsys):
    files = copy_photos(photos, tmp_path / "own")
    search = demo_search.make_folder_search(tmp_path / "own", tmp_path / "out", 70)
    assert search.gnd is None
    for q, row in enumerate(search.nn_inds):
        assert sorted([*row, q]) == list(range(len(files))), "all others, never itself"
    assert demo.main([str(tmp_path / "own"), "--out", str(tmp_path / "out"), "--lists", "3"]) == 0
    assert "_map" not in capsys.readouterr().out


def test_only_changed_photographs_are_described_again(photos, tmp_path):
    files = copy_photos(photos, tmp_path / "own")
    folder, out = tmp_path / "own", tmp_path / "out"
    demo_search.make_folder_search(folder, out, 70)
    before = {p: p.stat().st_mtime_ns for p in (out / "delg_sift").glob("*.delg_local")}
    cv2.imwrite(str(files[0]), cv2.imread(str(files[0]))[:, ::-1])
    demo_search.make_folder_search(folder, out, 70)
    after = {p: p.stat().st_mtime_ns for p in (out / "delg_sift").glob("*.delg_local")}
    assert len(before) == len(files)
    assert len(after) == len(files) + 1, "the changed one under a new name"
    assert all(after[path] == before[path] for path in before), "the others were kept"


def test_blank_photographs_do_not_stop_the_search(photos, tmp_path):
    copy_photos(photos, tmp_path / "own")
    cv2.imwrite(str(tmp_path / "own/blank.jpg"), np.full((80, 100, 3), 200, np.uint8))
    assert demo.main([str(tmp_path / "own"), "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda folder: None, "not a folder"),
        (lambda folder: folder.mkdir(), "no picture"),
        (lambda folder: copy_broken(folder), "broken.jpg"),
        (lambda folder: copy_one(folder), "at least two"),
        (lambda folder: write_truth(folder), "nowhere"),
    ],
)
def test_bad_folders_are_explained_in_one_line(tmp_path, capsys, make, complaint):
    make(tmp_path / "own")
    assert demo.main([str(tmp_path / "own"), "--out", str(tmp_path / "out")]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("demo: ")]
    assert len(lines) == 1
    assert complaint in lines[0]


def copy_one(folder: Path) -> None:
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "one.jpg"), noise)


def copy_broken(folder: Path) -> None:
    copy_one(folder)
    (folder / "broken.jpg").write_bytes(b"not a picture")


def write_truth(folder: Path) -> None:
    copy_one(folder)
    entry = {"bbx": [0, 0, 9, 9], "easy": [0], "hard": [], "junk": []}
    truth = {"imlist": ["nowhere"], "qimlist": ["one"], "gnd": [entry]}
    (folder / "gnd_own.pkl").write_bytes(pickle.dumps(truth, protocol=3))
