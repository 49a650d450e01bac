"""What a checkpoint says of a run is checked before a run goes on with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.interruption import (
    naming_damage,
    require_same_run,
    restore_progress,
    split_batches,
)
from utils.stopping import describe_options


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


FILE, SAVED = Path("last.pt"), {"state": 1, "setup": {"lr": 0.1, "optim": "sgd"}}


def require(saved, setup, **how):
    require_same_run(FILE, saved, ("state", "setup"), setup, "temp_dir", **how)


def test_differing_options_are_listed_with_both_values():
    assert describe_options({"a": 1, "b": 2}, {"a": 1, "b": 2}) == ""
    found = describe_options({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "d": 4})
    assert found == "b: 2 then, 5 now; c: 3 then, None now; d: None then, 4 now"


def test_a_checkpoint_of_other_options_is_refused():
    require(SAVED, {"lr": 0.1, "optim": "sgd"})
    text = r"^last\.pt was made with other options \(lr: 0\.1 then, 0\.5 now\); .* another temp_dir"
    with pytest.raises(ValueError, match=rf"{text} \(from its weights: resume=\)$"):
        require(SAVED, {"lr": 0.5, "optim": "sgd"})
    with pytest.raises(ValueError, match=rf"{text}$"):
        require(SAVED, {"lr": 0.5, "optim": "sgd"}, from_weights=False)
    with pytest.raises(ValueError, match="lr: None then"):
        require({**SAVED, "args": {}}, {"lr": 0.5}, entry="args")


def test_a_file_that_is_no_checkpoint_of_a_run_is_refused():
    with pytest.raises(
        ValueError, match=r"lacks \['setup'\]: no checkpoint .* use resume= instead"
    ):
        require({"state": 1}, {})
    with pytest.raises(ValueError, match=r"an interrupted run of this code$"):
        require({"state": 1}, {}, from_weights=False)
