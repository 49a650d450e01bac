"""Global descriptors of photographs: class token of the backbone, L2-normalised."""

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from vitgal.datasets.revisited_images import Photograph, global_size, stream_batches

logger = logging.getLogger(__name__)

SCALES = (0.25, 0.3535, 0.5, 0.7071, 1.0, 1.4142, 2.0)  # of the option multiscale
Describe = Callable[[Tensor], Tensor]  # (B, 3, H, W) -> (B, D), not normalised


class GlobalSettings(NamedTuple):
    """How a photograph becomes a global descriptor."""

    imsize: int = 512
    keep_aspect: bool = False
    multiscale: bool = False


class Loading(NamedTuple):
    """How pictures reach the network."""

    batch_size: int = 64
    num_workers: int = 4
    device: torch.device = torch.device("cpu")


@torch.inference_mode()
def describe_images(describe: Describe, images: Tensor, multiscale: bool = False) -> Tensor:
    """(B, 3, H, W) normalised images -> (B, D) unit rows.

    `multiscale`: the mean of the unit descriptors at seven scales, brought to unit length.
    ValueError for a descriptor that is zero or not finite, and for images too small for the
    smallest scale.
    """
    if not multiscale:
        return _unit(describe(images))
    smallest = min(images.shape[-2:]) * SCALES[0]
    if smallest < 1:
        raise ValueError(
            f"images of {images.shape[-1]} x {images.shape[-2]} pixels vanish at scale {SCALES[0]};"
            " set multiscale=False or a larger dataset.imsize"
        )
    total = torch.zeros((), device=images.device)
    for scale in SCALES:
        resized = images
        if scale != 1.0:
            resized = functional.interpolate(
                images, scale_factor=scale, mode="bilinear", align_corners=False
            )
        total = total + _unit(describe(resized))
    return _unit(total / len(SCALES))


def _unit(vectors: Tensor) -> Tensor:
    norms = vectors.float().norm(dim=1, keepdim=True)
    if not bool((torch.isfinite(norms) & (norms > 0)).all()):
        raise ValueError("a global descriptor is zero or not finite: damaged weights?")
    return vectors.float() / norms.clamp(min=1e-12)


def extract_global(
    describe: Describe,
    photographs: list[Photograph],
    out: np.ndarray,
    settings: GlobalSettings,
    loading: Loading,
    progress: bool = True,
) -> np.ndarray:
    """Fill `out` (N, D) float32 (an array or a memory map) with unit rows; returns it."""
    rule = partial(_size, imsize=settings.imsize, keep_aspect=settings.keep_aspect)
    batches = stream_batches(
        photographs, rule, loading.batch_size, loading.num_workers, loading.device.type == "cuda"
    )
    with tqdm(total=len(photographs), desc="global", unit="image", disable=not progress) as bar:
        for indices, images in batches:
            images = images.to(loading.device, non_blocking=True)
            vectors = describe_images(describe, images, settings.multiscale)
            out[indices] = vectors.cpu().numpy()
            bar.update(len(indices))
    return out


def _size(height: int, width: int, imsize: int, keep_aspect: bool) -> tuple[int, int]:
    """`global_size`, in a form that can be sent to worker processes."""
    return global_size(height, width, imsize, keep_aspect)
