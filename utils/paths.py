"""The repository's root, checks of input files, and writing without half-written files."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parents[1]

MISSING_SHOWN = 10  # how many missing files an error message names


def require_file(path: str | Path, hint: str) -> Path:
    """`path` as a Path; FileNotFoundError with the remedy `hint` when no such file exists."""
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; {hint}")
    return path


def require_files(paths: Iterable[str | Path], hint: str) -> list[Path]:
    """All `paths` as Paths; one FileNotFoundError that counts all missing and names the first."""
    checked = [Path(path) for path in paths]
    missing = [path for path in checked if not path.is_file()]
    if missing:
        names = "".join(f"\n  {path}" for path in missing[:MISSING_SHOWN])
        more = "\n  ..." if len(missing) > MISSING_SHOWN else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(checked)} files do not exist; {hint}. Missing:{names}{more}"
        )
    return checked


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to `path` when the block ends without an error.

    The folder is made when it is missing. After an error or an interrupt the temporary file is
    removed and an older file at `path` is still whole. The temporary name keeps the suffix, which
    some writers go by. An OSError of this file or folder (disk full, read-only) is raised again,
    as the same class, with the path and a remedy.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if _is_about_another_file(error, path.parent):
            raise
        reason = error.strerror or str(error)
        raise OSError(
            error.errno,
            f"{path} cannot be written: {reason}; "
            "free space there, make the folder writable or choose another output folder",
        ) from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


def _is_about_another_file(error: OSError, folder: Path) -> bool:
    """Whether the error names a file outside `folder` (an input, say) and its upper folders."""
    if error.filename is None:
        return False
    named = Path(os.fsdecode(error.filename))
    return named.parent != folder and named not in (folder, *folder.parents)


def atomic_write(path: str | Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` in one step: readers see the old file or the whole new one."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
