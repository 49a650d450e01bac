"""Matlab 5 files: what scipy writes is read the same; damage is named and ends no process."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.damage import mutate
from utils.matlab_files import load_matlab


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    structs = np.empty((1, 2), dtype=[("bbx", object), ("easy", object)])
    for i in range(2):
        structs[0, i]["bbx"] = np.array([1.5, 2, 30, 40]) + i
        structs[0, i]["easy"] = np.array([3, 9, 300], np.uint16)
    cell = np.array(["all_souls_000013", "b"], dtype=object)
    content = {
        "gnd": structs, "imlist": cell, "matrix": np.arange(6.0).reshape(2, 3), "text": "größe",
        "rows": np.array(["ab", "c"]), "none": np.zeros((0, 0)),
        "numbers": np.array([[-1, 2]], np.int8), "nested": {"x": {"y": 7}},
    }  # fmt: skip
    path = tmp_path / "a.mat"
    savemat(path, content, do_compression=request.param)
    return path


def test_values_are_those_that_were_written(file: Path) -> None:
    found = load_matlab(file, "")
    assert [entry["bbx"].ravel().tolist() for entry in found["gnd"]] == [
        [1.5, 2, 30, 40], [2.5, 3, 31, 41],
    ]  # fmt: skip
    assert found["gnd"][1]["easy"].ravel().tolist() == [3, 9, 300]
    assert found["imlist"] == ["all_souls_000013", "b"]
    np.testing.assert_array_equal(found["matrix"], np.arange(6.0).reshape(2, 3))
    assert (found["text"], found["rows"]) == ("größe", ["ab", "c"])
    assert found["none"].size == 0
    assert found["numbers"].tolist() == [[-1, 2]]
    assert found["nested"][0]["x"][0]["y"].tolist() == [[7]]


def test_damage_is_named(file: Path) -> None:
    data, rng, refused = file.read_bytes(), np.random.default_rng(0), 0
    for content in (b"", b"MATLAB 5.0", data[:200], data[:-3], b"\0" * 300):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.mat is not a readable Matlab 5 file.*; again"):
            load_matlab(file, "again")
    for _ in range(400):
        file.write_bytes(mutate(data, rng, head=400))
        refused += is_refused(file)
    assert refused > 100


def is_refused(file: Path) -> bool:
    """Whether it is refused by its name; any other error fails the test."""
    try:
        load_matlab(file, "again")
    except ValueError as error:
        return "a.mat is not a readable" in str(error) or pytest.fail(f"no file is named: {error}")
    return False
