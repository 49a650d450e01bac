"""Local features on disk: the published pair of files per image, and one compact store per set.

Published: `<name>.npy` in a folder of descriptors (float32 (K, D), unit rows, best first) and in
one of locations (int64 (K, 2) as (y, x)). Compact: all images in two memory-mapped files, the
descriptors as float16 or int8, an eighth to a half of the size.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from utils.array_files import load_array, save_array
from utils.locks import Lock
from utils.paths import atomic_write, require_file
from utils.text_files import read_text

logger = logging.getLogger(__name__)

KINDS = ("float16", "int8")  # of compact stores
WIDEST, MOST_ROWS = 1 << 16, 1 << 24  # numbers of a row; local features of an image
NOT_UNIT = 1e-3  # of a squared length from 1, beyond rounding
ROUNDED = 0.1  # of the length of a row of a compact store from 1, beyond rounding
MAX_LOCATION = np.iinfo(np.int16).max


class LocalFeatures(NamedTuple):
    """Local features of one image, best first."""

    descriptors: np.ndarray  # (K, D) float32, unit rows
    locations: np.ndarray  # (K, 2) int64, (y, x) in pixels of the resized image


class FeatureStore(Protocol):
    """Where local features of images are kept, by the path of the image."""

    def has(self, path: str) -> bool:
        """Whether the image has features here."""

    def load(self, path: str) -> LocalFeatures:
        """The features of the image; FileNotFoundError names an image without."""

    def save(self, path: str, features: LocalFeatures) -> None:
        """Keep the features of an image."""


def official_name(path: str) -> str:
    """File name as the release makes it: without `../`, with `__` for `/`, plus `.npy`."""
    return path.replace("../", "").replace("/", "__") + ".npy"


def feature_name(path: str, data_path: str | Path) -> str:
    """File name by the path relative to `data_path`; the official one for images outside of it."""
    try:
        inside = Path(path).resolve().relative_to(Path(data_path).resolve())
    except ValueError:
        return official_name(Path(path).as_posix())
    return official_name(inside.as_posix())


def check_features(features: LocalFeatures, where: str) -> LocalFeatures:
    """The features, if they are arrays (K, D) and (K, 2) of numbers; ValueError names `where`."""
    descriptors, locations = features
    if (
        descriptors.ndim != 2
        or descriptors.dtype.kind != "f"
        or locations.shape != (len(descriptors), 2)
        or locations.dtype.kind not in "iu"
    ):
        raise ValueError(
            f"{where} holds descriptors {descriptors.dtype} {descriptors.shape} and locations "
            f"{locations.dtype} {locations.shape}, expected floats (K, D) and integers (K, 2); "
            "extract this image again with overwrite=True"
        )
    squares = np.einsum("kd,kd->k", descriptors, descriptors)
    if not (np.abs(squares - 1) < NOT_UNIT).all():  # a NaN is not below either
        raise ValueError(
            f"{where} holds descriptors that have not unit length (or NaN); extract this image "
            "again with overwrite=True"
        )
    return features


class PublishedStore:
    """One file of descriptors and one of locations per image; reads own and official names."""

    def __init__(
        self,
        descriptions: str | Path,
        locations: str | Path,
        data_path: str | Path,
        official_names: bool = False,
    ) -> None:
        """`official_names`: new files get the release's names, else those of `feature_name`."""
        self.descriptions, self.locations = Path(descriptions), Path(locations)
        self.data_path, self.official_names = Path(data_path), official_names

    def _names(self, path: str) -> tuple[str, str]:
        own, official = feature_name(path, self.data_path), official_name(path)
        return (official, own) if self.official_names else (own, official)

    def _find(self, path: str) -> str | None:
        """Name of the image's pair of files; None when one of them is missing."""
        for name in self._names(path):
            if (self.descriptions / name).is_file() and (self.locations / name).is_file():
                return name
        return None

    def has(self, path: str) -> bool:
        """Whether both files are there."""
        return self._find(path) is not None

    def load(self, path: str) -> LocalFeatures:
        """Both files; FileNotFoundError or ValueError names the image."""
        name = self._find(path)
        if name is None:
            raise FileNotFoundError(
                f"{path} has no local features: {self._names(path)[0]} is not in both "
                f"{self.descriptions} and {self.locations}; run vitgal.extract_local_features with "
                "the rerank_path.txt of this ranking first"
            )
        parts = (_load_array(folder / name) for folder in (self.descriptions, self.locations))
        found = LocalFeatures(*parts)
        checked = check_features(found, f"{self.descriptions / name} (image {path})")
        return LocalFeatures(
            checked.descriptors.astype(np.float32, copy=False),
            checked.locations.astype(np.int64, copy=False),
        )

    def save(self, path: str, features: LocalFeatures) -> None:
        """Write both files, the locations last."""
        check_features(features, path)
        name = self._names(path)[0]
        for folder, part in (
            (self.descriptions, features.descriptors.astype(np.float32, copy=False)),
            (self.locations, features.locations.astype(np.int64, copy=False)),
        ):
            save_array(folder / name, part)


