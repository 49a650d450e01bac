"""Pictures for extraction: sizes of the published rules, crops, damaged and unusual files."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from delg_training.delf_config import DelfConfig
from delg_training.image_loading import (
    ImageError,
    crop_query,
    load_image,
    load_rgb,
    resize_image,
    resized_size,
)
from tests.golden_recipe import array, load_manifest, load_outputs

SYSTEM = "delg"
GREY_LEVEL = 1  # another Pillow may round otherwise
CASES = load_manifest(SYSTEM, "misc.json")["resize"]
PIXELS = ("golden/resize", 40, 64, 31)  # name, height, width, max_image_size


def blocks(name: str, height: int, width: int) -> np.ndarray:
    """Picture of 8 x 8 blocks of one colour each, as the reference cases have it."""
    base = array(name, (-(-height // 8), -(-width // 8), 3)).astype(np.float64)
    full = np.repeat(np.repeat(128.0 + 48.0 * base, 8, axis=0), 8, axis=1)
    return np.clip(np.rint(full), 0, 255).astype(np.uint8)[:height, :width]


def config_of(case: dict) -> DelfConfig:
    keys = ("max_image_size", "min_image_size", "use_square_images")
    return DelfConfig(**{key: case[key] for key in keys})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['height']}x{case['width']}")
def test_sizes_and_factors_equal_the_reference(case: dict) -> None:
    size = case["height"], case["width"]
    new = case["new_height"], case["new_width"]
    assert resized_size(*size, config_of(case), case["resize_factor"]) == new
    picture = Image.new("RGB", size[::-1])
    image = resize_image(picture, config_of(case), case["resize_factor"])
    assert image.pixels.shape == (*new, 3)
    assert image.scale_factors == pytest.approx(case["scale_factors"], rel=1e-12)


def test_resized_pixels_equal_the_reference() -> None:
    name, height, width, largest = PIXELS
    picture = Image.fromarray(blocks(name, height, width))
    ours = resize_image(picture, DelfConfig(max_image_size=largest)).pixels
    expected = load_outputs(SYSTEM, "misc.npz")["resize/pixels"]
    assert ours.shape == expected.shape
    assert np.abs(ours.astype(int) - expected).max() <= GREY_LEVEL


def test_negative_factor_is_refused() -> None:
    with pytest.raises(ValueError, match="resize_factor is -1"):
        resized_size(10, 10, DelfConfig(), -1)


def test_crop_rounds_corners_and_gives_the_ratio_of_longer_sides() -> None:
    """181 x 149 pixels of 280 x 200: round(20.4) = 20, round(201.5) = 202, and 182 / 280 = 0.65."""
    cropped, factor = crop_query(Image.new("RGB", (280, 200)), (20.4, 11.6, 201.5, 160.5))
    assert cropped.size == (182, 148)
    assert factor == pytest.approx(0.65)


def test_empty_box_is_refused_with_its_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (20, 20)).save(path)
    with pytest.raises(ImageError, match=r"a\.jpg: the box \[5, 5, 5, 9\]"):
        load_image(path, DelfConfig(), (5, 5, 5, 9))


def test_strip_that_shrinks_to_nothing_has_no_pixels() -> None:
    image = resize_image(Image.new("RGB", (1000, 1)), DelfConfig(max_image_size=100))
    assert image.pixels.shape == (0, 100, 3)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_kind_of_colour_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (30, 20)).save(path)
    image = load_image(path, DelfConfig())
    assert image.pixels.shape == (20, 30, 3)
    assert image.pixels.dtype == np.uint8


def test_truncated_picture_is_used_as_far_as_it_goes_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    Image.fromarray(blocks("truncated", 96, 96)).save(whole, quality=90)
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) * 2 // 3])
    with caplog.at_level(logging.WARNING):
        found = np.asarray(load_rgb(cut))
    assert "cut.jpg is damaged" in caplog.text
    expected = np.asarray(load_rgb(whole))
    np.testing.assert_array_equal(found[:32], expected[:32])
    assert (found[-8:] != expected[-8:]).any()
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False, "the global switch is back"


@pytest.mark.parametrize(
    ("data", "complaint"), [(b"", "is no picture"), (b"GIF89a but not really", "cut off|is no")]
)
def test_file_that_is_no_picture_is_named(data: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        load_rgb(path)


def test_huge_picture_is_refused_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More pixels than Pillow's limit against bombs, which is lowered here."""
    path = tmp_path / "huge.png"
    Image.new("1", (200, 200)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ImageError, match=r"huge\.png cannot be decoded"):
        load_rgb(path)


def test_missing_picture_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        load_rgb(tmp_path / "gone.jpg")
