"""The eight steps of augmentation: each against a plain formula, their shares by counting."""

import math

import cv2
import numpy as np
import pytest

from vitgal.datasets import transforms
from vitgal.datasets.transforms import (
    MEAN,
    STD,
    Augmentation,
    change_brightness,
    change_contrast,
    change_hue,
    change_saturation,
    compress,
    cut_hole,
    draw_crop,
    jitter_colours,
    normalise,
    resize,
    warp,
)

OFF = {"shift_scale_rotate_p": 0.0, "crop_p": 0.0, "cutout_p": 0.0}


@pytest.fixture
def image() -> np.ndarray:
    """(24, 36, 3), smooth, all colours."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (36, 24), interpolation=cv2.INTER_LINEAR)


def grey_of(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255)


def test_colour_changes_follow_their_formulas(image):
    x = image.astype(np.float64)
    grey = grey_of(image).astype(np.float64)
    for factor in (0.6, 1.0, 1.4):
        expected = {
            change_brightness: clipped(x * factor),
            change_contrast: clipped(x * factor + grey.mean() * (1 - factor)),
            change_saturation: clipped(x * factor + grey[..., None] * (1 - factor)),
        }
        for change, wanted in expected.items():
            assert np.abs(change(image, factor) - wanted).max() <= 1.0


def test_hue_turns_on_the_circle(image):
    before = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(int)
    for shift in (-0.4, 0.25):
        after = cv2.cvtColor(change_hue(image, shift), cv2.COLOR_RGB2HSV).astype(int)
        strong = (before[..., 1] > 100) & (before[..., 2] > 100)  # hue is well defined there
        turned = (after[..., 0] - before[..., 0] - 180 * shift + 90) % 180 - 90
        assert strong.any()
        assert np.abs(turned[strong]).max() <= 2
    pure_red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    assert change_hue(pure_red, 1 / 3).tolist() == [[[0, 255, 0]]]


def test_jitter_draws_within_its_limits_and_in_random_order(monkeypatch, image):
    seen = []
    steps = [
        lambda x, amount, name=step.__name__: seen.append((name, amount)) or x
        for step in transforms.COLOUR_STEPS
    ]
    monkeypatch.setattr(transforms, "COLOUR_STEPS", steps)
    rng = np.random.default_rng(1)
    for _ in range(300):
        jitter_colours(image, 0.4, rng)
    amounts = {name: [a for n, a in seen if n == name] for name, _ in seen}
    assert {len(values) for values in amounts.values()} == {300}
    hues = amounts.pop("change_hue")
    assert -0.4 <= min(hues) < -0.35
    assert 0.35 < max(hues) <= 0.4
    for values in amounts.values():
        assert 0.6 <= min(values) < 0.65
        assert 1.35 < max(values) <= 1.4
    orders = {tuple(name for name, _ in seen[i : i + 4]) for i in range(0, len(seen), 4)}
    assert len(orders) == math.factorial(4)


def test_jpeg_of_high_quality_changes_little(image):
    def error(quality: int) -> float:
        return float(np.abs(compress(image, quality).astype(int) - image).mean())

    # colours are stored at half the resolution, whatever the quality
    assert error(100) < 3 < error(5)


def test_warp_turns_about_the_centre_and_shifts_by_shares():
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 15] = 255  # five right of the centre
    assert warp(image, 90, 1.0, 0, 0)[5, 10, 0] == 255, "counter-clockwise"
    assert warp(image, 0, 1.0, -5 / 21, 0)[10, 10, 0] == 255
    assert warp(image, 0, 1.0, 0, 2 / 21)[12, 15, 0] == 255
    white = np.full((21, 21, 3), 255, np.uint8)
    assert warp(white, 0, 0.5, 0, 0)[0, 0].tolist() == [0, 0, 0], "black border"


def test_crops_have_the_drawn_area_and_aspect():
    rng = np.random.default_rng(0)
    areas, aspects = [], []
    for _ in range(400):
        y, x, h, w = draw_crop(300, 360, 0.5, rng)
        assert 0 <= y <= 300 - h
        assert 0 <= x <= 360 - w
        areas.append(h * w / (300 * 360))
        aspects.append(w / h)
    assert 0.49 < min(areas) < 0.55
    assert max(areas) <= 1.0
    assert 0.74 < min(aspects) < 0.80
    assert 1.25 < max(aspects) < 1.35


@pytest.mark.parametrize(
    ("size", "crop"),
    # nearly the whole of an elongated image never has an aspect of at most 4:3
    [((30, 300), (0, 130, 30, 40)), ((300, 30), (130, 0, 40, 30))],
)
def test_crop_falls_back_to_the_centre(size, crop):
    assert draw_crop(*size, 0.9, np.random.default_rng(0)) == crop


def test_hole_is_clipped_to_the_image():
    white = np.full((8, 8, 3), 255, np.uint8)
    inside = cut_hole(white, 4, 4, 4)
    assert (inside == 0).all(axis=2).sum() == 16
    assert not inside[2:6, 2:6].any()
    # the corner is clipped first: a hole at the upper left keeps its side
    assert (cut_hole(white, 4, 0, 0) == 0).all(axis=2).sum() == 16
    assert (cut_hole(white, 4, 7, 7) == 0).all(axis=2).sum() == 9
    assert white.all(), "the image given is left alone"


def test_normalised_image_is_channel_first_float32(image):
    out = normalise(image)
    assert out.dtype == np.float32
    assert out.shape == (3, 24, 36)
    expected = (image[5, 7, 1] - 255 * 0.456) / (255 * 0.224)
    assert out[1, 5, 7] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(MEAN / 255, (0.485, 0.456, 0.406), rtol=1e-6)
    np.testing.assert_allclose(STD / 255, (0.229, 0.224, 0.225), rtol=1e-6)


def test_resizing_keeps_no_aspect_and_does_not_smooth():
    stripes = np.zeros((8, 16, 3), np.uint8)
    stripes[:, ::4] = 255
    small = resize(stripes, 8, 4)
    # bilinear between columns 1 and 2 of each four: both black; smoothing would give grey
    assert not small.any()


@pytest.mark.parametrize("size", [(40, 60), (5, 200), (16, 16)])
def test_augmented_image_has_the_input_size(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    for _ in range(10):
        out = Augmentation(input_size=32)(image, rng)
        assert out.shape == (32, 32, 3)
        assert out.dtype == np.uint8


def test_steps_come_as_often_as_they_should():
    """Counted on an image on which each step leaves a trace; 2000 draws, 4 sigma = 4.5 %."""
    white = np.full((32, 32, 3), 255, np.uint8)
    half = white.copy()
    half[:, :16] = 0
    count = 2000
    rng = np.random.default_rng(0)
    flips = Augmentation(input_size=32, color_jitter=0.0, **OFF)
    flipped = sum(flips(half, rng)[0, 0, 0] > 128 for _ in range(count)) / count
    holes = Augmentation(input_size=32, color_jitter=0.0, **{**OFF, "cutout_p": 0.5})
    holed = sum(bool((holes(white, rng) < 128).any()) for _ in range(count)) / count
    warps = Augmentation(
        input_size=32, color_jitter=0.0, scale_limit=0.0, rotate_limit=0,
        **{**OFF, "shift_scale_rotate_p": 0.7},
    )  # fmt: skip
    warped = sum(bool((warps(white, rng) < 128).any()) for _ in range(count)) / count
    assert flipped == pytest.approx(0.5, abs=0.045)
    assert holed == pytest.approx(0.5, abs=0.045)
    # a shift of less than half a pixel leaves no trace: 1/32 / 0.4 of each side
    assert warped == pytest.approx(0.7, abs=0.045)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"input_size": 0}, "input_size=0"),
        ({"crop_scale": 0.0}, r"crop_scale=0\.0"),
        ({"compress_lower": 90, "compress_upper": 80}, "compress_lower=90, compress_upper=80"),
        ({"scale_limit": 1.5}, r"scale_limit=1\.5"),
        ({"cutout_size": 2.0}, r"cutout_size=2\.0"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Augmentation(**options)
