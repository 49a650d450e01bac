"""Fetching files and unpacking tar archives, both safe to interrupt and to start again."""

import errno
import gzip
import hashlib
import logging
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError, URLError

from tqdm import tqdm

from utils.locks import Lock
from utils.paths import atomic_path

logger = logging.getLogger(__name__)

NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
GZIP = b"\x1f\x8b"  # first bytes of such a file
CHUNK = 1 << 20  # bytes read at a time
TIMEOUT = 60  # seconds without an answer
RANGE_OVER = 416  # HTTP: the file has no more bytes than those asked to be left out
PARTIAL = 206  # HTTP: the answer starts where it was asked to
DAMAGED = (tarfile.TarError, EOFError, zlib.error, OSError)  # a file cut short, or of another kind


def download(address: str, path: Path, other_means: str = "put it there") -> Path:
    """Fetch `address` to `path`; what an earlier attempt left in `<path>.part` is gone on with.

    Servers without ranges (all of FTP) start anew. OSError, with a remedy, when the connection
    fails or ends before the announced length; the part that came is kept. `other_means`: what to
    do with the file once it was fetched otherwise, for the message.
    """
    if path.is_file():
        logger.info("%s is there already", path)
        return path
    with Lock(path):  # another process that fetches it is waited for
        return path if path.is_file() else _fetch(address, path, other_means)


def _fetch(address: str, path: Path, other_means: str) -> Path:
    part = path.with_name(path.name + ".part")
    try:
        with _opened(address, part.stat().st_size if part.is_file() else 0) as (answer, start):
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length is not None else None
            _append(answer, part, start, total)
    except (OSError, URLError) as error:
        if isinstance(error, HTTPError) and error.code == RANGE_OVER:
            total = part.stat().st_size  # nothing is left to fetch
        elif isinstance(error, OSError) and error.errno in NO_SPACE:
            raise OSError(
                error.errno,
                f"{part} cannot be written: {error.strerror}; free space there and run the command "
                "again, which goes on with it",
            ) from error
        else:
            raise OSError(
                f"{address} could not be fetched ({error}); run the command again to go on, or "
                f"fetch the file by other means and {other_means}"
            ) from error
    found = part.stat().st_size
    if total is not None and found != total:
        raise OSError(
            f"{address} ended after {found} of {total} bytes; run the command again to go on"
        )
    part.replace(path)
    return path


@contextmanager
def _opened(address: str, start: int) -> Iterator[tuple[Any, int]]:
    """The answer to a request for all bytes from `start`, and where it really starts."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        yield answer, start if getattr(answer, "status", None) == PARTIAL else 0


def _append(answer: IO[bytes], part: Path, start: int, total: int | None) -> None:
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem)
    with bar, part.open("r+b" if start else "wb") as file:
        file.truncate(start)
        file.seek(start)
        while block := answer.read(CHUNK):
            file.write(block)
            bar.update(len(block))


def ask_size(address: str) -> int | None:
    """Bytes of the file at an address, as its server announces them; None when it does not say."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            length = answer.headers.get("Content-Length")
    except (OSError, URLError) as error:
        raise OSError(
            f"{address} does not answer ({error}); look at the page of the set"
        ) from error
    return None if length is None else int(length)


def check_digest(path: Path, algorithm: str, expected: str) -> None:
    """ValueError, and the file is gone, unless its digest (md5, sha256) is the expected one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != expected.lower():
        path.unlink()
        raise ValueError(
            f"{path} has {algorithm} {found}, expected {expected}: it was damaged on its way and "
            "is deleted; run the command again"
        )


# ---------------------------------------------------------------------------- tar archives


def unpack_tar(
    archive: Path, folder: Path, rename: Callable[[PurePosixPath], PurePosixPath | None]
) -> int:
    """Unpack the plain files of a tar (gzip or not) into `folder`; returns how many there are.

    `rename`: path in the archive -> path below `folder`, or None for a file that is not wanted.
    Each file appears in one step; those that are there with their size are kept, so that an
    interrupted call goes on. ValueError for paths out of the folder, links, devices, and for an
    archive that is damaged or cut short.
    """
    count, root = 0, folder.resolve()
    bar = tqdm(desc=f"unpack {archive.name}", unit="file", disable=None)
    try:
        with bar, _opened_tar(archive) as content:
            for member in content:
                if member.isdir():
                    continue
                path = PurePosixPath(member.name)
                _check_member(archive, member, path)
                wanted = rename(path)
                if wanted is None:
                    continue
                target = folder / wanted
                if not target.parent.resolve().is_relative_to(root):
                    raise RefusedArchiveError(
                        f"{archive} would be unpacked through the link {target.parent}, out of "
                        f"{folder}; remove the link"
                    )
                _write(content, member, target)
                count += 1
                bar.update()
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the archive
        raise ValueError(
            f"{archive} is not a whole tar archive ({error}); delete it and run the command again"
        ) from error
    return count


@contextmanager
def _opened_tar(archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive for one pass; at the end a gzip file is read out, which checks its CRC."""
    with archive.open("rb") as file:
        packed = file.read(2) == GZIP
    with gzip.open(archive) if packed else archive.open("rb") as stream:
        with tarfile.open(fileobj=stream, mode="r|") as content:
            yield content
        while stream.read(CHUNK):
            pass


class RefusedArchiveError(ValueError):
    """The archive holds what must not be unpacked."""


def _check_member(archive: Path, member: tarfile.TarInfo, path: PurePosixPath) -> None:
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.name
    if outside or not member.isreg():
        raise RefusedArchiveError(
            f"{archive} holds {member.name!r}, which would leave its folder or is no plain file; "
            "get the archive from a trusted place"
        )


def _write(content: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if target.is_file() and target.stat().st_size == member.size:
        return
    source = content.extractfile(member)
    assert source is not None
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        left = member.size
        while left and (block := source.read(min(CHUNK, left))):
            file.write(block)
            left -= len(block)
        if left:
            raise EOFError(f"{member.name} ends {left} bytes early")
