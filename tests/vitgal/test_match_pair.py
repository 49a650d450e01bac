"""Pictures of matches: of a set's query, and of two photographs of one's own."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.vitgal import tiny_set
from vitgal.geometric_verification import Verification, count_inliers
from vitgal.match_pair import ex as match_pair
from vitgal.match_pictures import draw_pair
from vitgal.stores import LocalFeatures


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tiny_set.write_tiny_set(tmp_path_factory.mktemp("vitgal"))
    tiny_set.write_weights(root / "weights.pth")
    return root


def run(root: Path, out: Path, **changes: Any) -> list[int]:
    options = {
        "dataset": tiny_set.dataset(root), "model": tiny_set.MODEL, "output_dir": str(out),
        "weight_path": str(root / "weights.pth"), "image_size": 96, **changes,
    }  # fmt: skip
    return match_pair.run(config_updates=options).result["inliers"]


def test_query_and_its_hard_images_are_drawn(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "new/folder"
    counts = run(root, out, quer_idx=1)
    assert len(counts) == 1
    picture = cv2.imread(str(out / "save_match_0.jpg"))
    assert picture is not None
    assert picture.ndim == 3


def test_two_photographs_of_ones_own(root: Path, tmp_path: Path) -> None:
    image = str(root / "tiny/jpg/d0.jpg")
    near = {"max_distance": 0.02}  # random weights tell places apart more than contents
    (same,) = run(root, tmp_path, query_image=image, gallery_image=image, **near)
    other = str(root / "r1m/0/x0.jpg")
    (different,) = run(root, tmp_path, query_image=image, gallery_image=other, **near)
    assert same > 20
    assert different < same / 2
    assert (tmp_path / "save_match_0.jpg").is_file()


def test_lines_join_inliers_only() -> None:
    """Six of eight points agree; the picture has the colours of lines only where they run."""
    rng = np.random.default_rng(0)
    yx = rng.integers(10, 90, (8, 2))
    moved = yx.copy()
    moved[6:] = 99 - moved[6:, ::-1]
    codes = np.eye(8, dtype=np.float32)
    features = [LocalFeatures(codes, points) for points in (yx, moved)]
    settings = Verification(max_reprojection_error=2.0)
    images = [np.zeros((100, 100, 3), np.uint8)] * 2
    pair = draw_pair(images, features, settings)
    assert len(pair.inliers) == 8
    assert pair.inliers.sum() == count_inliers(features[0], [features[1]], settings)[0]
    assert pair.inliers[:6].all()
    assert pair.picture.dtype == np.uint8
    none = draw_pair(images, [LocalFeatures(codes[:4], part[:4]) for part in (yx, moved)], settings)
    assert none.inliers.sum() == 0
    assert np.unique(none.picture).tolist() == [0, 255], "images and the gap between them, no line"
    assert len(np.unique(pair.picture)) > 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"quer_idx": 2}, ValueError, "quer_idx is 2, expected 0 to 1"),
        ({"query_image": "a.jpg"}, ValueError, "give both query_image and gallery_image"),
        ({"query_image": "a.jpg", "gallery_image": "b.jpg"}, FileNotFoundError, "a.jpg does not"),
        ({"num_scale": 2}, ValueError, "num_scale is 2"),
        ({"estimator": "x"}, ValueError, "estimator is 'x'"),
    ],
)
def test_bad_options_are_refused(root, tmp_path, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        run(root, tmp_path, **options)


def test_elongated_photograph_is_named(root: Path, tmp_path: Path) -> None:
    thread = tmp_path / "thread.png"
    cv2.imwrite(str(thread), np.zeros((1, 3000, 3), np.uint8))
    with pytest.raises(ValueError, match=r"thread.png: .*too elongated"):
        run(root, tmp_path, query_image=str(thread), gallery_image=str(thread))
