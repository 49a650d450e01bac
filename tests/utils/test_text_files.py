"""Text, JSON and csv files: whatever is wrong, the error names file and remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.text_files import read_csv, read_json, read_json_object, read_table, read_text


def table(path: Path, remedy: str) -> list[Any]:
    return list(read_table(path, ("id", "label"), remedy))


READERS: tuple[Callable[..., Any], ...] = (
    read_text, read_json, read_json_object, table,
    lambda path, remedy: list(read_csv(path, remedy)),
)  # fmt: skip


@pytest.mark.parametrize("read", READERS)
def test_missing_files_and_other_encodings_are_named(tmp_path: Path, read) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(FileNotFoundError, match=r"a\.txt does not exist; fetch it"):
        read(path, "fetch it")
    path.write_bytes(b"id,label\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match=r"a\.txt .*UTF-8.*; fetch it"):
        read(path, "fetch it")


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_json, "{", "no whole JSON file"),
        (read_json, "[" * 100_000, "no whole JSON file"),  # ends the recursion, not the process
        (read_json_object, "[1]", "holds a list, expected an object"),
        (table, "id,name\n", r"columns are \['id', 'name'\], expected \['id', 'label'\]"),
        (table, "", r"columns are \[\]"),
        (table, "id,label\na,1\nb\n", "line 3: 1 cells, expected 2"),
        (table, "id,label\n" + "x" * 200_000 + ",1\n", "line 2: field larger"),
    ],
)
def test_damage_is_named(tmp_path: Path, read, text: str, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.txt.*{message}.*; fetch it"):
        read(path, "fetch it")


def test_rows_come_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,more,label\na,"x\ny",1\n\nb,z,2\n')
    assert table(path, "") == [
        (3, {"id": "a", "more": "x\ny", "label": "1"}),
        (5, {"id": "b", "more": "z", "label": "2"}),
    ]
    with pytest.raises(ValueError, match="columns are"):
        list(read_table(path, ("id", "label"), "", exactly=True))
