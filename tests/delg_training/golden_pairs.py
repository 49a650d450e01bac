"""Pairs of feature sets of the reference answers; needs no TensorFlow."""

from typing import Any

import numpy as np

from delg_training.geometric_verification import Verification
from tests.golden_recipe import array, load_manifest
from utils.descriptors import LocalFeatures

SYSTEM, PREFIX, WIDTH = "delg", "golden", 40
SIDE, NOISE = 500, 0.1  # spread of the locations, noise of planted descriptors
MISC = load_manifest(SYSTEM, "misc.json")
CASES = {case["name"]: case for case in MISC["matching"]}
TRUE_MAP = np.array([[0.9, 0.2], [-0.15, 1.1]])
TRUE_SHIFT = np.array([30.0, -20.0])


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def settings_of(case: dict[str, Any], **options: Any) -> Verification:
    return Verification(
        case["descriptor_matching_threshold"],
        case["residual_threshold"],
        case["use_ratio_test"],
        **options,
    )


def golden_pair(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Query and index image: float64 `locations` and `descriptors`, a planted affine map."""
    case = CASES[name]
    sizes, planted = {"q": case["n_query"], "i": case["n_index"]}, case["planted"]

    def numbers(part: str, *shape: int) -> np.ndarray:
        return array(f"{PREFIX}/{name}/{part}", shape).astype(np.float64)

    locations = {side: SIDE * np.abs(numbers(f"{side}l", n, 2)) for side, n in sizes.items()}
    descriptors = {"q": numbers("qd", sizes["q"], WIDTH), "i": numbers("id", sizes["i"], WIDTH)}
    mapped = locations["q"][:planted] @ TRUE_MAP.T + TRUE_SHIFT
    locations["i"][:planted] = mapped + numbers("noise", planted, 2)
    noise = NOISE * numbers("dn", planted, WIDTH)
    descriptors["i"][:planted] = descriptors["q"][:planted] + noise
    query, index = (
        {"locations": locations[side], "descriptors": unit_rows(descriptors[side])}
        for side in ("q", "i")
    )
    return query, index


def to_features(side: dict[str, np.ndarray]) -> LocalFeatures:
    """As a file would give them, float32."""
    n = len(side["locations"])
    return LocalFeatures(side["locations"], np.ones(n), side["descriptors"], np.ones(n))


def random_pair(n: int, planted: int, seed: int = 0) -> tuple[LocalFeatures, LocalFeatures]:
    """Two images of which the first `planted` features show the same under TRUE_MAP."""
    rng = np.random.default_rng(seed)
    query = {
        "locations": rng.uniform(0, SIDE, (n, 2)),
        "descriptors": unit_rows(rng.standard_normal((n, WIDTH))),
    }
    index = {
        "locations": rng.uniform(0, SIDE, (n, 2)),
        "descriptors": unit_rows(rng.standard_normal((n, WIDTH))),
    }
    index["locations"][:planted] = query["locations"][:planted] @ TRUE_MAP.T + TRUE_SHIFT
    index["descriptors"][:planted] = query["descriptors"][:planted]
    return to_features(query), to_features(index)
