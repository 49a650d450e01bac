"""Local features of an image: patches with much attention, described by the autoencoder's codes.

The attention of the autoencoder's class block chooses patches at several scales; non-maximum
suppression over all scales together leaves up to `num_points` of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vitgal.datasets.revisited_images import PATCH, Size, scaled_size
from vitgal.nms import suppress
from vitgal.stores import LocalFeatures

SCALES = {  # number of scales -> scales, smallest first
    1: (1.0,),
    3: (0.7071, 1.0, 1.4142),
    5: (0.3535, 0.5, 0.7071, 1.0, 1.4142),
    7: (0.25, 0.3535, 0.5, 0.7071, 1.0, 1.4142, 2.0),
}
SURPLUS = 200  # boxes beyond num_points that non-maximum suppression looks at
Model = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class LocalSettings:
    """How keypoints are chosen; the defaults are those of every published row."""

    scales: tuple[float, ...] = SCALES[5]
    attn_threshold: float = 60.0  # first threshold, in multiples of the mean attention
    min_attn_threshold: float = 0.6  # halving stops before it falls below this
    max_keypoint: float = 400  # patches that suffice at scale 1; fewer at smaller ones, by area
    overlap: float = 0.5  # largest intersection over union of two kept patches
    num_points: int = 1000  # features kept of an image

    def __post_init__(self) -> None:
        if not 0 < self.min_attn_threshold <= self.attn_threshold:
            raise ValueError(
                f"attn_threshold is {self.attn_threshold}, min_attn_threshold "
                f"{self.min_attn_threshold}; expected 0 < min_attn_threshold <= attn_threshold"
            )
        if not self.scales or min(self.scales) <= 0 or self.num_points < 1:
            raise ValueError(
                f"scales are {self.scales}, num_points is {self.num_points}; expected positive "
                "scales and at least one point"
            )


def choose_scales(use_multi_scale: bool, num_scale: int) -> tuple[float, ...]:
    """Scales of the options; ValueError lists the choices."""
    if num_scale not in SCALES:
        raise ValueError(f"num_scale is {num_scale}, expected one of {sorted(SCALES)}")
    return SCALES[num_scale] if use_multi_scale else SCALES[1]


def compute_scores(attention: Tensor) -> Tensor:
    """(B, heads, N) attention -> (B, N) scores with mean 1: each head divided by its maximum."""
    scores = (attention / attention.amax(dim=-1, keepdim=True)).mean(dim=1)
    return scores / scores.sum(dim=-1, keepdim=True) * attention.shape[-1]


def select_patches(
    scores: np.ndarray, enough: float, threshold: float, minimum: float
) -> np.ndarray:
    """(K,) rows of `scores` (N,) above a threshold, ascending; K >= 1.

    The threshold is halved until at least `enough` (and two) patches lie above, but never below
    `minimum`. Where none does (a grid of one patch, say), the best patch is taken.
    """
    while True:
        kept = np.flatnonzero(scores > threshold)
        if len(kept) >= max(enough, 2) or threshold / 2 < minimum:
            break
        threshold /= 2
    return kept if len(kept) else np.array([int(scores.argmax())])


def patch_boxes(rows: np.ndarray, grid_width: int, base: Size, size: Size) -> np.ndarray:
    """(K, 4) int64 (y1, x1, y2, x2) at scale 1 of the patches `rows` (K,) of a grid at `size`."""
    corners = np.stack(np.divmod(rows, grid_width), axis=1) * PATCH
    ratio = np.array([size[0] / base[0], size[1] / base[1]])
    return np.concatenate([corners / ratio, (corners + PATCH) / ratio], axis=1).astype(np.int64)


@dataclass
class _Candidates:
    """Selected patches of one image, scale after scale."""

    boxes: list[np.ndarray]
    scores: list[np.ndarray]
    codes: list[np.ndarray]

    def features(self, settings: LocalSettings) -> LocalFeatures:
        """The best of them after non-maximum suppression, best first."""
        boxes, scores = np.concatenate(self.boxes), np.concatenate(self.scores)
        kept = suppress(boxes, scores, settings.overlap, settings.num_points + SURPLUS)
        kept = kept[: settings.num_points]
        corners = boxes[kept]
        locations = (corners[:, :2] + corners[:, 2:]) // 2
        return LocalFeatures(np.concatenate(self.codes)[kept], locations)


@torch.inference_mode()
def extract_local(model: Model, images: Tensor, settings: LocalSettings) -> list[LocalFeatures]:
    """Features of `images` (B, 3, H, W), normalised and at their base size (multiples of 16).

    `model(images)` gives "ae_attn" (B, heads, N) and "code" (B, N, D) of the patch grid, row by
    row. ValueError for attention that is not finite.
    """
    base = images.shape[-2], images.shape[-1]
    found = [_Candidates([], [], []) for _ in images]
    for scale in settings.scales:
        size = scaled_size(base, scale)
        resized = images
        if size != base:
            resized = functional.interpolate(
                images, size=size, mode="bilinear", align_corners=False
            )
        output = model(resized)
        scores = compute_scores(output["ae_attn"].float()).cpu().numpy()
        codes = functional.normalize(output["code"].float(), dim=-1, eps=1e-12).cpu().numpy()
        _require_finite(scores)
        grid_width = size[1] // PATCH
        enough = settings.max_keypoint * (size[0] / base[0]) * (size[1] / base[1])
        for candidates, score, code in zip(found, scores, codes, strict=True):
            rows = select_patches(
                score, enough, settings.attn_threshold, settings.min_attn_threshold
            )
            candidates.boxes.append(patch_boxes(rows, grid_width, base, size))
            candidates.scores.append(score[rows])
            candidates.codes.append(code[rows])
    return [candidates.features(settings) for candidates in found]


def _require_finite(scores: np.ndarray) -> None:
    bad = ~np.isfinite(scores).all(axis=1)
    if bad.any():
        raise ValueError(
            f"the attention of {bad.sum()} of {len(scores)} images is not finite: damaged weights, "
            "or amp=True with weights that need float32"
        )


def join_scales(scales: Sequence[float]) -> str:
    """As records and protocols name them."""
    return ",".join(f"{scale:g}" for scale in scales)
