"""Small sets of features on disk in the layout of Revisited Oxford; needs no TensorFlow."""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from delg_training.pair_scoring import LocalFiles
from tests.delg_training.golden_pairs import random_pair
from utils.descriptors import write_global, write_local
from utils.revisited import GroundTruth, load_ground_truth

NUM_QUERIES, NUM_GALLERY, WIDTH = 3, 14, 24


class Folder(NamedTuple):
    """Where the set lies."""

    gnd_path: Path
    features: Path

    @property
    def gnd(self) -> GroundTruth:
        return load_ground_truth(self.gnd_path)

    @property
    def local_files(self) -> LocalFiles:
        names = self.gnd
        return LocalFiles(
            [self.features / f"{name}.delg_local" for name in names.qimlist],
            [self.features / f"{name}.delg_local" for name in names.imlist],
        )


def make_gnd() -> dict[str, Any]:
    """Per query four easy, hard or junk images; the rest is negative."""
    gnd = []
    for q in range(NUM_QUERIES):
        images = [4 * q + k for k in range(4)]
        gnd.append(
            {
                "bbx": [0.0, 0.0, 9.0, 9.0],
                "easy": [images[0]],
                "hard": images[1:3],
                "junk": [images[3]],
            }
        )
    return {
        "imlist": [f"i{i}" for i in range(NUM_GALLERY)],
        "qimlist": [f"q{q}" for q in range(NUM_QUERIES)],
        "gnd": gnd,
    }


def make_folder(path: Path) -> Folder:
    """Global descriptors are random; local ones match where an image shows the query's object."""
    rng = np.random.default_rng(0)
    path.mkdir(parents=True, exist_ok=True)
    content = make_gnd()
    gnd_path = path / "gnd_small.pkl"
    gnd_path.write_bytes(pickle.dumps(content))
    for name in (*content["qimlist"], *content["imlist"]):
        write_global(path / f"{name}.delg_global", rng.standard_normal(WIDTH).astype(np.float32))
    for q, entry in enumerate(content["gnd"]):
        images = [*entry["easy"], *entry["hard"], *entry["junk"]]
        for k, image in enumerate(images):
            query, shown = random_pair(40, 25 - 5 * k, seed=q)
            write_local(path / f"q{q}.delg_local", query)
            write_local(path / f"i{image}.delg_local", shown)
    for image in range(4 * NUM_QUERIES, NUM_GALLERY):
        write_local(path / f"i{image}.delg_local", random_pair(30, 0, seed=100 + image)[1])
    return Folder(gnd_path, path)
