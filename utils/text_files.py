"""Text, JSON and csv files from elsewhere: whatever is wrong with one, the error names it.

Every function raises ValueError with path, what is wrong and the given remedy; FileNotFoundError
when there is no such file.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.paths import require_file


def read_text(path: str | Path, remedy: str) -> str:
    """The content of a file in UTF-8."""
    path = require_file(path, remedy)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); {remedy}") from error


def read_json(path: str | Path, remedy: str) -> Any:
    """The value in a JSON file."""
    text = read_text(path, remedy)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no whole JSON file ({error}); {remedy}") from error


def read_json_object(path: str | Path, remedy: str) -> dict[str, Any]:
    """The object (a dict) in a JSON file."""
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object; {remedy}")
    return content


def read_csv(path: str | Path, remedy: str) -> Iterator[tuple[int, list[str]]]:
    """Number of its last line, and cells, of each row of a csv file; row after row."""
    path = require_file(path, remedy)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        try:
            for cells in reader:
                yield reader.line_num, cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is no csv file in UTF-8 (line {max(1, reader.line_num)}: {error}); "
                + remedy
            ) from error


def read_table(
    path: str | Path, columns: tuple[str, ...], remedy: str, exactly: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number, and cells by column, of each row below a header that has the `columns`.

    Blank rows are left out; `exactly`: these columns and no others, in that order. ValueError for a
    row with fewer or more cells than the header.
    """
    rows = read_csv(path, remedy)
    _, header = next(rows, (1, []))
    if set(columns) - set(header) or (exactly and tuple(header) != columns):
        raise ValueError(f"{path}: columns are {header}, expected {list(columns)}; {remedy}")
    for line, cells in rows:
        if not cells:
            continue
        if len(cells) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(cells)} cells, expected {len(header)}; {remedy}"
            )
        yield line, dict(zip(header, cells, strict=True))