def _load_array(path: Path) -> np.ndarray:
    return load_array(path, "extract this image again with overwrite=True")


# ---------------------------------------------------------------------------- compact


class CompactStore:
    """All features of a set in `descriptors.bin`, `locations.bin` and (int8) `scales.bin`.

    `index.jsonl` has a line per image (name, first row, number of rows), written after its data: an
    interrupted extraction goes on behind the last whole line. int8 rows are divided by their
    largest entry / 127, which `scales.bin` keeps; rows have unit length again when they are read.
    """

    def __init__(self, folder: str | Path, data_path: str | Path, kind: str | None = None) -> None:
        """`kind`: float16 or int8 for a new store; None: that of the store which is there."""
        if kind is not None and kind not in KINDS:
            raise ValueError(f"the kind of a compact store is {kind!r}, expected one of {KINDS}")
        self.folder, self.data_path = Path(folder), Path(data_path)
        self.rows: dict[str, tuple[int, int]] = {}
        self.end = 0
        self._maps: dict[str, np.ndarray] | None = None
        self._lock: Lock | None = None  # held from the first image that is added here
        self.kind, self.width = self._read_index(kind)

    def _read_index(self, kind: str | None) -> tuple[str, int | None]:
        path = self.folder / "index.jsonl"
        if not path.is_file():
            if kind is None:
                require_file(path, "run vitgal.extract_local_features with compact_store=... first")
            return str(kind), None
        remedy = f"delete {self.folder} and extract again"
        lines = read_text(path, remedy).split("\n")[:-1]  # a cut line has no end
        try:
            found, width = _check_header(lines)
            for line in lines[1:]:
                name, start, count = json.loads(line)
                numbers = type(start) is int and type(count) is int
                if not isinstance(name, str) or not numbers or start != self.end:
                    raise ValueError(f"{line[:200]} does not follow the image before")
                if not 0 <= count < MOST_ROWS:
                    raise ValueError(f"{name} has {count} local features")
                self.rows[name] = start, count
                self.end = start + count
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
        if kind not in (None, found):
            raise ValueError(
                f"{self.folder} is a compact store of {found}, asked for is {kind}; choose another "
                "folder or the kind that is there"
            )
        return found, width

    def _files(self, width: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """File -> type and shape of a row."""
        files: dict[str, tuple[str, tuple[int, ...]]] = {
            "descriptors.bin": (self.kind, (width,)),
            "locations.bin": ("int16", (2,)),
        }
        return files | ({"scales.bin": ("float32", ())} if self.kind == "int8" else {})

    def has(self, path: str) -> bool:
        """Whether the image is in the store."""
        return feature_name(path, self.data_path) in self.rows

    def load(self, path: str) -> LocalFeatures:
        """Features of the image, from the memory maps; FileNotFoundError names an image without."""
        name = feature_name(path, self.data_path)
        if name not in self.rows:
            raise FileNotFoundError(
                f"{path} has no local features in {self.folder} ({len(self.rows)} images); run "
                "vitgal.extract_local_features with the rerank_path.txt of this ranking first"
            )
        start, count = self.rows[name]
        maps = self._open()
        rows = slice(start, start + count)
        descriptors = maps["descriptors.bin"][rows].astype(np.float32)
        if self.kind == "int8":
            descriptors *= maps["scales.bin"][rows, None]
        norms = np.linalg.norm(descriptors, axis=1, keepdims=True)
        if not (np.abs(norms - 1) < ROUNDED).all():  # a NaN is not below either
            raise ValueError(
                f"{self.folder} holds descriptors of {path} that have not unit length (or NaN); "
                "delete the folder and extract again"
            )
        descriptors /= norms
        return LocalFeatures(descriptors, maps["locations.bin"][rows].astype(np.int64))

    def _open(self) -> dict[str, np.ndarray]:
        if self._maps is None or len(self._maps["locations.bin"]) < self.end:
            assert self.width is not None
            maps = {}
            for name, (dtype, shape) in self._files(self.width).items():
                path = require_file(self.folder / name, f"delete {self.folder} and extract again")
                needed = self.end * int(np.prod(shape)) * np.dtype(dtype).itemsize
                if path.stat().st_size < needed:
                    raise ValueError(
                        f"{path} has {path.stat().st_size} bytes, but its index needs {needed}; "
                        f"delete {self.folder} and extract again"
                    )
                whole = (self.end, *shape)
                empty = np.empty(whole, dtype)
                maps[name] = np.memmap(path, dtype, "r", shape=whole) if needed else empty
            self._maps = maps
        return self._maps

    def save(self, path: str, features: LocalFeatures) -> None:
        """Append an image; ValueError for locations beyond int16 and for another width."""
        check_features(features, path)
        descriptors = features.descriptors.astype(np.float32, copy=False)
        if self.width not in (None, descriptors.shape[1]):
            raise ValueError(
                f"{path} has descriptors of width {descriptors.shape[1]}, but {self.folder} holds "
                f"width {self.width}; choose another folder"
            )
        if np.abs(features.locations).max(initial=0) > MAX_LOCATION:
            raise ValueError(f"{path} has a location beyond {MAX_LOCATION} pixels")
        self._claim()
        if self.width is None:
            self.width = descriptors.shape[1]
            header = json.dumps({"kind": self.kind, "width": self.width}) + "\n"
            atomic_write(self.folder / "index.jsonl", header.encode())
        parts = {"locations.bin": features.locations.astype(np.int16)}
        if self.kind == "int8":
            scales = np.abs(descriptors).max(axis=1, initial=0) / np.float32(127)
            scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
            parts["scales.bin"] = scales
            parts["descriptors.bin"] = np.rint(descriptors / scales[:, None]).astype(np.int8)
        else:
            parts["descriptors.bin"] = descriptors.astype(np.float16)
        self._append(feature_name(path, self.data_path), parts, len(descriptors))

    def _claim(self) -> None:
        """Before the first change: no other process may add images, nor have done so meanwhile."""
        if self._lock is None:
            self._lock = Lock(self.folder / "index.jsonl", wait=False)
            known = self.end
            self.rows, self.end = {}, 0
            self.kind, self.width = self._read_index(self.kind)
            if self.end != known:
                self._lock.release()
                raise RuntimeError(
                    f"another process has added images to {self.folder}; run this command again, "
                    "which goes on with the others"
                )

    def _append(self, name: str, parts: dict[str, np.ndarray], count: int) -> None:
        """Data first, at the place that the index knows as the end; then the line of the index."""
        assert self.width is not None
        for file_name, (dtype, shape) in self._files(self.width).items():
            row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            with _open_to_append(self.folder / file_name) as file:
                file.seek(self.end * row_bytes)
                file.write(np.ascontiguousarray(parts[file_name]).tobytes())
                file.truncate()
        with _open_to_append(self.folder / "index.jsonl") as file:
            whole = file.read()
            file.seek(whole.rfind(b"\n") + 1)  # over a line that an interrupt cut
            file.write((json.dumps([name, self.end, count]) + "\n").encode())
            file.truncate()
        self.rows[name] = self.end, count
        self.end += count


def _check_header(lines: list[str]) -> tuple[str, int]:
    """Kind and width of the first line; ValueError for others than can be."""
    if not lines:
        raise ValueError("its first line is missing")
    header = json.loads(lines[0])
    kind, width = header["kind"], header["width"]
    if kind not in KINDS or type(width) is not int or not 0 < width < WIDEST:
        raise ValueError(f"the kind {kind!r} with width {width!r}")
    return kind, width


@contextmanager
def _open_to_append(path: Path) -> Iterator[BinaryIO]:
    """The file, made when it is missing; OSError with the path when there is no space."""
    try:
        path.touch()
        with path.open("r+b") as file:
            yield file
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} cannot be written: {error.strerror or error}; free space there and run the "
            "command again, which goes on behind the last whole image",
        ) from error


def open_store(
    descriptor_output_dir: str | Path,
    location_output_dir: str | Path,
    data_path: str | Path,
    compact_store: str | Path | None = None,
    compact_kind: str | None = None,
    official_names: bool = False,
) -> FeatureStore:
    """The compact store where one is named, else the two folders of the published form."""
    if compact_store is not None:
        return CompactStore(compact_store, data_path, compact_kind)
    return PublishedStore(descriptor_output_dir, location_output_dir, data_path, official_names)
