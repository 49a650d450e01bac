"""Pairs of feature sets of the reference answers."""

from typing import Any

import numpy as np

from tests.golden_recipe import array, load_manifest
from vitgal.stores import LocalFeatures

SYSTEM, PREFIX, FILE = "vitgal", "vitgal/match", "matching.npz"
CASES = load_manifest(SYSTEM)["files"][FILE]["cases"]
WIDTH = 128


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Norms in float64, result float32."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / norms).astype(np.float32)


def golden_pair(case: str) -> tuple[LocalFeatures, LocalFeatures]:
    """Query and image of a case: a planted homography and descriptors that are partly the same."""
    entry: dict[str, Any] = CASES[case]
    sizes = {"q": entry["n_query"], "d": entry["n_db"]}
    n_true, n_same = entry["n_true"], entry["n_same_desc"]

    def numbers(name: str, *shape: int) -> np.ndarray:
        return array(f"{PREFIX}/{case}/{name}", shape)

    points = {
        side: np.floor(np.clip(256 + 110 * numbers(f"{side}_xy", n, 2).astype(np.float64), 0, 511))
        for side, n in sizes.items()
    }
    mapped = np.c_[points["q"][:n_true], np.ones(n_true)] @ np.array(entry["H"], np.float64).T
    noise = entry["noise_px"] * numbers("noise", n_true, 2).astype(np.float64)
    points["d"][:n_true] = np.rint(mapped[:, :2] / mapped[:, 2:] + noise)
    image = numbers("desc", sizes["d"], WIDTH)
    query = numbers("q_desc", sizes["q"], WIDTH)
    query[:n_same] = image[:n_same] + np.float32(entry["desc_noise"]) * query[:n_same]
    yx = {side: xy[:, ::-1].astype(np.int64) for side, xy in points.items()}
    return LocalFeatures(unit_rows(query), yx["q"]), LocalFeatures(unit_rows(image), yx["d"])
