"""Matchers and padded images of the reference answers."""

from typing import Any

import numpy as np
import torch

from rrt_gld.datasets.pairs import PaddedImages
from rrt_gld.models.matcher import Matcher
from tests.golden_recipe import array, weight

NUM_SCALES = 7


def golden_matcher(entry: dict[str, Any]) -> Matcher:
    """The matcher of a manifest's entry: recipe weights, boosted as listed."""
    model = Matcher(**entry["constructor"])
    state = {}
    for name, value in model.state_dict().items():
        boosts = entry["weight_boost"].items()
        factor = next((f for suffix, f in boosts if name.endswith(suffix)), 1.0)
        state[name] = torch.from_numpy(weight(name, tuple(value.shape)) * np.float32(factor))
    model.load_state_dict(state)
    return model


def golden_images(
    prefix: str, lengths: np.ndarray, max_len: int, sizes: dict[str, Any]
) -> PaddedImages:
    """Inputs of the matcher cases, padded to `max_len`."""
    batch = len(lengths)
    mask = torch.arange(max_len) >= torch.as_tensor(np.asarray(lengths))[:, None]
    local = torch.from_numpy(array(f"{prefix}/local", (batch, max_len, sizes["d_model"])))
    scales = (np.abs(array(f"{prefix}/scales", (batch, max_len))) * 1000).astype(np.int64)
    return PaddedImages(
        torch.from_numpy(array(f"{prefix}/global", (batch, sizes["d_global"]))),
        local.masked_fill(mask[..., None], 0.0),
        mask,
        torch.from_numpy(scales % NUM_SCALES).masked_fill(mask, 0),
        torch.zeros(batch, max_len, 2),
    )
