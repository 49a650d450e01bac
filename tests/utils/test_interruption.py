"""What a checkpoint says of a run is checked before the run goes on with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.interruption import naming_damage, restore_progress, split_batches


@dataclass
class Progress:
    step: int = 0
    best: float = -1.0
    evaluated: bool = False
    metrics: dict[str, float] = field(default_factory=dict)


GOOD: dict[str, Any] = {"step": 3, "best": 50, "evaluated": True, "metrics": {"R@1": 1.0}}


def test_progress_takes_what_fits() -> None:
    progress = Progress()
    restore_progress(progress, GOOD)
    assert vars(progress) == GOOD


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 1.5}, {"step": "3"}, {"step": -2}, {"step": True}, {"best": None}, {"best": True},
        {"evaluated": 1}, {"metrics": [1]}, {"more": 1},
    ],
)  # fmt: skip
def test_progress_of_other_names_and_types_is_refused_as_a_whole(changes: dict[str, Any]) -> None:
    progress = Progress()
    with pytest.raises(ValueError, match="progress has"):
        restore_progress(progress, {**GOOD, **changes})
    with pytest.raises(ValueError, match="expected"):
        restore_progress(progress, {"step": 1})
    assert progress == Progress()


def test_batches_sum_up_to_what_was_drawn() -> None:
    rows = np.arange(10).reshape(5, 2)
    assert [len(part) for part in split_batches(rows, [2, 3])] == [2, 3]
    assert split_batches(rows[:0], []) == []
    for sizes in ([2, 2], [6], [5, 0], [5.0], [True, 4]):
        with pytest.raises(ValueError, match="for 5 drawn items"):
            split_batches(rows, sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("size mismatch"), TypeError("t")])
def test_damage_is_named_once(error: Exception) -> None:
    with pytest.raises(ValueError, match=r"last\.pt is no checkpoint of this run.*start anew"):
        with naming_damage(Path("last.pt")):
            raise error
    with pytest.raises(ValueError, match=r"^last\.pt has its own words$"):
        with naming_damage(Path("last.pt")):
            raise ValueError("last.pt has its own words")
