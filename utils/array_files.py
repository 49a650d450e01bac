"""numpy's .npy and .npz files from elsewhere, read safely; arrays on disk that are filled in place.

numpy believes the header of a file: it reserves what the header announces and raises errors of many
kinds for a damaged one. Here the header must fit the size of the file before anything is reserved,
arrays of objects (which would run code) are refused, and every error is a ValueError that names the
file and the remedy.
"""

import io
import math
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from utils.paths import atomic_path, require_file

SUFFIX = ".npy"  # of the members of an .npz file
MAX_RATIO = 1100  # deflate does not pack tighter


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def load_array(path: str | Path, remedy: str) -> np.ndarray:
    """The array of an .npy file."""
    path = require_file(path, remedy)
    _check_file(path, remedy)
    return np.load(path, allow_pickle=False)


def map_array(path: str | Path, remedy: str, writable: bool = False) -> np.ndarray:
    """The array of an .npy file, memory-mapped (one without elements is an ordinary array)."""
    path = require_file(path, remedy)
    header = _check_file(path, remedy)
    if not math.prod(header.shape):
        return np.empty(header.shape, header.dtype)
    return np.lib.format.open_memmap(path, mode="r+" if writable else "r")


def create_map(path: str | Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """A new .npy file of zeros, memory-mapped for writing, whose space on the disk is reserved.

    Without the reservation a full disk would end the process by a signal at some later write.
    OSError, with the bytes that are needed and free, when the space does not suffice; an older
    file of the name is gone then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        needed = math.prod(shape) * np.dtype(dtype).itemsize
        raise OSError(
            error.errno,
            f"{path} cannot be written: {error.strerror or error} ({needed:,} bytes are needed, "
            f"{shutil.disk_usage(path.parent).free:,} are free); free space there or choose "
            "another folder",
        ) from error
    return array


class _Plain:
    """A file of which numpy sees no more than `write`."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


def save_array(path: str | Path, array: np.ndarray) -> None:
    """Write an .npy file in one step.

    `np.save` hands real files to C code that does not notice when the last bytes find no space: a
    file that is cut off would take the name.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(_Plain(file), array, allow_pickle=False)


def load_arrays(path: str | Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by their names."""
    path = require_file(path, remedy)
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.removesuffix(SUFFIX): _read_member(archive, info)
                for info in archive.infolist()
            }
    except Exception as error:  # zipfile, zlib and numpy raise errors of many kinds
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of the file system, not of the content
        raise _refusal(path, "file of arrays (.npz)", error, remedy) from error


def take_arrays(
    path: str | Path, arrays: dict[str, np.ndarray], kinds: dict[str, str], remedy: str
) -> list[np.ndarray]:
    """Those arrays of an .npz file that `kinds` names, in its order.

    `kinds`: name -> kinds of numpy (`"iu"`: integers), a blank, and the number of dimensions. A
    kind f means finite numbers. ValueError for a missing array or one of another kind.
    """
    for name, kind in kinds.items():
        kind, dimensions = kind.split(" ")
        found = arrays.get(name)
        if found is None or found.dtype.kind not in kind or found.ndim != int(dimensions):
            what = "nothing" if found is None else f"{found.dtype} {found.shape}"
            raise ValueError(
                f"{path} holds {what} as {name!r}, expected an array of kind {kind} with "
                f"{dimensions} dimensions; {remedy}"
            )
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise ValueError(f"{path} holds NaN or infinity in {name!r}; {remedy}")
    return [arrays[name] for name in kinds]


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if not info.filename.endswith(SUFFIX):
        raise ValueError(f"{info.filename} is no array")
    if info.file_size > MAX_RATIO * (info.compress_size + 1):
        raise ValueError(f"{info.filename} announces {info.file_size} bytes")
    data = archive.read(info)  # compares the checksum
    file = io.BytesIO(data)
    header = _read_header(file, len(data))
    flat = np.frombuffer(data, header.dtype, math.prod(header.shape), file.tell())
    return flat.reshape(header.shape, order="F" if header.fortran else "C").copy()


def _check_file(path: Path, remedy: str) -> _Header:
    try:
        with path.open("rb") as file:
            return _read_header(file, path.stat().st_size)
    except Exception as error:  # numpy parses the header as Python
        if isinstance(error, OSError):
            raise
        raise _refusal(path, "numpy array (.npy)", error, remedy) from error


def _read_header(file: BinaryIO, size: int) -> _Header:
    """The header; ValueError unless exactly its array follows."""
    version = np.lib.format.read_magic(file)
    read: Any = getattr(np.lib.format, f"read_array_header_{version[0]}_0", None)
    if read is None:
        raise ValueError(f"version {version} of the format is not known")
    header = _Header(*read(file))
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects, which are refused")
    if any(type(length) is not int or length < 0 for length in header.shape):
        raise ValueError(f"its shape is {header.shape}")
    needed, left = math.prod(header.shape) * header.dtype.itemsize, size - file.tell()
    if needed != left:
        raise ValueError(f"{header.dtype} {header.shape} takes {needed} bytes, {left} are there")
    return header


def _refusal(path: Path, what: str, error: Exception, remedy: str) -> ValueError:
    reason = str(error) or type(error).__name__
    return ValueError(f"{path} is no whole {what} ({reason[:200]}); {remedy}")
