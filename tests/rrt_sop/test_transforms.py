"""Transforms: the reference answer, what the words of the paper's code say, bad sizes."""

import numpy as np
import pytest
import torch
from PIL import Image

from rrt_sop.datasets.transforms import make_test_transform, make_train_transform
from tests.golden_recipe import array, cases_of_kind, load_outputs

SYSTEM, KIND = "rrt_sop", "test-time image transform"
CASES = cases_of_kind(SYSTEM, KIND)
SHAPE, STRIDE, TOLERANCE = (301, 223, 3), 14, 1 / 255  # of the manifest's text


@pytest.mark.parametrize("case", CASES)
def test_test_transform_equals_reference(case):
    pixels = np.clip(128 + 50 * array(f"{case}/image", SHAPE), 0, 255).astype(np.uint8)
    result = make_test_transform()(Image.fromarray(pixels))
    outputs = load_outputs(SYSTEM)
    assert result.shape == (3, 224, 224)
    assert result.dtype == torch.float32
    patch = result[:, ::STRIDE, ::STRIDE]
    np.testing.assert_allclose(patch, outputs[f"{case}/patch"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(
        result.mean(dim=(1, 2)), outputs[f"{case}/mean"], rtol=0, atol=TOLERANCE
    )


def test_test_transform_squeezes_the_whole_image_and_cuts_its_centre():
    # the left half black, the right half white, four times as wide as high
    pixels = np.zeros((50, 200, 3), np.uint8)
    pixels[:, 100:] = 255
    result = make_test_transform(resize=40, crop=20)(Image.fromarray(pixels))
    # the edge is in the middle of the crop: squeezed, not cut
    torch.testing.assert_close(result[:, :, :8], torch.zeros(3, 20, 8))
    torch.testing.assert_close(result[:, :, 12:], torch.ones(3, 20, 8))


def test_train_transform_crops_and_mirrors_in_half_of_the_cases():
    # brightness rises to the right: a crop shows whether it was mirrored
    ramp = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (48, 1, 3))
    image, transform = Image.fromarray(ramp), make_train_transform(16)
    torch.manual_seed(0)
    crops = torch.stack([transform(image) for _ in range(400)])
    assert crops.shape == (400, 3, 16, 16)
    assert 0 <= float(crops.min()) <= float(crops.max()) <= 1
    rise = crops[..., -1].mean(dim=(1, 2)) - crops[..., 0].mean(dim=(1, 2))
    assert abs(int((rise < 0).sum()) - 200) < 50  # five sigma
    # width of a crop as a share of the image's: from 0.08 of the area at 3:4 up to all of it
    assert float(rise.abs().min()) < 0.35
    assert float(rise.abs().max()) > 0.75


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: make_train_transform(0), "crop_size is 0"),
        (lambda: make_train_transform(-3), "crop_size is -3"),
        (lambda: make_train_transform(8, 1.5), "smallest_crop is 1.5"),
        (lambda: make_test_transform(0, 0), "test_resize is 0"),
        (lambda: make_test_transform(100, 224), "test_crop=224 is larger than test_resize=100"),
    ],
)
def test_bad_sizes_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()
