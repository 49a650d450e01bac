"""Networks and inputs of the reference answers; the one table of their names."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2former.models.deit import DeiT
from r2former.models.network import DeiTR2Former, R2Former, ResNetR2Former
from tests.golden_recipe import array, load_manifest, weight

SYSTEM = "r2former"
PREFIX = "r2former/dev/"
# cases of images (B, H, W) and of pairs (B, Nq, Nr), as the manifest writes their inputs
IMAGE_CASES = {
    "bb480x640": (2, 480, 640),
    "bb224x224": (1, 224, 224),
    "bb208x304": (1, 208, 304),
    "bb512x672": (1, 512, 672),
    "bb352x640": (1, 352, 640),
}
RESNET_CASES = {"r50_160x224": (2, 160, 224), "r50_208x304": (1, 208, 304)}
PAIR_CASES = {"rr500": (5, 500, 500), "rr64x40": (3, 64, 40)}
LAYOUTS = {
    "deit": "layout_rerank.json",
    "global": "layout_global.json",
    "resnet50": "layout_resnet50.json",
}
ALPHA = (
    0,
    0.3,
    0.6,
    0.9,
    0.97,
    0.5,
    0.8,
    0.2,
)  # likeness of corresponding local features, by pair of the batch
GEM_P = 3.0


def golden_weight(name: str, shape: tuple[int, ...], factors: bool = True) -> np.ndarray:
    """The recipe's value of an entry, times the factor of the manifest."""
    if name == "aggregation.0.1.p":
        return np.full(shape, GEM_P, np.float32)
    value = weight(name, shape)
    if factors and name.startswith("backbone.blocks.") and name.endswith("attn.qkv.weight"):
        return value * np.float32(2)
    if factors and name.startswith("Reranker.") and len(shape) == 2:
        return value * np.float32(6)
    return value


def golden_layout(kind: str) -> list[tuple[str, tuple[int, ...], str]]:
    """(name, shape, dtype) of all entries of a released file, in order."""
    entries: Any = load_manifest(SYSTEM, LAYOUTS[kind])
    return [(name, tuple(shape), dtype) for name, shape, dtype in entries]


def golden_state(kind: str) -> dict[str, Tensor]:
    """Names of a layout with the recipe's values."""
    state = {}
    for name, shape, _ in golden_layout(kind):
        full = f"backbone.{name}" if kind == "global" else name
        state[name] = torch.as_tensor(golden_weight(full, shape, factors=kind != "resnet50"))
    return state


@cache
def golden_network(kind: str) -> R2Former:
    """The network with the recipe's weights, in evaluation mode; shared between tests."""
    net: R2Former = DeiTR2Former() if kind == "deit" else ResNetR2Former()
    net.load_state_dict(golden_state(kind))
    return net.eval()


def golden_images(name: str, batch: int, height: int, width: int) -> Tensor:
    """(B, 3, H, W) already normalised images of a case."""
    coarse_shape = (batch, 3, -(-height // 32), -(-width // 32))
    coarse = array(f"{PREFIX}{name}/coarse", coarse_shape).repeat(32, 2).repeat(32, 3)
    fine = array(PREFIX + name, (batch, 3, height, width))
    images = np.float32(0.5) * fine + np.float32(1.5) * coarse[..., :height, :width]
    return torch.from_numpy(images)


def golden_pairs(name: str, batch: int, nq: int, nr: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query and reference of a case: local (B, Nq, 131), (B, Nr, 131), global (B, 256) twice."""
    start = PREFIX + name
    q, p = (array(f"{start}/{r}", (batch, n, 131)) for r, n in (("q", nq), ("p", nr)))
    for local in (q, p):
        local[..., :3] = np.abs(local[..., :3]) * np.float32(0.5)
    n = min(nq, nr)
    alpha64 = np.resize(np.array(ALPHA), batch)[:, None, None]
    alpha = alpha64.astype(np.float32)
    beta = np.sqrt(1 - alpha64**2).astype(np.float32)
    p[:, :n, 3:] = alpha * q[:, :n, 3:] + beta * p[:, :n, 3:]
    p[:, :n, :3] = alpha * q[:, :n, :3] + (1 - alpha) * p[:, :n, :3]
    gq = array(f"{start}/gq", (batch, 256))
    gp = np.float32(0.6) * gq + np.float32(0.8) * array(f"{start}/gp", (batch, 256))
    gq, gp = (g / np.linalg.norm(g, axis=1, keepdims=True) for g in (gq, gp))
    found = [torch.from_numpy(x.astype(np.float32)) for x in (q, p, gq, gp)]
    return found[0], found[1], found[2], found[3]


def small_deit() -> DeiT:
    """A DeiT of 4 x 6 patches for tests without reference answers."""
    return DeiT((32, 48), out_dim=16, embed_dim=32, depth=3, num_heads=2, patch_size=8)


def small_network(num_local: int = 20) -> DeiTR2Former:
    """A network for tests without reference answers: local features (B, 20, 3 + 8)."""
    torch.manual_seed(3)
    return DeiTR2Former(
        small_deit(), local_dim=8, num_local=num_local, dim=16, depth=2, num_heads=2
    ).eval()
