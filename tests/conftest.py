"""Fixtures of all tests; TensorFlow's tests run in a process of their own."""

import os
from pathlib import Path

import pytest

from tests.golden_recipe import GOLDEN_DIR

TF_TESTS = Path(__file__).parent / "delg_training"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the TensorFlow suite out of every run that was asked for more than that."""
    start = config.invocation_params.dir
    asked = [(start / arg.split("::")[0]).resolve() for arg in config.args]
    only_tf = all(path.is_relative_to(TF_TESTS) for path in asked)
    return True if collection_path.is_relative_to(TF_TESTS) and not only_tf else None


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the reference answers (environment variable GOLDEN_DIR)."""
    return GOLDEN_DIR


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder of the real reference data (REFERENCE_DATA); such tests carry the marker `data`."""
    folder = os.environ.get("REFERENCE_DATA")
    if not folder:
        pytest.skip("REFERENCE_DATA is not set")
    return Path(folder)
