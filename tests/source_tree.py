"""The repository's own files, and what its modules import, for the tests that guard the tree."""

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TORCH_SYSTEMS = ("rrt_gld", "rrt_sop", "vitgal", "r2former")
TENSORFLOW_SYSTEMS = ("delg_training", "delg_scripts")
SYSTEMS = (*TORCH_SYSTEMS, *TENSORFLOW_SYSTEMS)
JOINING_FOLDERS = ("search",)  # may import all systems of torch; no system imports them
OTHER_FOLDERS = ("utils", "data", "benchmarks", "tests", *JOINING_FOLDERS)  # no systems


def existing(names: tuple[str, ...]) -> list[str]:
    """Those of the folders that are there by now."""
    return [name for name in names if any((ROOT / name).rglob("*.py"))]


def own_files() -> list[Path]:
    """Every file that git tracks or would add; the test is skipped outside a git checkout."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip(f"not a git checkout: {result.stderr.strip()}")
    paths = (ROOT / name for name in result.stdout.split("\0") if name)
    return sorted(path for path in paths if path.is_file())


def python_files(folder: str) -> list[Path]:
    """Modules of a top-level folder; of data/ only those beside its README, not downloaded ones."""
    pattern = "*.py" if folder == "data" else "**/*.py"
    return sorted((ROOT / folder).glob(pattern))


def module_name(path: Path) -> str:
    """`rrt_gld/models/matcher.py` -> `rrt_gld.models.matcher`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Full names that a module imports, at its top or inside a function.

    `from a.b import c` gives `a.b` and `a.b.c`, as c may be a module.
    """
    package = module_name(path).split(".")[: None if path.stem == "__init__" else -1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
