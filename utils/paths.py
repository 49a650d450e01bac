"""The repository's root, checks of input files, and writing without half-written files."""

import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
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


def hash_names(names: Iterable[str]) -> str:
    """sha256 over the names in order: a short stand-in for a list of images."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def hash_file(path: str | Path) -> str:
    """sha256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(paths: Sequence[str | Path], sample: int = 64) -> str:
    """Short digest of many files: names and sizes of all, content of `sample` spread evenly.

    Files that were made again by another model differ in content, most of them in size too.
    """
    files = [Path(path) for path in paths]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
    for place in range(min(sample, len(files))):
        digest.update(files[place * len(files) // min(sample, len(files))].read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to `path` when the block ends without an error.

    The folder is made when it is missing. After an error or an interrupt the temporary file is
    removed and an older file at `path` is still whole. The temporary name keeps the suffix, which
    some writers go by. An OSError of this file or folder (disk full, read-only) is raised again,
    as the same class, with the path and a remedy. What killed processes left in the folder is
    removed when a process writes there for the first time.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{_owner()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if _is_about_another_file(error, path.parent):
            raise
        reason = error.strerror or str(error)
        raise OSError(
            error.errno,
            f"{path} cannot be written: {reason}{_free_space(path.parent)}; "
            "free space there, make the folder writable or choose another output folder",
        ) from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder beside `path` for what will be moved there; removed at the end.

    As for `atomic_path`, what killed processes left beside `path` is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    folder = path.with_name(f".{path.name}.{_owner()}.part")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _owner() -> str:
    """Part of a temporary name that tells whose it is."""
    return f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"


LEFTOVER = re.compile(r"\..+\.(?P<machine>[0-9a-f]{4})-(?P<process>\d+)-[0-9a-f]{8}\.part.*")
_looked_through: set[Path] = set()  # folders that this process has freed of leftovers


@cache
def _machine() -> str:
    """Four digits that tell machines apart which share a disk."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


def _remove_leftovers(folder: Path) -> None:
    """Delete temporary files of processes of this machine that are no more; once per folder."""
    folder = folder.resolve()
    if folder in _looked_through:
        return
    _looked_through.add(folder)
    with os.scandir(folder) as entries:
        found = [(entry.path, LEFTOVER.fullmatch(entry.name)) for entry in entries]
    for path, match in found:
        if match and match["machine"] == _machine() and not _is_alive(int(match["process"])):
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                Path(path).unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


def _free_space(folder: Path) -> str:
    try:
        return f" ({shutil.disk_usage(folder).free / 1e6:,.1f} MB are free)"
    except OSError:
        return ""


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
