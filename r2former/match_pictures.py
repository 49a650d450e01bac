"""Pictures of the patches that match in a pair, after the paper's figure.

A line joins two local features that are each other's most similar one; all of them carry much
attention, as the network keeps no others. The 60 most similar pairs are drawn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from r2former.datasets.images import load_image
from r2former.datasets.transforms import make_database_transform
from r2former.models.network import R2Former
from r2former.models.selection import XYA
from utils.paths import atomic_path
from utils.report_images import draw_matches


class PatchMatches(NamedTuple):
    """Mutual nearest neighbours among the local features of two images."""

    query: np.ndarray  # (M, 2) float32 (x, y) in pixels of the resized query
    database: np.ndarray  # (M, 2) of the resized database image
    similarity: np.ndarray  # (M,) cosine, descending


class PairPicture(NamedTuple):
    """A drawn pair."""

    picture: np.ndarray  # (H, W, 3) uint8, RGB
    matches: PatchMatches
    score: float  # of the reranker: difference of its logits


def find_matches(local_query: np.ndarray, local_database: np.ndarray, longer: int) -> PatchMatches:
    """Matches of two sets of local features (K, 131); `longer`: longer side of the images."""
    a, b = (np.asarray(local, np.float32) for local in (local_query, local_database))
    similarity = unit_rows(a[:, XYA:]) @ unit_rows(b[:, XYA:]).T
    best = similarity.argmax(axis=1)
    rows = np.flatnonzero(similarity.argmax(axis=0)[best] == np.arange(len(a)))
    values = similarity[rows, best[rows]]
    order = np.argsort(-values, kind="stable")
    rows = rows[order]
    return PatchMatches(a[rows, :2] * longer, b[best[rows], :2] * longer, values[order])


def unit_rows(features: np.ndarray) -> np.ndarray:
    """(K, D) rows divided by their L2 norms."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


@torch.no_grad()
def draw_pair(net: R2Former, paths: Sequence[str], resize: tuple[int, int]) -> PairPicture:
    """Run the network on two image files, the query first, and draw their matches."""
    transform = make_database_transform(resize)
    device = next(net.parameters()).device
    images = [load_image(path) for path in paths]
    net.eval()
    local = [net(transform(image)[None].to(device))[1] for image in images]
    logits = net.rerank(*local)[0]
    a, b = (part[0].float().cpu().numpy() for part in local)
    matches = find_matches(a, b, max(resize))
    shown = [np.asarray(image.resize(resize[::-1], Image.Resampling.BILINEAR)) for image in images]
    picture = draw_matches(shown[0], shown[1], matches.query, matches.database, matches.similarity)
    return PairPicture(picture, matches, float(logits[1] - logits[0]))


def save_picture(path: Path, picture: np.ndarray) -> Path:
    """Write (H, W, 3) uint8 RGB as a JPEG; the folder is made. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(picture).save(file, format="JPEG", quality=92)
    return path
