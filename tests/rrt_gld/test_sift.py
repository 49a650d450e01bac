"""RootSIFT and VLAD: shapes and order as DELG's, equal to the loops of their definitions."""

import os

import cv2
import numpy as np
import pytest

from data.landmarks import draw_landmark
from rrt_gld.datasets.image_set import compute_nearest_scale_inds
from rrt_gld.sift import (
    PYRAMID_SCALES,
    WORDS,
    Codebook,
    compute_locals,
    compute_vlad,
    crop,
    load_codebook,
    train_codebook,
)
from rrt_gld.tools import extract_sift
from utils.descriptors import read_global, read_local


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    landmark = draw_landmark(np.random.default_rng(0), np.random.default_rng(1))
    return cv2.cvtColor(landmark.front[0][..., :3], cv2.COLOR_BGR2GRAY)


@pytest.fixture(scope="module")
def codebook(picture) -> Codebook:
    return train_codebook(np.tile(compute_locals(picture, 700, 1024).descriptors, (2, 1)))


def test_locals_are_rootsift_best_first(picture):
    features = compute_locals(picture, 120, 1024)
    assert len(features) == 120
    assert features.descriptors.shape == (120, 128)
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    assert (features.descriptors >= 0).all()
    assert (np.diff(features.attention) <= 0).all()
    assert np.isin(features.scales, PYRAMID_SCALES).all()
    h, w = picture.shape
    assert ((features.locations >= 0) & (features.locations <= [h, w])).all()


def test_every_pyramid_scale_has_its_own_index():
    assert compute_nearest_scale_inds(PYRAMID_SCALES).tolist() == list(range(7))


def test_root_is_the_square_root_of_the_share(picture):
    keypoints, raw = cv2.SIFT.create(nfeatures=50, contrastThreshold=0.02).detectAndCompute(
        picture, None
    )
    best = int(np.argmax([k.response for k in keypoints]))
    expected = np.sqrt(raw[best] / raw[best].sum())
    np.testing.assert_allclose(
        compute_locals(picture, 50, 1024).descriptors[0], expected, atol=1e-6
    )


def test_locations_refer_to_the_picture_that_was_not_shrunk(picture):
    """Twice the size, shrunk back: the same keypoints at twice the coordinates."""
    small = compute_locals(picture, 60, 1024)
    double = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    large = compute_locals(double, 60, max(picture.shape))
    np.testing.assert_allclose(large.locations, 2 * small.locations, atol=1e-3)
    np.testing.assert_array_equal(large.descriptors, small.descriptors)


def test_box_crops_the_query(picture):
    box = (30.2, 20.7, 170.0, 200.0)
    inside = compute_locals(picture, 60, 1024, box)
    expected = compute_locals(np.ascontiguousarray(picture[21:200, 30:170]), 60, 1024)
    np.testing.assert_array_equal(inside.descriptors, expected.descriptors)
    with pytest.raises(ValueError, match="outside"):
        crop(picture, (-50.0, -50.0, -10.0, -10.0))


def test_vlad_equals_the_loop(picture, codebook):
    descriptors = compute_locals(picture, 200, 1024).descriptors
    sums = np.zeros((WORDS, 128))
    for descriptor in descriptors.astype(np.float64):
        word = np.argmin(((codebook.centres - descriptor) ** 2).sum(axis=1))
        sums[word] += descriptor - codebook.centres[word]
    for word in range(WORDS):
        sums[word] /= max(np.linalg.norm(sums[word]), 1e-12)
    expected = sums.ravel() / np.linalg.norm(sums)
    np.testing.assert_allclose(compute_vlad(descriptors, codebook), expected, atol=2e-4)


def test_a_picture_without_features_has_files_all_the_same(tmp_path, codebook):
    blank = np.full((64, 64), 128, np.uint8)
    cv2.imwrite(str(tmp_path / "blank.png"), blank)
    pictures = extract_sift.list_pictures(tmp_path, None, None)
    extract_sift.save_codebook(tmp_path / "book.npz", codebook)
    assert extract_sift.extract_all(pictures, tmp_path / "delg_sift", tmp_path / "book.npz", 9) == 1
    assert len(read_local(tmp_path / "delg_sift/blank.delg_local", dim=128)) == 0
    assert np.linalg.norm(read_global(tmp_path / "delg_sift/blank.delg_global")) == pytest.approx(1)


def test_the_tool_extracts_resumes_and_refuses_other_settings(tmp_path, picture):
    for name, part in (("a", picture), ("b", picture[:, ::-1]), ("c", picture[::-1])):
        cv2.imwrite(str(tmp_path / f"{name}.png"), part)
    options = {"data_dir": str(tmp_path), "line_lists": None, "num_workers": 1, "max_features": 300}
    options |= {"codebook": str(tmp_path / "book.npz"), "train_words": True}
    assert extract_sift.ex.run(config_updates=options).result == {"images": 3, "extracted": 3}
    (tmp_path / "delg_sift/b.delg_local").unlink()
    options["train_words"] = False
    assert extract_sift.ex.run(config_updates=options).result == {"images": 3, "extracted": 1}
    later = (tmp_path / "delg_sift/c.delg_local").stat().st_mtime_ns + 10**9
    os.utime(tmp_path / "c.png", ns=(later, later))
    assert extract_sift.ex.run(config_updates=options).result == {"images": 3, "extracted": 1}
    with pytest.raises(ValueError, match="overwrite=True"):
        extract_sift.ex.run(config_updates={**options, "max_features": 50})
    again = extract_sift.ex.run(config_updates={**options, "max_features": 50, "overwrite": True})
    assert again.result == {"images": 3, "extracted": 3}
    assert len(read_local(tmp_path / "delg_sift/a.delg_local")) == 50


def test_bad_input_is_named(tmp_path, picture):
    with pytest.raises(FileNotFoundError, match="no picture"):
        extract_sift.list_pictures(tmp_path, None, None)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        extract_sift.learn_codebook(extract_sift.list_pictures(tmp_path, None, None), 10, 100, 0)
    (tmp_path / "book.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match=r"book\.npz"):
        load_codebook(tmp_path / "book.npz")
    with pytest.raises(ValueError, match="too few"):
        train_codebook(np.ones((10, 128), np.float32))
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "same.png", tmp_path / "sub/same.png"):
        cv2.imwrite(str(path), picture)
    with pytest.raises(ValueError, match="share their names"):
        extract_sift.list_pictures(tmp_path, None, None)
