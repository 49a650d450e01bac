"""Networks, matchers and inputs of the reference answers; the one table of their names."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rrt_sop.models.matcher import Matcher
from rrt_sop.models.network import RerankNet
from tests.golden_recipe import array, weight

SYSTEM = "rrt_sop"
# kinds of cases in the manifest
BACKBONE, MATCHER, TRAIN = "backbone and heads", "matcher forward", "matcher training steps"
RECALL, RERANK = "global recall", "reranked recall with a given score table"
# shapes that the manifest states in words
IMAGE_SHAPE = (2, 3, 224, 224)
MAP_SIZE = {"sop/matcher_tiny": (4, 2, 3), "sop/matcher": (4, 7, 7)}  # pairs, height, width
TRAIN_MAP_SIZE = (2, 2)
IDENTITIES, PER_IDENTITY, RECALL_DIM = 60, 5, 16
CENTRE_SCALE = {"sop/rerank15/base": 0.6}  # else 0.8
# buffers that keep their constants
CONSTANT = ("mean", "std")


def recipe_state(module: torch.nn.Module, boost: dict[str, float]) -> dict[str, Tensor]:
    """The recipe's weights for every entry of the state dict, boosted by name suffix."""
    state = {}
    for name, value in module.state_dict().items():
        if name in CONSTANT:
            state[name] = value
            continue
        factor = next((f for suffix, f in boost.items() if name.endswith(suffix)), None)
        recipe = weight(name, tuple(value.shape))
        state[name] = torch.from_numpy(recipe if factor is None else recipe * np.float32(factor))
    return state


def golden_matcher(entry: dict[str, Any]) -> Matcher:
    """The matcher of a manifest's entry."""
    model = Matcher(**entry["constructor"])
    model.load_state_dict(recipe_state(model, entry["weight_boost"]))
    return model


def golden_network(entry: dict[str, Any]) -> RerankNet:
    """The network of a manifest's entry."""
    net = RerankNet(**entry["constructor"])
    net.load_state_dict(recipe_state(net, entry["weight_boost"]))
    return net


def golden_images(case: str) -> Tensor:
    """Image batch of a backbone case: (B, 3, H, W) in [0, 1]."""
    batch, channels, height, width = IMAGE_SHAPE
    coarse_shape = (batch, channels, -(-height // 32), -(-width // 32))
    coarse = array(f"{case}/image/coarse", coarse_shape).repeat(32, 2).repeat(32, 3)
    images = 0.5 + 0.3 * coarse[..., :height, :width] + 0.1 * array(f"{case}/image", IMAGE_SHAPE)
    return torch.from_numpy(np.clip(images, 0, 1).astype(np.float32))


def golden_maps(case: str, entry: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Source and target maps of a matcher case."""
    batch, height, width = MAP_SIZE.get(case, MAP_SIZE["sop/matcher"])
    shape = (batch, entry["constructor"]["d_model"], height, width)
    src, tgt = (torch.from_numpy(array(f"{case}/{role}", shape)) for role in ("src", "tgt"))
    return src, tgt


def golden_features(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D), not normalised, and labels (N,) of a global recall case."""
    labels = np.arange(IDENTITIES).repeat(PER_IDENTITY)
    noise = array(f"{case}/noise", (len(labels), RECALL_DIM))
    centres = array(f"{case}/centres", (IDENTITIES, RECALL_DIM))
    scale = np.float32(CENTRE_SCALE.get(case, 0.8))
    return noise + scale * centres[labels], labels
