"""Image -> tensor, for inference and training, against the reference answers."""

import numpy as np
import pytest
from PIL import Image

from r2former.datasets.transforms import (
    make_database_transform,
    make_query_transform,
    make_train_transform,
)
from tests.golden_recipe import load_outputs
from tests.r2former.golden_models import SYSTEM

RESIZE = (48, 64)  # of the manifest's case "pipeline"
TOLERANCE, ONE_LEVEL = 1e-5, 0.018  # the latter where another PIL resizes
MADE_BY = {
    "infer_hard_resize": (make_database_transform(RESIZE), TOLERANCE),
    "single_query": (make_query_transform(RESIZE, "single_query"), TOLERANCE),
    "central_crop": (make_query_transform(RESIZE, "central_crop"), TOLERANCE),
    "five_crops": (make_query_transform(RESIZE, "five_crops"), TOLERANCE),
    "train_resize": (make_train_transform(RESIZE), ONE_LEVEL),
}


@pytest.mark.parametrize("name", MADE_BY)
def test_images_become_the_published_tensors(name):
    wanted = load_outputs(SYSTEM, "pipeline.npz")
    transform, tolerance = MADE_BY[name]
    found = transform(Image.fromarray(wanted["uint8"])).numpy()
    np.testing.assert_allclose(found, wanted[name], rtol=0, atol=tolerance)


def test_inference_and_training_differ():
    """Antialias is the difference: the released weights expect none in inference."""
    wanted = load_outputs(SYSTEM, "pipeline.npz")
    assert np.abs(wanted["infer_hard_resize"] - wanted["train_resize"]).max() > 0.5
