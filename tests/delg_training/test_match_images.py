"""Matching of two images from files to the picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delg_training.match_images import ex
from delg_training.match_pictures import draw_correspondences
from tests.delg_training.golden_pairs import CASES, golden_pair, random_pair, to_features
from utils.descriptors import LocalFeatures, write_local

CASE = max(CASES, key=lambda name: CASES[name]["inliers_for_seed_0_to_4"][0])


def write_inputs(folder: Path, first: LocalFeatures, second: LocalFeatures) -> dict[str, str]:
    """Two grey pictures with their features; the options that name them."""
    options = {"output_image": str(folder / "matched_images.png")}
    for number, features, size in ((1, first, (300, 200)), (2, second, (240, 320))):
        image, file = folder / f"image_{number}.jpg", folder / f"image_{number}.delf"
        Image.new("RGB", size, (128, 128, 128)).save(image)
        write_local(file, features)
        options |= {f"image_{number}_path": str(image), f"features_{number}_path": str(file)}
    return options


def is_blue(path: Path) -> bool:
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return bool(((picture[..., 2] > 200) & (picture[..., :2] < 60).all(axis=-1)).any())


def test_inliers_are_counted_and_drawn(tmp_path):
    """Image 2 is the query of the reference case, image 1 its index image."""
    query, index = (to_features(side) for side in golden_pair(CASE))
    options = write_inputs(tmp_path, index, query)
    case = CASES[CASE]
    options |= {
        "distance_threshold": case["descriptor_matching_threshold"],
        "residual_threshold": case["residual_threshold"],
        "use_ratio_test": case["use_ratio_test"],
    }
    found = ex.run(config_updates=options).result
    assert found == {"inliers": case["inliers_for_seed_0_to_4"][0]}
    assert is_blue(tmp_path / "matched_images.png")


def test_images_without_matches_have_no_inliers_and_no_lines(tmp_path):
    empty = LocalFeatures(*(np.zeros(0),) * 4)
    some = random_pair(20, 0)[0]
    for first, second in ((some, empty), (empty, some), random_pair(20, 2)):
        options = write_inputs(tmp_path, first, second)
        assert ex.run(config_updates=options).result == {"inliers": 0}
        assert not is_blue(tmp_path / "matched_images.png")


def test_three_matches_are_verified(tmp_path):
    options = write_inputs(tmp_path, *random_pair(20, 3))
    options["distance_threshold"] = 0.1
    assert ex.run(config_updates=options).result == {"inliers": 3}


def test_bad_files_are_named(tmp_path):
    options = write_inputs(tmp_path, *random_pair(20, 3))
    missing = {**options, "features_1_path": str(tmp_path / "none.delf")}
    with pytest.raises(FileNotFoundError, match=r"none.delf does not exist; extract"):
        ex.run(config_updates=missing)
    (tmp_path / "image_2.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"image_2.jpg cannot be read as a picture"):
        ex.run(config_updates=options)
    blank, places = np.zeros((9, 9, 3), np.uint8), np.zeros((0, 2))
    with pytest.raises(ValueError, match=r"output_image is .*a.txt, expected .*\.png"):
        draw_correspondences(tmp_path / "a.txt", blank, blank, places, places)
