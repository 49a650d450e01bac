"""What a fixed backbone gives of the training images, computed once (fix=1, cache_frozen=True).

With fix=1 every step asks the same backbone for the same images. Kept in memory, descriptors,
chosen places and tokens cost one pass over the set; the steps are those without the cache.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from r2former.datasets.place_set import PlaceSet
from r2former.datasets.transforms import Transform
from r2former.embedding import MiningEmbedder, Reading, embed_images
from r2former.models.network import R2Former
from r2former.models.selection import XYA

FLOAT_BYTES = 4
START_IMAGES = 1000  # that principal components are taken from, at most
START_SHARE = 1e-4  # of the largest variance: smaller ones are not enlarged further
LOCAL_STARTS = ("normal", "pca")
CHANGING = (
    "brightness", "contrast", "saturation", "hue", "rand_perspective", "random_resized_crop",
    "random_rotation",
)  # fmt: skip


def check_cache(config: Mapping[str, Any]) -> None:
    """ValueError where images or backbone change during training, so that nothing can be kept."""
    dataset = config["dataset"]
    changing = [name for name in CHANGING if dataset[name] is not None]
    if dataset["horizontal_flip"]:
        changing.append("horizontal_flip")
    if not config["fix"]:
        changing.append("fix=0")
    if changing:
        raise ValueError(
            f"cache_frozen=True keeps what a fixed backbone gives, but {', '.join(changing)} "
            "changes it from step to step; leave cache_frozen at False"
        )


def check_local_start(config: Mapping[str, Any]) -> None:
    """ValueError for an unknown way to start the local head."""
    if config["local_start"] not in LOCAL_STARTS:
        raise ValueError(
            f"local_start is {config['local_start']!r}, expected one of {LOCAL_STARTS}"
        )


def check_budget(images: int, length: int, budget_gib: float) -> None:
    """ValueError when so many rows of so many numbers do not fit."""
    needed = images * length * FLOAT_BYTES / 2**30
    if needed > budget_gib:
        raise ValueError(
            f"cache_frozen=True needs {needed:.1f} GiB for {images} images, above "
            f"cache_budget_gib={budget_gib}; raise it, or leave cache_frozen at False"
        )


@dataclass
class FrozenImages:
    """Rows of all training images, as `R2Former.pack` makes them."""

    database: Tensor  # (N, L) float32
    queries: Tensor  # (Q, L)


def choose_for_start(total: int, seed: int) -> np.ndarray:
    """Ascending rows of the up to 1,000 database images that the local head starts from."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:START_IMAGES].sort().values.numpy()


def pack_images(
    net: R2Former, places: PlaceSet, transform: Transform, reading: Reading, budget_gib: float
) -> FrozenImages:
    """All training images through the fixed backbone, read as the steps read them."""

    def pack(paths: list[str], told: str) -> Tensor:
        rows = embed_images(net, paths, transform, reading, told=told, embed=net.pack)
        return torch.from_numpy(rows)

    length = pack(places.query_paths[:1], "one query").shape[1]
    check_budget(len(places.database_paths) + len(places.query_paths), length, budget_gib)
    return FrozenImages(
        pack(places.database_paths, "database"), pack(places.query_paths, "queries")
    )


@torch.no_grad()
def start_local_head(net: R2Former, packed: Tensor) -> None:
    """Begin with whitened principal components of tokens, in place of the published N(0, 0.01).

    W = diag(lambda)^(-1/2) U^T, b = -W m with mean m and covariance U diag(lambda) U^T of the
    tokens of images, `packed` (N, L) by `R2Former.pack`. Tokens of a CNN have no negative channels,
    so that under a random map all of them are alike.
    """
    width = net.local_head.in_features
    rows = packed[:, net.out_dim :].reshape(-1, XYA + width)[:, XYA:].double()
    mean = rows.mean(dim=0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    order = values.argsort(descending=True)[: net.local_head.out_features]
    if len(order) < net.local_head.out_features:
        raise ValueError(
            f"local_start=pca makes at most {len(order)} numbers of tokens with so many; "
            f"local_dim is {net.local_head.out_features}"
        )
    scale = values[order].clamp(min=START_SHARE * float(values.max())).rsqrt()
    weight = scale[:, None] * vectors[:, order].T
    net.local_head.weight.copy_(weight)
    net.local_head.bias.copy_(-(weight @ mean))


class FrozenGroups(Dataset[Tensor]):
    """As `datasets.triplets.Groups`, with packed rows (T, L) in place of images."""

    def __init__(self, places: PlaceSet, triplets: np.ndarray, frozen: FrozenImages) -> None:
        self.places, self.triplets, self.frozen = places, triplets, frozen

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, item: tuple[int, int, bool]) -> Tensor:
        query, *others = self.triplets[item[0]].tolist()
        return torch.cat([self.frozen.queries[query][None], self.frozen.database[others]])


class FrozenEmbedder:
    """Descriptors for mining of a network that does not change: computed at the first round."""

    def __init__(self, embed: MiningEmbedder) -> None:
        self.embed = embed
        self.kept: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, rows: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `MiningEmbedder`."""
        if self.kept is None:
            places = self.embed.places
            everything = (np.arange(len(places.database_paths)), np.arange(len(places.query_paths)))
            self.kept = self.embed(*everything)
        return self.kept[0][rows], self.kept[1][queries]
