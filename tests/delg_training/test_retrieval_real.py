"""Retrieval and re-ranking of real photographs, described by SIFT: 4 queries, 9 index images."""

import json

import numpy as np
import pytest

from delg_training.geometric_verification import Verification
from delg_training.retrieval import (
    VERIFIED_PROTOCOLS,
    FeatureFolders,
    compute_similarities,
    measure,
    rank,
    rank_after_verification,
)
from utils.descriptors import LocalFeatures, write_global, write_local
from utils.revisited import load_ground_truth

pytestmark = pytest.mark.data
FOLDER, GLOBAL = "real/landmarks", "vlad"
LETTERS = {"medium": "M", "hard": "H"}
KS = (1, 5)
SETTINGS = {  # affine maps of a facade in perspective: a wide threshold
    "ransac": Verification(0.85, 20.0, use_ratio_test=True),
    "opencv": Verification(0.85, 20.0, use_ratio_test=True, estimator="opencv"),
}


@pytest.fixture
def folder(reference_data, tmp_path):
    """The stored descriptors as files of features."""
    with np.load(reference_data / FOLDER / "features.npz") as file:
        data = dict(file)
    for i, name in enumerate(data["names"]):
        n = int(data["local_count"][i])
        sift = data["local_desc_u8"][i, :n].astype(np.float32)
        rooted = np.sqrt(sift / np.maximum(sift.sum(axis=1, keepdims=True), 1))
        locations = data["local_xy"][i, :n, ::-1]
        scores = data["local_score"][i, :n]
        stem = str(name).removesuffix(".jpg")
        write_local(
            tmp_path / f"{stem}.delg_local", LocalFeatures(locations, np.ones(n), rooted, scores)
        )
        write_global(tmp_path / f"{stem}.delg_global", data[GLOBAL][i])
    return tmp_path


@pytest.mark.parametrize("estimator", SETTINGS)
def test_real_photographs(reference_data, folder, estimator):
    """Global metrics are the recorded ones; verification finds nearly all hard images."""
    gnd = load_ground_truth(reference_data / FOLDER / "gnd_mini.pkl")
    expected = json.loads((reference_data / FOLDER / "expected.json").read_text())[GLOBAL]
    folders = FeatureFolders(folder, folder)
    similarities = compute_similarities(folders, gnd, False)
    np.testing.assert_array_equal(rank(similarities), expected["ranks"])
    before = measure(dict.fromkeys(VERIFIED_PROTOCOLS, rank(similarities)), gnd, KS)
    for protocol, letter in LETTERS.items():
        assert before[protocol]["map"] == pytest.approx(expected[letter]["mAP"], abs=1e-9)
        wanted = [expected[letter]["mP"][str(k)] for k in KS]
        np.testing.assert_allclose(before[protocol]["mp"], wanted)
    table = folder / "inliers.npz"
    lists = rank_after_verification(
        similarities, gnd, folders, SETTINGS[estimator], table, num_processes=1, progress=False
    )
    after = measure(lists, gnd, KS)
    assert after["medium"]["map"] > 0.97
    assert after["hard"]["map"] > 0.9
