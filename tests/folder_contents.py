"""What lies in a folder, to compare two of them."""

from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> bytes of the file, for all files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
