"""RootSIFT local descriptors and their VLAD global descriptor, in the shapes of DELG.

Descriptors without any learned weights but a codebook of 16 words: 128-d RootSIFT (Arandjelovic
and Zisserman, CVPR'12) and a 16 x 128 = 2048-d VLAD with intra-normalisation (Arandjelovic and
Zisserman, CVPR'13). They stand in for DELG's where no network is at hand.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils.array_files import load_arrays, take_arrays
from utils.descriptors import LocalFeatures

WORDS = 16
# what DELG writes: reciprocals of its image pyramid, half an octave apart
PYRAMID_SCALES = np.array([0.5, 0.70710677, 1.0, 1.4142135, 2.0, 2.828427, 4.0], np.float32)
SMALLEST_KEYPOINT = 2.0  # diameter in pixels of OpenCV's finest SIFT level
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


class Codebook(NamedTuple):
    """`centres` (16, 128): the words of the VLAD; `mean` (128,): of all RootSIFT descriptors."""

    centres: np.ndarray
    mean: np.ndarray


def as_box(bbx: Sequence[float]) -> Box:
    """`bbx` of a ground truth as a box."""
    x1, y1, x2, y2 = bbx
    return float(x1), float(y1), float(x2), float(y2)


def load_codebook(path: Path) -> Codebook:
    """Read a codebook; ValueError when the file is not one."""
    remedy = "it is not a codebook: make it with train_words=True"
    arrays = load_arrays(path, remedy)
    book = Codebook(*take_arrays(path, arrays, {"centres": "f 2", "mean": "f 1"}, remedy))
    if book.centres.shape != (WORDS, 128) or book.mean.shape != (128,):
        raise ValueError(
            f"{path} holds centres {book.centres.shape} and mean {book.mean.shape}, "
            f"expected ({WORDS}, 128) and (128,)"
        )
    return book


def train_codebook(descriptors: np.ndarray, seed: int = 0) -> Codebook:
    """k-means words and mean of RootSIFT `descriptors` (N, 128); ValueError for too few."""
    import faiss  # here: the workers that only extract need not load it

    if len(descriptors) < 39 * WORDS:  # faiss asks for 39 points a word
        raise ValueError(
            f"{len(descriptors)} descriptors are too few for {WORDS} words; add images"
        )
    kmeans = faiss.Kmeans(128, WORDS, niter=30, seed=seed, max_points_per_centroid=1 << 20)
    kmeans.train(np.ascontiguousarray(descriptors, np.float32))
    return Codebook(np.asarray(kmeans.centroids).reshape(WORDS, 128), descriptors.mean(axis=0))


def load_grey(path: Path) -> np.ndarray:
    """(H, W) uint8, upright by its EXIF tag; ValueError when OpenCV cannot read it."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"{path} is not a picture that OpenCV can read; remove or replace it")
    return image


def compute_locals(
    image: np.ndarray, max_features: int, max_image_size: int, box: Box | None = None
) -> LocalFeatures:
    """The strongest RootSIFT features of a grey picture (H, W), best first.

    The picture is shrunk to `max_image_size` on its longer side and then cropped to `box` (given in
    pixels of `image`). Locations are (y, x) in pixels of the cropped, not shrunk picture;
    `scales` are the keypoints' sizes on DELG's seven steps, `attention` their responses,
    `orientations` in radians.
    """
    factor = min(1.0, max_image_size / max(image.shape))
    if factor < 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    if box is not None:
        image = crop(image, tuple(value * factor for value in box))
    sift = cv2.SIFT.create(nfeatures=max_features, contrastThreshold=0.02)
    keypoints, raw = sift.detectAndCompute(image, None)
    if raw is None:  # no keypoint
        return LocalFeatures(
            *(np.zeros(s, np.float32) for s in ((0, 2), (0,), (0, 128), (0,), (0,)))
        )
    response = np.array([k.response for k in keypoints], np.float32)
    best = np.argsort(-response, kind="stable")[:max_features]
    table = np.array([(k.pt[1], k.pt[0], k.size, k.angle) for k in keypoints], np.float32)[best]
    descriptors = raw[best]
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12))
    step = np.rint(2 * np.log2(table[:, 2] / SMALLEST_KEYPOINT)).astype(int)
    return LocalFeatures(
        table[:, :2] / np.float32(factor),
        PYRAMID_SCALES[np.clip(step, 0, len(PYRAMID_SCALES) - 1)],
        root.astype(np.float32),
        response[best],
        np.deg2rad(table[:, 3]),
    )


def crop(image: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """The part of a picture inside a box, clipped to it; ValueError when nothing is left."""
    h, w = image.shape[:2]
    x1, y1, x2, y2 = (round(value) for value in box)
    part = image[max(y1, 0) : max(min(y2, h), 0), max(x1, 0) : max(min(x2, w), 0)]
    if part.size == 0:
        raise ValueError(f"box {box} lies outside the picture of {w} x {h} pixels")
    return part


def compute_vlad(descriptors: np.ndarray, codebook: Codebook) -> np.ndarray:
    """(N, 128) RootSIFT -> (2048,): residual sums per word, each and then all L2-normalised.

    Without descriptors the vector is constant: of unit length like all others, and similar to
    nothing in particular.
    """
    if len(descriptors) == 0:
        return np.full(WORDS * 128, (WORDS * 128) ** -0.5, np.float32)
    distances = (codebook.centres**2).sum(axis=1) - 2 * descriptors @ codebook.centres.T
    member = np.eye(WORDS, dtype=np.float32)[distances.argmin(axis=1)]  # (N, 16)
    sums = member.T @ descriptors - member.sum(axis=0)[:, None] * codebook.centres
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    vlad = sums.ravel()
    return (vlad / max(float(np.linalg.norm(vlad)), 1e-12)).astype(np.float32)
