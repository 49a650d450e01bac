"""TensorFlow's tests run in a process of their own, and only there."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TF_TESTS, pytest_ignore_collect
from tests.source_tree import ROOT, TENSORFLOW_SYSTEMS, existing


class Config:
    """What the collection rule learns of a run: where it started, what it was asked for."""

    def __init__(self, start: Path, *arguments: str) -> None:
        self.args = list(arguments)
        self.invocation_params = self
        self.dir = start


@pytest.mark.parametrize(
    ("start", "arguments", "collected"),
    [
        (ROOT, ["tests"], False),
        (ROOT, ["tests/utils", "tests/delg_training"], False),
        (ROOT, ["."], False),
        (ROOT, ["tests/delg_training"], True),
        (ROOT, ["tests/delg_training/test_losses.py::test_one"], True),
        (TF_TESTS.parent, ["delg_training"], True),
        (TF_TESTS, ["test_losses.py"], True),
    ],
)
def test_tensorflow_tests_are_collected_only_when_asked_for_alone(
    start: Path, arguments: list[str], collected: bool
) -> None:
    config = Config(start, *arguments)
    for path in (TF_TESTS, TF_TESTS / "test_losses.py"):
        ignored = pytest_ignore_collect(path, config)  # type: ignore[arg-type]
        assert ignored is (None if collected else True)
    assert pytest_ignore_collect(ROOT / "tests/utils", config) is None  # type: ignore[arg-type]


def test_every_tensorflow_system_has_its_suite() -> None:
    """From the first module on: without tests the process below would have nothing to run."""
    if existing(TENSORFLOW_SYSTEMS):
        assert list(TF_TESTS.glob("test_*.py")), f"{TF_TESTS} holds no test"
    else:
        pytest.skip("no TensorFlow system in the repository yet")


def test_tensorflow_suite_passes_in_its_own_process() -> None:
    if not list(TF_TESTS.glob("test_*.py")):
        pytest.skip("no TensorFlow tests in the repository yet")
    command = [sys.executable, "-m", "pytest", "-q", str(TF_TESTS)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
