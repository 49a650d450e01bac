"""Metrics of Google Landmarks v2: GAP and Top-1 of recognition, mAP@100 and others of retrieval."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from delg_training.gldv2_files import RECOGNITION, Prediction, Solution
from utils.results import Row

MAX_RANK = 100  # positions of a retrieval that count
TABLED_KS = (1, 5, 10, 50, 100)  # of P@k


class FirstHit(NamedTuple):
    """Position of the first correct image (1 = first), 101 where there is none among the 100."""

    mean: float
    median: float


def _require_known(predictions: Mapping[str, object], solution: Mapping[str, object]) -> None:
    unknown = [image for image in predictions if image not in solution]
    if unknown:
        raise ValueError(f"{len(unknown)} predictions are not in the solution, e.g. {unknown[0]!r}")
    if not solution:
        raise ValueError("the solution is empty: nothing can be measured")


def compute_gap(
    predictions: Mapping[str, Prediction],
    solution: Mapping[str, Sequence[int]],
    ignore_non_landmarks: bool = False,
) -> float:
    """Global average precision (micro AP) of one prediction per image, a fraction.

    (1 / M) sum over correct predictions of (correct so far / rank), by descending score; M images
    of the solution have a landmark. Ties go by image id, then landmark. A prediction for an image
    without landmark is wrong, or left out (`ignore_non_landmarks`).
    """
    _require_known(predictions, solution)
    kept = [
        (-prediction.score, image, prediction.landmark)
        for image, prediction in predictions.items()
        if solution[image] or not ignore_non_landmarks
    ]
    correct = np.array([landmark in solution[image] for _, image, landmark in sorted(kept)], bool)
    precision = np.cumsum(correct) / np.arange(1, len(correct) + 1)
    num_landmark_images = sum(bool(landmarks) for landmarks in solution.values())
    return float(precision[correct].sum() / max(num_landmark_images, 1))


def compute_top1(
    predictions: Mapping[str, Prediction], solution: Mapping[str, Sequence[int]]
) -> float:
    """Share of the images with a landmark whose prediction is right; without one it is wrong."""
    _require_known(predictions, solution)
    truths = {image: landmarks for image, landmarks in solution.items() if landmarks}
    correct = sum(
        image in predictions and predictions[image].landmark in landmarks
        for image, landmarks in truths.items()
    )
    return correct / max(len(truths), 1)


def find_hits(
    predictions: Mapping[str, Sequence[str]],
    solution: Mapping[str, Sequence[str]],
    max_rank: int = MAX_RANK,
) -> np.ndarray:
    """(Q, max_rank) bool: a correct image stands at this rank, for the first time.

    Rows in the order of the solution; a query without predictions has none. Repeated ids keep their
    rank. ValueError for a query that the solution lacks.
    """
    _require_known(predictions, solution)
    hits = np.zeros((len(solution), max_rank), bool)
    for row, (query, truth) in zip(hits, solution.items(), strict=True):
        ranking = list(predictions.get(query, ())[:max_rank])
        wanted = set(truth)
        found = [image in wanted for image in ranking]
        if sum(found) > 1:  # an image counts where it stands first
            firsts = {image: rank for rank, image in reversed(list(enumerate(ranking)))}
            found = [hit and firsts[image] == rank for rank, (hit, image) in
                     enumerate(zip(found, ranking, strict=True))]  # fmt: skip
        row[: len(found)] = found
    return hits


def compute_map(hits: np.ndarray, num_correct: Sequence[int]) -> float:
    """mAP over the ranks of `hits` (Q, K): each AP divides by min(number of correct images, K)."""
    ranks = np.arange(1, hits.shape[1] + 1)
    precisions = np.cumsum(hits, axis=1) / ranks
    divisors = np.clip(num_correct, 1, hits.shape[1])
    return float(((precisions * hits).sum(axis=1) / divisors).mean())


def compute_precisions(hits: np.ndarray) -> np.ndarray:
    """(K,) mean P@k for k = 1 to K; beyond the end of a list nothing is correct."""
    return (np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)).mean(axis=0)


def compute_first_hit(hits: np.ndarray) -> FirstHit:
    """Mean and median position of the first correct image."""
    positions = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, hits.shape[1] + 1)
    return FirstHit(float(positions.mean()), float(np.median(positions)))


def measure_recognition(
    predictions: Mapping[str, Prediction], solution: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """GAP, GAP without images that show no landmark, Top-1: percent."""
    return {
        "GAP": 100 * compute_gap(predictions, solution),
        "GAP_without_non_landmarks": 100 * compute_gap(predictions, solution, True),
        "Top1": 100 * compute_top1(predictions, solution),
    }


def measure_retrieval(
    predictions: Mapping[str, Sequence[str]], solution: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """mAP@100 and P@k, percent; mean and median position of the first correct image."""
    hits = find_hits(predictions, solution)
    precisions = compute_precisions(hits)
    first = compute_first_hit(hits)
    return {
        f"mAP@{MAX_RANK}": 100 * compute_map(hits, [len(truth) for truth in solution.values()]),
        **{f"P@{k}": 100 * float(precisions[k - 1]) for k in TABLED_KS},
        "mean_position": first.mean,
        "median_position": first.median,
    }


def measure_parts(
    task: str, predictions: tuple[dict[str, Any], dict[str, Any]], solution: Solution
) -> list[Row]:
    """Rows of the public part, then the private one; a part without images has none."""
    rows = []
    for name, part, truth in zip(("Public", "Private"), predictions, solution[:2], strict=True):
        if truth:
            measured = (measure_recognition if task == RECOGNITION else measure_retrieval)(
                part, truth
            )
            note = f"{task}, {len(truth)} images, {len(part)} with predictions"
            rows += [
                Row(f"{name}_{key}", round(v, 2), protocol=note) for key, v in measured.items()
            ]
    return rows
