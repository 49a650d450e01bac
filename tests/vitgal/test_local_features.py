"""Keypoints and descriptors: the reference, and grids that the release stumbles over."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden_recipe import array, load_manifest, load_outputs
from tests.vitgal.reference_model import reference_model
from vitgal.local_features import (
    SCALES,
    LocalSettings,
    choose_scales,
    compute_scores,
    extract_local,
    patch_boxes,
    select_patches,
)

SYSTEM, PREFIX, FILE = "vitgal", "vitgal/s12", "local_features.npz"
CASES = load_manifest(SYSTEM)["files"][FILE]["cases"]
TOLERANCE = load_manifest(SYSTEM)["tolerances"]["model outputs"]


@pytest.mark.parametrize("case", CASES)
def test_features_equal_the_reference(case: str) -> None:
    entry, outputs = dict(CASES[case]), load_outputs(SYSTEM, FILE)
    image = torch.from_numpy(array(f"{PREFIX}/{case}/image", tuple(entry.pop("shape"))))
    settings = LocalSettings(tuple(entry.pop("scales")), **entry)
    (found,) = extract_local(reference_model(), image, settings)
    assert found.locations.dtype == np.int64
    np.testing.assert_array_equal(found.locations, outputs[f"{case}/locations"])
    np.testing.assert_allclose(
        found.descriptors,
        outputs[f"{case}/descriptors"],
        rtol=TOLERANCE["rtol"],
        atol=TOLERANCE["atol"],
    )


def model_of(attention: Tensor | None = None, dim: int = 4):
    """Stand-in: attention and codes fixed by the values of the image's patches."""

    def model(images: Tensor) -> dict[str, Tensor]:
        patches = torch.nn.functional.avg_pool2d(images, 16).flatten(2)  # (B, 3, N)
        heads = patches[:, :2].exp() if attention is None else attention
        code = torch.cat([patches, patches.square()], dim=1)[:, :dim].transpose(1, 2)
        return {"ae_attn": heads, "code": code}

    return model


def test_a_batch_gives_what_single_images_give() -> None:
    images = torch.from_numpy(array("vitgal/test/batch", (3, 3, 96, 128)))
    together = extract_local(model_of(), images, LocalSettings(num_points=40))
    for image, features in zip(images, together, strict=True):
        (alone,) = extract_local(model_of(), image[None], LocalSettings(num_points=40))
        np.testing.assert_array_equal(features.locations, alone.locations)
        np.testing.assert_allclose(features.descriptors, alone.descriptors, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-6)


def test_scores_by_hand() -> None:
    """Heads over their maxima: (1, .5), (.5, 1); mean .75, .75; mean 1: both 1."""
    attention = torch.tensor([[[0.4, 0.2], [0.1, 0.2]]])
    torch.testing.assert_close(compute_scores(attention), torch.ones(1, 2))


def select_by_loop(scores: list[float], enough: float, threshold: float, minimum: float) -> list:
    while True:
        kept = [i for i, score in enumerate(scores) if score > threshold]
        if len(kept) >= enough and len(kept) >= 2:
            return kept
        if threshold / 2 < minimum:
            return kept or [scores.index(max(scores))]
        threshold = threshold / 2


def test_thresholds_are_halved_as_in_the_loop() -> None:
    rng = np.random.default_rng(0)
    for enough in (0.5, 2, 10, 60):
        scores = rng.lognormal(0, 1.5, 50)
        for minimum in (0.6, 0.9375, 30.0):
            found = select_patches(scores, enough, 60.0, minimum).tolist()
            assert found == select_by_loop(scores.tolist(), enough, 60.0, minimum)


def test_scores_equal_to_the_threshold_are_left_out() -> None:
    assert select_patches(np.array([60.0, 61.0, 62.0]), 2, 60.0, 0.6).tolist() == [1, 2]


def test_without_a_patch_above_the_last_threshold_the_best_is_taken() -> None:
    assert select_patches(np.array([0.1, 0.5, 0.2]), 400, 60.0, 0.6).tolist() == [1]


def test_boxes_are_truncated_at_scale_one() -> None:
    """Grid 4 wide at 48 x 64 for a base of 96 x 96: ratios 1/2 and 2/3; row 1, column 3."""
    boxes = patch_boxes(np.array([7]), 4, (96, 96), (48, 64))
    assert boxes.tolist() == [[32, 72, 64, 96]]


def test_a_grid_of_a_single_patch_has_one_feature_per_scale() -> None:
    image = torch.ones(1, 3, 16, 16)
    (found,) = extract_local(model_of(), image, LocalSettings(SCALES[1]))
    assert found.locations.tolist() == [[8, 8]]
    (found,) = extract_local(model_of(), image, LocalSettings(SCALES[5]))
    assert 1 <= len(found.locations) <= 5


def test_even_attention_selects_everything_not_nothing() -> None:
    """All scores 1: above 0.9375, the last threshold."""
    (found,) = extract_local(model_of(torch.ones(1, 2, 24)), torch.ones(1, 3, 64, 96),
                             LocalSettings(SCALES[1]))  # fmt: skip
    assert len(found.locations) == 24


def test_attention_that_is_no_number_is_an_error() -> None:
    broken = torch.full((1, 2, 24), torch.nan)
    with pytest.raises(ValueError, match="attention of 1 of 1 images is not finite"):
        extract_local(model_of(broken), torch.ones(1, 3, 64, 96), LocalSettings(SCALES[1]))


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_scale is 4, expected one of \[1, 3, 5, 7\]"):
        choose_scales(True, 4)
    assert choose_scales(False, 5) == (1.0,)
    with pytest.raises(ValueError, match="min_attn_threshold"):
        LocalSettings(min_attn_threshold=0.0)
    with pytest.raises(ValueError, match="num_points is 0"):
        LocalSettings(num_points=0)
