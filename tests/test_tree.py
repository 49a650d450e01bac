"""Guards on the tree: nothing of one machine, nothing large, no file or function without end."""

import ast
import re
from pathlib import Path

import pytest

from tests.source_tree import ROOT, own_files

LARGEST = 12e6  # bytes of a file in the repository
LONGEST_FILE, LONGEST_FUNCTION = 450, 60  # lines; the aim is 400 and 40

# Absolute folders that exist on somebody's machine. Addresses (https://x/home/) and relative paths
# (data/work/) do not count.
MACHINE_PATH = re.compile(
    r"(?<![\w.~/*\-])/(?:home|root|tmp|work|opt|mnt|scratch|Users|var/folders)/[\w.]|[A-Z]:\\Users\\"
)
# Files that may name such a folder, with the reason.
EXCEPTIONS = {
    "tests/test_tree.py": "examples of what the guard finds",
}


def machine_paths(text: str) -> list[str]:
    """Lines that name a folder of one machine."""
    return [line.strip() for line in text.splitlines() if MACHINE_PATH.search(line)]


def test_no_file_names_a_folder_of_one_machine() -> None:
    found = []
    for path in own_files():
        name = str(path.relative_to(ROOT))
        data = path.read_bytes()
        if name in EXCEPTIONS or b"\0" in data[:8192]:
            continue
        lines = machine_paths(data.decode("utf-8", errors="replace"))
        found += [f"{name}: {line[:160]}" for line in lines]
    assert found == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("path = '/home/ann/data'", True),
        ("see /tmp/out.txt", True),
        ('"/root/x"', True),
        (r"C:\Users\ann", True),
        ("https://example.org/home/page", False),
        ("data/home/x and ~/tmp/x", False),
        ("#!/usr/bin/env bash", False),
        ("a / tmp / b", False),
    ],
)
def test_guard_tells_machine_paths_from_others(text: str, found: bool) -> None:
    assert bool(machine_paths(text)) is found


def test_exceptions_are_files_of_the_repository() -> None:
    assert all((ROOT / name).is_file() for name in EXCEPTIONS)


def test_files_are_small() -> None:
    large = {str(p.relative_to(ROOT)): p.stat().st_size for p in own_files()}
    assert {name: size for name, size in large.items() if size >= LARGEST} == {}


def python_sources() -> list[Path]:
    return [path for path in own_files() if path.suffix == ".py" and "golden" not in path.parts]


def test_files_and_functions_have_an_end() -> None:
    long = []
    for path in python_sources():
        name, text = path.relative_to(ROOT), path.read_text(encoding="utf-8")
        if text.count("\n") > LONGEST_FILE:
            long.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{name}: {node.name} has {lines} lines")
    assert long == []
