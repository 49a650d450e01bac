"""Unpacking the official archive, safe to interrupt and to start again."""

import logging
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from utils.paths import atomic_path

logger = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes read at a time
SCHEMES = ("http", "https", "ftp")
DAMAGED = (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, zipfile.LargeZipFile)
SHOWN = 10


def is_address(source: str) -> bool:
    """Whether `source` is an address to fetch rather than a path."""
    return urlsplit(source).scheme in SCHEMES


def archive_name(address: str) -> str:
    """File name at the end of an address."""
    return PurePosixPath(unquote(urlsplit(address).path)).name or "archive.zip"


def extract(archive: Path, folder: Path, marker: str, last: tuple[str, ...]) -> None:
    """Unpack what lies beside the file `marker` in the zip `archive` into `folder`.

    Nothing is written before all names are checked: a zip with absolute or upward paths, links,
    special or encrypted files is refused as a whole. Each file appears in one step; those that are
    there with their size are kept, so that an interrupted run goes on. The files named in `last`
    come last: where they are, all is there.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = _members(archive, content, marker)
            todo = {
                name: info for name, info in members.items() if not _is_there(folder, info, name)
            }
            _check_targets(archive, folder, todo)
            ordered = sorted(todo, key=lambda name: name in last)
            sizes = sum(info.file_size for info in todo.values())
            _require_space(folder, sizes)
            with tqdm(total=sizes, unit="B", unit_scale=True, desc=f"unpack {archive.name}") as bar:
                for name in ordered:
                    _write(content, todo[name], folder / name)
                    bar.update(todo[name].file_size)
    except DAMAGED as error:
        if isinstance(error, RefusedArchiveError):
            raise
        raise ValueError(
            f"{archive} is not a whole zip file ({error}); fetch it again (delete it first)"
        ) from error
    logger.info(
        "%s: %d files unpacked, %d were there", archive, len(todo), len(members) - len(todo)
    )


class RefusedArchiveError(ValueError):
    """The archive holds what must not be unpacked, or lacks what is needed."""


def _members(archive: Path, content: zipfile.ZipFile, marker: str) -> dict[str, zipfile.ZipInfo]:
    """Files beside `marker` by their name from there; RefusedArchiveError for unsafe ones."""
    infos = [info for info in content.infolist() if not info.is_dir()]
    unsafe = [info.filename for info in infos if not _is_safe(info)]
    if unsafe:
        raise RefusedArchiveError(
            f"{archive} holds {len(unsafe)} entries that would leave its folder or are no plain "
            f"files: {unsafe[:SHOWN]}; get the archive from a trusted place"
        )
    roots = [PurePosixPath(i.filename).parent for i in infos
             if PurePosixPath(i.filename).name == marker]  # fmt: skip
    if not roots:
        raise RefusedArchiveError(
            f"{archive} holds no {marker}; give the official Stanford_Online_Products.zip"
        )
    root = min(roots, key=lambda path: len(path.parts))
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        path = PurePosixPath(info.filename)
        if path.is_relative_to(root):
            members[str(path.relative_to(root))] = info
    return members


def _is_safe(info: zipfile.ZipInfo) -> bool:
    """A plain file below the archive's own folder, not encrypted."""
    path = PurePosixPath(info.filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    plain = kind in (0, stat.S_IFREG) and not info.flag_bits & 1
    inside = not path.is_absolute() and ".." not in path.parts and "\\" not in info.filename
    return plain and inside and ":" not in path.parts[0] and "\0" not in info.orig_filename


def _is_there(folder: Path, info: zipfile.ZipInfo, name: str) -> bool:
    target = folder / name
    return target.is_file() and target.stat().st_size == info.file_size


def _check_targets(archive: Path, folder: Path, names: dict[str, zipfile.ZipInfo]) -> None:
    """Links that lie in `folder` already must not lead out of it."""
    root = folder.resolve()
    for parent in {(folder / name).parent for name in names}:
        if not parent.resolve().is_relative_to(root):
            raise RefusedArchiveError(
                f"{archive} would be unpacked through the link {parent}, out of {folder}; remove "
                "the link or choose another sop_dir"
            )


def _require_space(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"unpacking needs {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free; free "
            "some space or choose another sop_dir"
        )


def _write(content: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    with atomic_path(target) as temporary, content.open(info) as source:
        with temporary.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
