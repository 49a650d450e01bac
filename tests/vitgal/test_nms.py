"""Non-maximum suppression: the reference, and the plain loop over the kept boxes."""

import numpy as np
import pytest

from tests.golden_recipe import array, load_manifest, load_outputs
from vitgal import nms
from vitgal.nms import suppress

SYSTEM, PREFIX, FILE = "vitgal", "vitgal/nms", "nms.npz"
CASES = load_manifest(SYSTEM)["files"][FILE]["cases"]


def plain_loop(
    boxes: np.ndarray, scores: np.ndarray, overlap: float, top_k: int | None = None
) -> list[int]:
    """The definition: best first (the later of two equal ones), everyone against everyone."""
    order = sorted(range(len(boxes)), key=lambda i: (scores[i], i), reverse=True)[:top_k]
    kept: list[int] = []
    for i in order:
        for j in kept:
            height = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
            width = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
            inter = max(int(height), 0) * max(int(width), 0)
            areas = sum(int((b[2] - b[0]) * (b[3] - b[1])) for b in (boxes[i], boxes[j]))
            if inter / (areas - inter) > overlap:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize("case", CASES)
def test_kept_boxes_equal_the_reference(case: str) -> None:
    entry = CASES[case]
    n = entry["n"]
    centre = np.abs(array(f"{PREFIX}/{case}/centre", (n, 2), 60.0)).astype(np.int64)
    half = (8 + np.abs(array(f"{PREFIX}/{case}/half", (n, 2), 6.0))).astype(np.int64)
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    scores = array(f"{PREFIX}/{case}/score", (n,))
    kept = suppress(boxes, scores, entry["overlap"], entry["top_k"])
    assert len(kept) == entry["kept"]
    np.testing.assert_array_equal(kept, load_outputs(SYSTEM, FILE)[f"{case}/keep"])


def random_boxes(rng: np.random.Generator, n: int, extent: int) -> tuple[np.ndarray, np.ndarray]:
    corner = rng.integers(0, extent, (n, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 12, (n, 2))], axis=1)
    return boxes, rng.integers(0, 8, n).astype(np.float32) / 7  # many equal scores


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("max_pairs", [nms.MAX_PAIRS, 0])
def test_equals_the_plain_loop(
    overlap: float, max_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways: by the list of near pairs, and (crowded boxes, more pairs) by all of them."""
    monkeypatch.setattr(nms, "MAX_PAIRS", max_pairs)
    rng = np.random.default_rng(int(100 * overlap))
    for extent in (4, 15, 60):
        boxes, scores = random_boxes(rng, 80, extent)
        for top_k in (None, 30):
            expected = plain_loop(boxes, scores, overlap, top_k)
            assert suppress(boxes, scores, overlap, top_k).tolist() == expected


def test_boxes_with_exactly_the_limit_stay() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 5, 10, 10], [0, 0, 10, 6]])
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    # IoU with the first: 0.5, 0.5 and 0.6
    assert suppress(boxes, scores, 0.5).tolist() == [0, 1, 2]


def test_of_equal_scores_the_later_box_comes_first() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]])
    assert suppress(boxes, np.ones(3), 0.5).tolist() == [2, 1]


def test_no_box_and_one_box() -> None:
    none = np.zeros((0, 4), np.int64)
    assert suppress(none, np.zeros(0), 0.5).tolist() == []
    assert suppress(np.array([[0, 0, 1, 1]]), np.ones(1), 0.5).tolist() == [0]


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        ([[0, 0, 0, 5]], [1.0], "box 0 is"),
        ([[0, 0, 5, 5]], [np.nan], "1 of 1 scores are not finite"),
        ([[0, 0, 5, 5]], [1.0, 2.0], "expected"),
    ],
)
def test_bad_boxes_are_refused(boxes: list, scores: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suppress(np.array(boxes), np.array(scores), 0.5)
