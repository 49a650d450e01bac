"""Solutions and predictions of Google Landmarks v2 (CSV files), as its metrics take them."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from utils.paths import require_file
from utils.text_files import read_csv

USAGES = ("Public", "Private", "Ignored")
RECOGNITION, RETRIEVAL = "recognition", "retrieval"

T = TypeVar("T")


class Solution(NamedTuple):
    """Ground truth of both parts; what belongs to neither."""

    public: dict[str, list]  # image id -> landmark ids (int), or index image ids (str)
    private: dict[str, list]
    ignored: frozenset[str]


class Prediction(NamedTuple):
    """Answer of recognition for one image."""

    landmark: int
    score: float


def _parse_landmarks(text: str) -> list[int]:
    return [int(part) for part in text.split()]


def _parse_images(text: str) -> list[str]:
    # an empty list is one empty name, as the published reader has it: such a query scores 0
    return text.split(" ")


def _parse_prediction(text: str) -> Prediction:
    landmark, score = text.split()  # ValueError unless there are two parts
    if not math.isfinite(float(score)):
        raise ValueError("the score has no place in an order")
    return Prediction(int(landmark), float(score))


def _parse_ranking(text: str) -> list[str]:
    return text.rstrip(" ").split(" ")


# task -> second column of its files, parser of a solution, parser of a prediction
TASKS: dict[str, tuple[str, Callable[[str], list], Callable[[str], Any]]] = {
    RECOGNITION: ("landmarks", _parse_landmarks, _parse_prediction),
    RETRIEVAL: ("images", _parse_images, _parse_ranking),
}


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(where, cells) of every row that is not blank; ValueError for another header or width."""
    rows = read_csv(path, "get or write the file again")
    _, header = next(rows, (1, None))
    if header != columns:
        raise ValueError(f"{path}: columns are {header}, expected {columns}")
    for line, cells in rows:
        where = f"{path}, line {line}"
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise ValueError(f"{where}: {len(cells)} cells, expected {len(columns)}")
        yield where, cells


def _parse(parse: Callable[[str], T], text: str, where: str, form: str) -> T:
    try:
        return parse(text)
    except ValueError:
        raise ValueError(f"{where}: {text[:200]!r} is not of the form {form}") from None


def read_solution(path: str | Path, task: str) -> Solution:
    """The solution file of a task, `recognition` or `retrieval`.

    ValueError, naming the line, for a repeated id, an unknown Usage or malformed cells.
    """
    path = require_file(path, "delg_training/download_dataset.sh fetches the solutions")
    column, parse, _ = _task(task)
    parts: dict[str, dict[str, list]] = {usage: {} for usage in USAGES}
    for where, (image, text, usage) in _rows(path, ["id", column, "Usage"]):
        if any(image in part for part in parts.values()):
            raise ValueError(f"{where}: {image} stands there twice")
        if usage not in parts:
            raise ValueError(f"{where}: Usage is {usage!r}, expected one of {', '.join(USAGES)}")
        parts[usage][image] = _parse(parse, text, where, f"'{column} separated by blanks'")
    public, private, ignored = parts.values()
    return Solution(public, private, frozenset(ignored))


def read_predictions(
    path: str | Path, solution: Solution, task: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Predictions for the public and the private part: id -> `Prediction`, or ids by rank.

    Blank rows, empty predictions and ignored images are skipped. ValueError, naming the line, for
    an id that is repeated or not in the solution, and for malformed cells.
    """
    path = require_file(path, "write the predictions in the form of the challenge first")
    column, _, parse = _task(task)
    form = "'<landmark> <score>'" if task == RECOGNITION else "'<id> <id> ...'"
    public: dict[str, Any] = {}
    private: dict[str, Any] = {}
    for where, (image, text) in _rows(path, ["id", column]):
        if not text.strip() or image in solution.ignored:
            continue
        if image not in solution.public and image not in solution.private:
            raise ValueError(f"{where}: {image} is not in the solution")
        part = public if image in solution.public else private
        if image in part:
            raise ValueError(f"{where}: {image} stands there twice")
        part[image] = _parse(parse, text, where, form)
    return public, private


def _task(name: str) -> tuple[str, Callable[[str], list], Callable[[str], Any]]:
    if name not in TASKS:
        raise ValueError(f"task is {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]
