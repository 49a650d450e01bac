"""Descriptors reduced to their principal components, for the option `pca_dim` (VG benchmark)."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from r2former.datasets.transforms import make_database_transform
from r2former.embedding import Reading, embed_images, embedder_of

logger = logging.getLogger(__name__)

MOST_IMAGES = 2**14  # that components are taken of, as published


class ReducedDescriptors(nn.Module):
    """A global model, then (x - mean) C^T: rows are no longer of unit length, as published."""

    mean: Tensor
    components: Tensor

    def __init__(self, net: nn.Module, mean: np.ndarray, components: np.ndarray) -> None:
        """`mean` (D,), `components` C (k, D)."""
        super().__init__()
        self.net = net
        device = next(net.parameters()).device
        for name, value in (("mean", mean), ("components", components)):
            self.register_buffer(name, torch.from_numpy(value.astype(np.float32)).to(device))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, k)."""
        return (embedder_of(self.net)(images) - self.mean) @ self.components.T

    def embed_global(self, images: Tensor) -> Tensor:
        """The same, under the name that all networks share."""
        return self(images)


def reduce_by_pca(
    net: nn.Module,
    paths: Sequence[str],
    pca_dim: int,
    resize: Sequence[int],
    reading: Reading,
    seed: int,
) -> ReducedDescriptors:
    """`net` with the `pca_dim` first principal components of the images `paths`.

    Of more than 16,384 images so many are drawn. ValueError when there are not so many components.
    """
    transform = make_database_transform(resize)
    rows = np.arange(len(paths))
    if len(rows) > MOST_IMAGES:
        rows = np.sort(np.random.default_rng(seed).choice(len(paths), MOST_IMAGES, replace=False))
    width = embed_images(net, paths, transform, reading, rows[:1], "pca").shape[1]
    most = min(len(rows), width)
    if not 1 <= pca_dim <= most:
        raise ValueError(
            f"pca_dim is {pca_dim}, expected 1 to {most}: descriptors have {width} numbers and "
            f"there are {len(rows)} images for the PCA"
        )
    features = embed_images(net, paths, transform, reading, rows, "pca")
    found = PCA(pca_dim, random_state=seed).fit(features)
    kept = 100 * float(found.explained_variance_ratio_.sum())
    logger.info("%d of %d components keep %.1f %% of the variance", pca_dim, width, kept)
    return ReducedDescriptors(net, found.mean_, found.components_)
