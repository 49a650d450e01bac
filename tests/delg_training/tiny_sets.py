"""Small packed sets and networks for tests."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from delg_training.datasets.packing import Listing
from delg_training.datasets.record_writing import write_split
from delg_training.models.delf import Delf
from delg_training.models.delg import ModelOptions, build_model

NUM_CLASSES = 3
TINY = ModelOptions(
    width=2,
    depths=(1, 1, 1, 1),
    local_feature_map_channels=32,
    autoencoder_dimensions=4,
    delg_embedding_layer_dim=8,
)
# the same for sacred
TINY_CONFIG = {
    "delg_global_features": True,
    "width": 2,
    "depths": [1, 1, 1, 1],
    "autoencoder_dimensions": 4,
    "delg_embedding_layer_dim": 8,
}


def tiny_model(seed: int = 0) -> Delf:
    """DELG of two channels."""
    return build_model(TINY, NUM_CLASSES, seed)


def draw_jpegs(folder: Path, count: int, mode: str = "RGB") -> list[str]:
    """Pictures of 40 x 48 pixels, called by 16 hexadecimal digits; the colour tells the label."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 60, (40, 48, 3))
        noise[..., i % 3] += 150
        path = folder / f"{i:016x}.jpg"
        Image.fromarray(noise.astype(np.uint8)).convert(mode).save(path, quality=90)
        paths.append(str(path))
    return paths


def tiny_listing(folder: Path, count: int = 12) -> Listing:
    """Images with the labels 0, 1, 2, 0, 1, ..."""
    paths = draw_jpegs(folder, count)
    return Listing([Path(p).stem for p in paths], paths, [i % NUM_CLASSES for i in range(count)])


def pack_tiny_set(folder: Path, count: int = 12, num_shards: int = 2) -> str:
    """Packs the pictures below `folder`; returns the pattern of the training shards."""
    listing = tiny_listing(folder / "jpg", count)
    write_split(folder / "tfrecord", "train", listing, num_shards)
    write_split(folder / "tfrecord", "validation", listing.take(range(6)), num_shards)
    return str(folder / "tfrecord" / "train*")


def save_ground_truth(folder: Path) -> Path:
    """Of a query p2 with a box, and the index pictures p0 and p1."""
    lists: dict[str, list[int]] = {"easy": [0], "hard": [], "junk": []}
    truth = {
        "imlist": ["p0", "p1"], "qimlist": ["p2"],
        "gnd": [{"bbx": [5.4, 6.0, 60.2, 55.0], **lists}],
    }  # fmt: skip
    path = folder / "gnd_test.pkl"
    path.write_bytes(pickle.dumps(truth))
    return path
