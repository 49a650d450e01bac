"""Pictures of the matches of a pair, drawn onto the images that the features were taken from."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from utils.paths import atomic_path
from utils.report_images import draw_matches
from vitgal.datasets.revisited_images import Photograph, crop, load_rgb, local_size
from vitgal.datasets.revisited_lists import TestImages
from vitgal.datasets.transforms import normalise, resize
from vitgal.geometric_verification import Matches, Verification, find_inliers, match
from vitgal.local_features import LocalSettings, Model, extract_local
from vitgal.stores import LocalFeatures

logger = logging.getLogger(__name__)

MAX_IMAGES = 75  # hard images that a query is compared with


class Pair(NamedTuple):
    """Matches of two images, which of them agree with one homography, and the picture."""

    matches: Matches
    inliers: np.ndarray  # (M,) bool
    picture: np.ndarray  # (H, W, 3) uint8, RGB


def load_resized(photograph: Photograph, image_size: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB, cropped, at the base size of local extraction; errors name the file."""
    image = load_rgb(photograph.path)
    try:
        if photograph.box is not None:
            image = np.ascontiguousarray(crop(image, photograph.box))
        height, width = local_size(image.shape[0], image.shape[1], image_size)
        return resize(image, height, width)
    except ValueError as error:
        raise ValueError(f"{photograph.path}: {error}") from error


def describe(
    model: Model, image: np.ndarray, settings: LocalSettings, device: torch.device
) -> LocalFeatures:
    """Local features of an image at its base size."""
    batch = torch.from_numpy(normalise(image))[None].to(device)
    return extract_local(model, batch, settings)[0]


def draw_pair(
    images: Sequence[np.ndarray], features: Sequence[LocalFeatures], settings: Verification
) -> Pair:
    """Verify a pair (query first) and draw lines between its inliers only.

    `images`: both at the size that the locations of `features` refer to. The brighter a line, the
    more similar its ends.
    """
    matches = match(features[0].descriptors, features[1].descriptors, settings)
    inliers = find_inliers(features[0], features[1], matches, settings)
    rows = matches.query_index[inliers], matches.db_index[inliers]
    a, b = (part.locations[row][:, ::-1] for part, row in zip(features, rows, strict=True))
    picture = draw_matches(images[0], images[1], a, b, -matches.distance[inliers])
    return Pair(matches, inliers, picture)


def save_picture(path: Path, picture: np.ndarray) -> Path:
    """Write (H, W, 3) uint8 RGB as a JPEG; the folder is made. Returns the path."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not ok:
        raise ValueError(f"{path}: OpenCV cannot encode a picture of shape {picture.shape}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
    return path


def pair_of_files(
    query_image: str | None, gallery_image: str | None
) -> tuple[Photograph, list[Photograph]] | None:
    """The user's own two photographs; None when neither is given, ValueError for one alone."""
    if query_image is None and gallery_image is None:
        return None
    if query_image is None or gallery_image is None:
        raise ValueError("give both query_image and gallery_image, or neither and quer_idx")
    return Photograph(Path(query_image)), [Photograph(Path(gallery_image))]


def choose_images(test: TestImages, quer_idx: int) -> tuple[Photograph, list[Photograph]]:
    """A query of the set, cropped to its box, and up to 75 of its hard images."""
    if not 0 <= quer_idx < len(test.queries):
        raise ValueError(f"quer_idx is {quer_idx}, expected 0 to {len(test.queries) - 1}")
    query = Photograph(
        test.data_path / test.queries[quer_idx], tuple(test.boxes[quer_idx].tolist())
    )
    hard = test.ground_truth.gnd[quer_idx]["hard"][:MAX_IMAGES]
    if not hard:
        raise ValueError(f"query {quer_idx} ({test.queries[quer_idx]}) has no hard image")
    return query, [Photograph(test.database_path(int(i))) for i in hard]


def draw_all(
    model: nn.Module,
    query: Photograph,
    others: Sequence[Photograph],
    image_size: int,
    settings: LocalSettings,
    verification: Verification,
    device: torch.device,
    output_dir: Path,
) -> list[int]:
    """Draw the query with each of the others as save_match_<i>.jpg; returns the inliers of each."""
    model = model.to(device).eval()
    image = load_resized(query, image_size)
    features = describe(model, image, settings, device)
    counts = []
    for i, photograph in enumerate(tqdm(others, desc="pairs", unit="pair")):
        other = load_resized(photograph, image_size)
        pair = draw_pair(
            (image, other), (features, describe(model, other, settings, device)), verification
        )
        path = save_picture(output_dir / f"save_match_{i}.jpg", pair.picture)
        counts.append(int(pair.inliers.sum()))
        logger.info(
            "%s: %s, %d matches, %d inliers", path, photograph.path, len(pair.inliers), counts[-1]
        )
    return counts
