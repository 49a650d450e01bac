"""Which checkpoint an interrupted run may go on from."""

from pathlib import Path

import pytest

from utils.interruption import require_same_run
from utils.stopping import describe_options

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
