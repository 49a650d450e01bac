"""Two views of a photograph: linked patches show the same place, batches keep pairs together."""

import cv2
import numpy as np
import pytest
import torch

from vitgal.datasets.gldv2 import LandmarkImages
from vitgal.datasets.samplers import make_loader
from vitgal.datasets.transforms import MEAN, STD
from vitgal.datasets.two_views import PATCH, ViewAugmentation, link_patches, relight

SIZE = 128
GRID = SIZE // PATCH
PLAIN = np.eye(2, 3)


def shift(dx: float, dy: float) -> np.ndarray:
    return np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])


def places_picture() -> np.ndarray:
    """(240, 320, 3): red grows with x, green with y, both by the share of the side."""
    y, x = np.mgrid[0:240, 0:320]
    red, green = 250 * (x + 0.5) / 320, 250 * (y + 0.5) / 240
    return np.stack([red, green, np.full_like(red, 100)], axis=-1).astype(np.uint8)


def centre_colours(view: np.ndarray) -> np.ndarray:
    """(N, 2): red and green at the centres of the patches of a normalised view."""
    pixels = view.transpose(1, 2, 0) * STD + MEAN
    blocks = pixels.reshape(GRID, PATCH, GRID, PATCH, 3)
    return blocks[:, 7:9, :, 7:9].mean(axis=(1, 3))[..., :2].reshape(-1, 2)


def test_equal_views_link_each_patch_to_itself():
    assert link_patches(PLAIN, PLAIN, GRID).tolist() == list(range(GRID * GRID))


def test_shifted_views_link_to_the_neighbour_and_to_nothing_outside():
    # the second view begins 16 pixels further right and 32 further down
    links = link_patches(PLAIN, shift(16, 32), GRID).reshape(GRID, GRID)
    expected = np.full((GRID, GRID), -1)
    expected[2:, 1:] = np.arange(GRID * GRID).reshape(GRID, GRID)[:-2, :-1]
    assert links.tolist() == expected.tolist()


def test_linked_patches_show_the_same_place():
    draw = ViewAugmentation(SIZE, light=0.0).check()
    linked = 0
    for seed in range(8):
        views = draw(places_picture(), np.random.default_rng(seed))
        first, second = (centre_colours(view) for view in views.images)
        found = views.links >= 0
        linked += found.sum()
        # half a patch in x and y is up to 0.5 * 16 * 1.1 * 1.3 of 160 pixels: 18 grey levels
        difference = np.abs(first[found] - second[views.links[found]])
        inner = (first[found] > 15).all(1) & (first[found] < 235).all(1)  # mirrored beyond
        assert difference[inner].max() < 25
        wrong = np.abs(first[found][inner] - second[np.roll(views.links[found], 5)][inner])
        assert wrong.max() > 50
    assert linked > 8 * GRID * GRID / 4


def test_views_depend_on_the_generator_alone_and_differ_in_light():
    draw = ViewAugmentation(SIZE)
    one, two = (draw(places_picture(), np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.links, two.links)
    assert one.images.shape == (2, 3, SIZE, SIZE)
    assert one.images.dtype == np.float32
    other = draw(places_picture(), np.random.default_rng(4))
    assert not np.array_equal(one.images, other.images)


def test_relighting_stays_within_range_and_none_changes_nothing():
    image = places_picture()
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(relight(image, 0.0, rng), image.astype(np.float32))
    lit = [relight(image, 1.0, rng) for _ in range(20)]
    assert min(x.min() for x in lit) >= 0
    assert max(x.max() for x in lit) <= 255
    means = [float(x.mean()) for x in lit]
    assert max(means) > 1.5 * min(means)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 100}, "input_size is 100, expected a multiple of 16"),
        ({"zoom": (0.0, 1.0)}, "view_zoom is"),
        ({"zoom": (1.0, 0.5)}, "view_zoom is"),
        ({"light": -1.0}, "no negative strength"),
    ],
)
def test_views_that_cannot_be_drawn_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ViewAugmentation(**options).check()


def test_loader_keeps_views_labels_and_links_in_order(tmp_path):
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.roll(places_picture(), 40 * i, axis=1))
    paths = np.array([f"{i}.png".encode() for i in range(4)])
    images = LandmarkImages(tmp_path, paths, np.array([7, 8, 9, 5]), SIZE, ViewAugmentation(SIZE))
    views, labels, links = next(make_loader(images, [[2, 0, 3]], 1, 0, False))
    assert views.shape == (6, 3, SIZE, SIZE)
    assert labels.tolist() == [9, 9, 7, 7, 5, 5]
    assert links.shape == (3, GRID * GRID)
    for row, index in enumerate((2, 0, 3)):
        pair, _, own = images[1, index]
        assert torch.equal(views[2 * row : 2 * row + 2], pair)
        assert torch.equal(links[row], own[0])
