"""A test set of a few textured pictures and a tiny network with random weights, as files."""

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from tests.golden_recipe import array
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.xcit import XCiTSizes

FOLDER, GND = "tiny", "gnd_tiny.pkl"
MODEL: dict[str, Any] = {"name": "tiny", "embed_dim": 48, "depth": 1, "num_heads": 4}
SHAPES = ((70, 90), (90, 70), (70, 90), (80, 80), (70, 90), (60, 100))  # of the gallery
DISTRACTORS = 5
BOX = [4.7, 3.2, 60.9, 50.1]


def texture(name: str, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 with structure at several scales."""
    image = np.zeros((height, width, 3), np.float32)
    for cells in (3, 7, 15):
        noise = array(f"vitgal/tiny/{name}/{cells}", (cells, cells, 3))
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 50 * image, 0, 255).astype(np.uint8)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def write_tiny_set(root: Path) -> Path:
    """`root`/tiny with 2 queries, 6 gallery images and ground truth, and `root`/r1m; returns root.

    Query q is a shifted cut of gallery image q (easy) and, darker, of q + 2 (hard).
    """
    for i, (height, width) in enumerate(SHAPES):
        write(root / FOLDER / f"jpg/d{i}.jpg", texture(str(i % 2), height, width))
    for q in range(2):
        write(root / FOLDER / f"jpg/q{q}.jpg", np.roll(texture(str(q), 70, 90), 5, axis=1))
    for i in range(DISTRACTORS):
        write(root / f"r1m/{i % 2}/x{i}.jpg", texture(f"x{i}", 64, 64))
    gnd = [{"bbx": BOX, "easy": [q], "hard": [q + 2], "junk": [q + 4]} for q in range(2)]
    content = {
        "imlist": [f"d{i}" for i in range(len(SHAPES))], "qimlist": ["q0", "q1"], "gnd": gnd,
    }  # fmt: skip
    (root / FOLDER / GND).write_bytes(pickle.dumps(content))
    return root


def write_weights(path: Path, depth: int = 1, seed: int = 0) -> Path:
    """An autoencoder file as training writes it."""
    torch.manual_seed(seed)
    model = Autoencoder(XCiTSizes(48, depth, 4, 1.0, 0.0, 0.0))
    torch.save({"model": model.state_dict()}, path)
    return path


def dataset(root: Path, **changes: Any) -> dict[str, Any]:
    """Options of the ingredient."""
    return {
        "name": "tiny", "data_path": str(root), "folder": FOLDER, "gnd": GND, "imsize": 64,
        "num_workers": 0, "batch_size": 4, **changes,
    }  # fmt: skip
