"""Images to tensors: the reference's answers, sizes, augmentation, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from r2former.datasets.images import PlaceImages, load_image
from r2former.datasets.transforms import (
    Augmentation,
    make_database_transform,
    make_query_transform,
    make_train_transform,
)
from tests.golden_recipe import load_outputs
from tests.r2former.street_folders import write_image

PIPELINE = "pipeline.npz"
RESIZE = (48, 64)
ONE_LEVEL = 0.018  # of 255, normalised: another PIL may round differently
# name in the file -> how it is made, tolerance
CASES = {
    "infer_hard_resize": (make_database_transform(RESIZE), 1e-5),
    "train_resize": (make_train_transform(RESIZE), ONE_LEVEL),
    "single_query": (make_query_transform(RESIZE, "single_query"), 1e-5),
    "central_crop": (make_query_transform(RESIZE, "central_crop"), 1e-5),
    "five_crops": (make_query_transform(RESIZE, "five_crops"), 1e-5),
}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(load_outputs("r2former", PIPELINE)["uint8"])


@pytest.mark.parametrize("name", CASES)
def test_transforms_equal_the_reference(picture, name):
    transform, tolerance = CASES[name]
    expected = torch.from_numpy(load_outputs("r2former", PIPELINE)[name])
    torch.testing.assert_close(transform(picture), expected, rtol=0, atol=tolerance)


def test_inference_and_training_resize_differ(picture):
    difference = make_database_transform(RESIZE)(picture) - make_train_transform(RESIZE)(picture)
    assert difference.abs().max() > 10 * ONE_LEVEL


@pytest.mark.parametrize("method", ["nearest_crop", "maj_voting"])
def test_other_crop_methods_read_the_same_five_crops(picture, method):
    expected = CASES["five_crops"][0](picture)
    assert torch.equal(make_query_transform(RESIZE, method)(picture), expected)


def test_sizes_that_are_no_multiple_of_16_work(picture):
    assert make_query_transform([50, 70])(picture).shape == (3, 50, 70)


def test_augmentation_follows_torchs_random_stream(picture):
    changed = Augmentation(0.5, 0.5, 0.5, 0.3, 0.4, 0.5, 20)
    transform = make_train_transform(RESIZE, changed)
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(transform(picture))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert made[0].shape == (3, *RESIZE)


@pytest.mark.parametrize("field", list(vars(Augmentation())))
def test_each_augmentation_changes_the_image(picture, field):
    torch.manual_seed(4)
    value = {"hue": 0.4, "random_rotation": 30}.get(field, 0.8)
    transform = make_train_transform(RESIZE, Augmentation(**{field: value}))
    plain = make_train_transform(RESIZE)(picture)
    assert any(not torch.equal(transform(picture), plain) for _ in range(4))


@pytest.mark.parametrize("resize", [[480], [8, 64], [48.0, 64.0], [1, 2, 3]])
def test_bad_sizes_are_refused(resize):
    with pytest.raises(ValueError, match="expected height and width in pixels"):
        make_database_transform(resize)


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="test_method is 'ten_crops', expected one of"):
        make_query_transform(RESIZE, "ten_crops")


def test_chosen_rows_keep_their_own_index(tmp_path):
    paths = [str(tmp_path / f"{i}.jpg") for i in range(4)]
    for i, path in enumerate(paths):
        write_image(tmp_path / f"{i}.jpg", i)
        assert load_image(path).size == (40, 32)
    images = PlaceImages(paths, make_database_transform(RESIZE), np.array([3, 1]))
    assert [index for _, index in (images[0], images[1])] == [3, 1]
    assert torch.equal(images[0][0], make_database_transform(RESIZE)(load_image(paths[3])))


def test_unreadable_images_are_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg is no readable image"):
        load_image(str(tmp_path / "broken.jpg"))
