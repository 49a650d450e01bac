"""Miniature data folders, built on the fly: those of the reference answers and random ones."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden_recipe import array
from utils.descriptors import LocalFeatures, write_global, write_local

# reciprocals of the extraction pyramid in float32, as the extractor writes them
PYRAMID = np.array([0.25, 0.35355338, 0.5, 0.70710677, 1, 1.4142135, 2], dtype=np.float32)
SCALES = np.float32(1) / PYRAMID
KINDS = ("easy", "hard", "junk")


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The integers that the manifests make of a named array."""
    return (np.abs(array(name, shape)) * 1000).astype(np.int64)


def golden_features(key: str, n: int, width: int = 128, best_first: bool = True) -> LocalFeatures:
    """Local features as the manifests describe them."""
    strength = 100 * np.abs(array(f"{key}/att", (n,)))
    return LocalFeatures(
        locations=300 * np.abs(array(f"{key}/loc", (n, 2))),
        scales=SCALES[drawn(f"{key}/scales", (n,)) % 7],
        descriptors=array(f"{key}/desc", (n, width)),
        attention=-np.sort(-strength) if best_first else strength,
        orientations=np.zeros(n, dtype=np.float32),
    )


def golden_ground_truth(case: str, n_query: int, n_gallery: int) -> dict[str, Any]:
    """Lists by `array('<case>/gt<i>') mod 6`: 0 easy, 1 hard, 2 junk."""
    gnd = []
    for i in range(n_query):
        kind = drawn(f"{case}/gt{i}", (n_gallery,)) % 6
        lists = {name: np.flatnonzero(kind == k).tolist() for k, name in enumerate(KINDS)}
        gnd.append({"bbx": [0.0, 0.0, 639.0, 479.0], **lists})
    return {
        "imlist": [f"g{j:03d}" for j in range(n_gallery)],
        "qimlist": [f"q{i:03d}" for i in range(n_query)],
        "gnd": gnd,
    }


def write_golden_folder(folder: Path, case: str, entry: dict[str, Any], feat: str = "feat") -> None:
    """The data folder of one case of `folder_manifest.json`."""
    gnd = golden_ground_truth(case, entry["n_query"], entry["n_gallery"])
    vectors = {
        stem: array(f"{case}/{stem}/global", (entry["dim"],))
        for stem in gnd["qimlist"] + gnd["imlist"]
    }
    for query, lists in zip(gnd["qimlist"], gnd["gnd"], strict=True):
        for kind, amount in entry["planted"].items():
            for j in lists[kind]:
                vectors[f"g{j:03d}"] = vectors[f"g{j:03d}"] + np.float32(amount) * vectors[query]
    descriptors = folder / f"delg_{feat}"
    descriptors.mkdir(parents=True)
    for stem, vector in vectors.items():
        write_global(descriptors / f"{stem}.delg_global", vector)
        if "max_features" in entry:
            key = f"{case}/{stem}"
            n = int(drawn(f"{key}/n", (1,))[0]) % entry["max_features"] + 1
            write_local(descriptors / f"{stem}.delg_local", golden_features(key, n))
    (folder / "gnd.pkl").write_bytes(pickle.dumps(gnd, protocol=3))
    for txt, names in (("test_query.txt", gnd["qimlist"]), ("test_gallery.txt", gnd["imlist"])):
        lines = [f"jpg/{stem}.jpg,{i % 4},640,480" for i, stem in enumerate(names)]
        (folder / txt).write_text("\n".join(lines))


def write_random_set(
    folder: Path,
    labels: np.ndarray,
    prefix: str,
    txt: str,
    dims: tuple[int, int] = (24, 16),
    max_features: int = 9,
    feat: str = "feat",
    seed: int = 0,
) -> list[str]:
    """Images whose descriptors share a pattern with their label; returns their stems.

    `dims`: widths of the global and the local descriptors.
    """
    rng = np.random.default_rng(seed)
    global_of = np.random.default_rng(1).standard_normal((labels.max() + 1, dims[0]))
    local_of = np.random.default_rng(2).standard_normal((labels.max() + 1, max_features, dims[1]))
    descriptors = folder / f"delg_{feat}"
    descriptors.mkdir(parents=True, exist_ok=True)
    stems = [f"{prefix}{i:03d}" for i in range(len(labels))]
    for stem, label in zip(stems, labels, strict=True):
        vector = global_of[label] + 0.7 * rng.standard_normal(dims[0])
        write_global(descriptors / f"{stem}.delg_global", vector.astype(np.float32))
        n = int(rng.integers(1, max_features + 1))
        local = local_of[label, :n] + 0.3 * rng.standard_normal((n, dims[1]))
        features = LocalFeatures(
            locations=rng.uniform(0, 300, (n, 2)),
            scales=SCALES[rng.integers(0, 7, n)],
            descriptors=local,
            attention=-np.sort(-rng.uniform(0, 100, n)),
            orientations=np.zeros(n),
        )
        write_local(descriptors / f"{stem}.delg_local", features)
    lines = [f"jpg/{s}.jpg,{label},640,480" for s, label in zip(stems, labels, strict=True)]
    (folder / txt).write_text("\n".join(lines))
    return stems


def write_random_test_folder(folder: Path, n_query: int = 4, n_gallery: int = 24) -> None:
    """Queries and gallery of four labels, with a ground truth that follows the labels."""
    query_labels, gallery_labels = np.arange(n_query) % 4, np.arange(n_gallery) % 4
    queries = write_random_set(folder, query_labels, "q", "test_query.txt", seed=3)
    gallery = write_random_set(folder, gallery_labels, "g", "test_gallery.txt", seed=4)
    gnd = []
    for label in query_labels:
        same = np.flatnonzero(gallery_labels == label).tolist()
        gnd.append({"bbx": [0, 0, 639, 479], "easy": same[::3], "hard": same[1::3],
                    "junk": same[2::3]})  # fmt: skip
    truth = {"imlist": gallery, "qimlist": queries, "gnd": gnd}
    (folder / "gnd.pkl").write_bytes(pickle.dumps(truth, protocol=3))


def write_random_train_folder(folder: Path, n: int = 64, n_labels: int = 8) -> None:
    """Training images, eight to a label by default."""
    write_random_set(folder, np.arange(n) % n_labels, "t", "train.txt", seed=5)
