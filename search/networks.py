"""Describers that run a network: ViTGaL and R2Former."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from r2former.datasets.images import load_image
from r2former.datasets.transforms import HardResize
from r2former.models.selection import XYA
from search.codec import normalise_rows
from search.photographs import Photograph
from search.store import Described
from search.weights import load_r2former, load_vitgal
from utils.descriptors import LocalFeatures
from utils.paths import require_file
from vitgal.datasets import revisited_images
from vitgal.extraction import input_size
from vitgal.global_features import GlobalSettings, Loading, extract_global
from vitgal.local_features import LocalSettings, extract_local

BATCH = 16  # images that pass the network together
CHUNK = 128  # images whose descriptors are held until the first of them is handed on
IMAGE_SIZE, MINI_IMAGE_SIZE = 512, 256  # side of ViTGaL's images, global and local
PUBLISHED_WIDTH = 384  # of ViTGaL's tokens; the mini network is narrower


def find_device() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def digest_file(path: Path) -> str:
    """By which a store knows its weights."""
    path = require_file(path, "give the path of a checkpoint with --weights")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class VitgalDescriber:
    """ViTGaL: class token of a square image, patches chosen at five scales, aspect kept.

    Sides of 512 pixels, for networks of the mini size of 256, as in the rows of vitgal.
    """

    def __init__(self, weights: Path, max_locals: int, workers: int = 0) -> None:
        digest = digest_file(weights)
        self.device = find_device()
        self.model = load_vitgal(weights).to(self.device)
        self.width = self.model.cls_token.shape[-1]
        self.size = IMAGE_SIZE if self.width >= PUBLISHED_WIDTH else MINI_IMAGE_SIZE
        self.made_from: dict[str, Any] = {
            "descriptor": "vitgal", "weights": digest, "max_locals": max_locals,
            "image_size": self.size,
        }  # fmt: skip
        self.settings = LocalSettings(num_points=max_locals)
        self.loading = Loading(BATCH, workers, self.device)

    def _embed(self, images: Tensor) -> Tensor:
        return self.model.retrieval_back_bone(images)["global"]

    def __call__(self, photographs: Sequence[Photograph]) -> Iterator[Described]:
        for start in range(0, len(photographs), CHUNK):
            part = [
                revisited_images.Photograph(photo.path, _whole_box(photo))
                for photo in photographs[start : start + CHUNK]
            ]
            rows = np.empty((len(part), self.width), np.float32)
            settings = GlobalSettings(self.size)
            extract_global(self._embed, part, rows, settings, self.loading, progress=False)
            found: dict[int, tuple[LocalFeatures, tuple[int, int]]] = {}
            rule = partial(input_size, image_size=self.size, keep_aspect=True)
            pin = self.device.type == "cuda"
            for indices, images in revisited_images.stream_batches(
                part, rule, BATCH, self.loading.num_workers, pin
            ):
                locals_ = extract_local(self.model, images.to(self.device), self.settings)
                frame = (int(images.shape[-2]), int(images.shape[-1]))
                for i, features in zip(indices, locals_, strict=True):
                    found[i] = _without_scores(features.descriptors, features.locations), frame
            for i, row in enumerate(rows):
                yield Described(row, *found[i])

    def mark(self, photographs: Sequence[Photograph]) -> list[Photograph]:
        return list(photographs)


def _without_scores(descriptors: np.ndarray, locations: np.ndarray) -> LocalFeatures:
    """ViTGaL hands on neither scales nor attention, only the order."""
    order = np.linspace(1, 0.5, len(descriptors), dtype=np.float32)
    return LocalFeatures(
        locations.astype(np.float32), np.ones(len(descriptors), np.float32), descriptors, order
    )


def _whole_box(photo: Photograph) -> tuple[int, int, int, int] | None:
    if photo.box is None:
        return None
    x1, y1, x2, y2 = (int(number) for number in photo.box)
    return x1, y1, x2, y2


class R2FormerDescriber:
    """R2Former on the squeezed image; weights without reranking give no local features."""

    def __init__(self, weights: Path, max_locals: int, workers: int = 0) -> None:
        digest = digest_file(weights)
        self.net, self.size, self.has_locals = load_r2former(weights)
        self.device = find_device()
        self.net.to(self.device)
        self.max_locals, self.workers = max_locals, workers
        self.made_from: dict[str, Any] = {
            "descriptor": "r2former", "weights": digest, "max_locals": max_locals,
            "resize": list(self.size),
        }  # fmt: skip

    @torch.inference_mode()
    def __call__(self, photographs: Sequence[Photograph]) -> Iterator[Described]:
        loader = DataLoader(
            _Resized(photographs, HardResize(self.size)),
            BATCH,
            num_workers=min(self.workers, len(photographs) // BATCH),
            generator=torch.Generator(),  # torch's global random stream is left alone
        )
        for images in loader:
            images = images.to(self.device)
            if self.has_locals:
                rows, locals_ = self.net(images)
                parts = zip(_to_numpy(rows), _to_numpy(locals_), strict=True)
                described = [self._describe(row, local) for row, local in parts]
            else:
                nothing = np.zeros((0, XYA), np.float32)
                rows = _to_numpy(self.net.embed_global(images))
                described = [self._describe(row, nothing) for row in rows]
            yield from described

    def _describe(self, row: np.ndarray, local: np.ndarray) -> Described:
        """`local` (K, 3 + D): X, Y (over the longer side), A, descriptor."""
        local = local[: self.max_locals]
        places = local[:, 1::-1] * max(self.size) if len(local) else np.zeros((0, 2), np.float32)
        features = LocalFeatures(
            places, np.ones(len(local), np.float32), normalise_rows(local[:, XYA:]), local[:, 2]
        )
        return Described(row, features, self.size)

    def mark(self, photographs: Sequence[Photograph]) -> list[Photograph]:
        return list(photographs)


def _to_numpy(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


class _Resized(Dataset[Tensor]):
    """Photographs, cropped to their boxes, as inputs of R2Former."""

    def __init__(self, photographs: Sequence[Photograph], transform: HardResize) -> None:
        self.photographs, self.transform = photographs, transform

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, index: int) -> Tensor:
        photo = self.photographs[index]
        # upright, as the other describers see it; the published sets have no such tags
        image: Image.Image = ImageOps.exif_transpose(load_image(str(photo.path)))
        return self.transform(image if photo.box is None else image.crop(_whole_box(photo)))
