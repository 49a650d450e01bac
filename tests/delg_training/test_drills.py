"""A few damaged files of what the TensorFlow side reads; tests/drills has thousands."""

import pytest

from tests.drills.formats_tensorflow import FORMATS
from tests.drills.reading import drill


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_by_name_or_read(name: str) -> None:
    report = drill(name, FORMATS[name], 12, 0)
    assert report.defects == []
    assert report.refused > 3
