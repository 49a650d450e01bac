"""One store of descriptors for every system: global ones, local ones, places, scales, attention.

A folder with three files that only grow, and a mark that says how much of them counts:

    global.bin    a row per image
    local.bin     a record per local feature, those of an image behind each other, best first
    images.jsonl  a line per image: key, name, number of locals, height and width
    store.json    the mark: what the descriptors are made from, widths, kinds, bytes that count

The mark is replaced in one step after the others have reached the disk, so that a store is whole
whenever the process ends; what lies behind the mark is cut off by the next extension. Images are
never changed in place: a changed photograph gets a new row, the old one is not used any more.
"""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from search.codec import RowCodec, check_kind, learn_levels
from search.photographs import Photograph
from utils.descriptors import LocalFeatures
from utils.paths import atomic_path, atomic_write

logger = logging.getLogger(__name__)

VERSION = 1
CHUNK = 256  # images between two marks; levels of 1bit are learned from the first so many
FILES = ("global.bin", "local.bin", "images.jsonl")
MARK, LEVELS, LOCK = "store.json", "levels.npz", "lock"
STEPS = 65535  # of a place within the image, where it is kept as 16 bits
REMEDY = "remove the folder and let it be made again, or name another one"


class Described(NamedTuple):
    """Descriptors of one image."""

    global_: np.ndarray  # (D,)
    local: LocalFeatures  # best first; locations (y, x) in pixels of the frame
    frame: tuple[int, int]  # height and width that the locations are counted in


# photographs -> their descriptors, in the same order
Describe = Callable[[Sequence[Photograph]], Iterator[Described]]


class Store:
    """Descriptors of images by row. Opened for reading; `extend` adds images."""

    def __init__(
        self, folder: str | Path, made_from: dict[str, Any], global_kind: str = "float32",
        local_kind: str = "float32",
    ) -> None:  # fmt: skip
        """Opens the store in `folder`; without one it is begun by the first `extend`.

        `made_from`: plain values that say how the descriptors were made; `made_from["descriptor"]`
        names them. ValueError when the folder holds a store of other descriptors or kinds, or a
        damaged one.
        """
        self.folder = Path(folder)
        self.made_from = json.loads(json.dumps(made_from))
        self.kinds = {"global": check_kind(global_kind), "local": check_kind(local_kind)}
        self.widths: dict[str, int] | None = None  # of global and local rows; None: nothing stored
        self.sizes = dict.fromkeys(FILES, 0)  # bytes that count
        self.scales: list[float] = []  # distinct scales; a feature holds its index
        self._load()

    # ------------------------------------------------------------------------ reading

    def __len__(self) -> int:
        """Rows, those of changed photographs included."""
        return len(self.keys)

    @property
    def name(self) -> str:
        """Of the descriptors."""
        return str(self.made_from["descriptor"])

    @property
    def has_locals(self) -> bool:
        return bool(self.widths and self.widths["local"])

    def rows_of(self, photographs: Sequence[Photograph]) -> np.ndarray:
        """(N,) int64 rows; KeyError for a photograph that was not described as it is now."""
        return np.array([self.keys[photo.key] for photo in photographs], dtype=np.int64)

    def global_descriptors(self, rows: np.ndarray) -> np.ndarray:
        """(N, D) float32 of the rows."""
        return self.codecs["global"].decode(self._globals["code"][rows])

    def count_local(self, rows: np.ndarray) -> np.ndarray:
        """(N,) int64 numbers of local features."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def load_local(self, row: int, limit: int | None = None) -> LocalFeatures:
        """The best `limit` local features; attention relative to the image's largest."""
        first, last = int(self.offsets[row]), int(self.offsets[row + 1])
        records = self._locals[first : last if limit is None else min(last, first + limit)]
        places = records["place"].astype(np.float32)
        if places.size and records["place"].dtype.kind == "u":
            places *= np.asarray(self.frames[row], np.float32) / STEPS
        return LocalFeatures(
            places,
            np.asarray(self.scales, np.float32)[records["scale"]],
            self.codecs["local"].decode(records["code"]),
            records["attention"].astype(np.float32),
        )

    def count_bytes(self) -> dict[str, int]:
        """Bytes by file, names and mark included."""
        return {
            path.name: path.stat().st_size
            for path in sorted(self.folder.iterdir())
            if path.name in (*FILES, MARK, LEVELS)
        }

    # ------------------------------------------------------------------------ writing

    def extend(
        self, photographs: Sequence[Photograph], describe: Describe, progress: bool = True
    ) -> int:
        """Describes the photographs that are not in the store yet; returns how many.

        Interrupted, it keeps what was described before. Two processes take turns.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / LOCK):
            self._load()  # another process may have added some meanwhile
            todo = list({p.key: p for p in photographs if p.key not in self.keys}.values())
            if not todo:
                return 0
            bar = tqdm(
                describe(todo), self.name, len(todo), unit="image", disable=not progress,
                smoothing=0.05,
            )  # fmt: skip
            pending = iter(zip(todo, bar, strict=True))
            while chunk := list(_until_error(islice(pending, CHUNK), self._append)):
                self._append(chunk)
            self._load()
        return len(todo)

    def _append(self, chunk: Sequence[tuple[Photograph, Described]]) -> None:
        """Write some images behind the others, then the mark."""
        if not chunk:
            return
        described = [entry for _, entry in chunk]
        self._begin(described)
        for photo, entry in chunk:
            self._check(photo, entry)
        parts = {
            "global.bin": self._encode_globals(described),
            "local.bin": b"".join(self._encode_locals(entry) for entry in described),
            "images.jsonl": b"".join(
                json.dumps([photo.key, photo.name, len(entry.local), *entry.frame]).encode() + b"\n"
                for photo, entry in chunk
            ),
        }
        sizes = {}
        for name, data in parts.items():
            sizes[name] = self.sizes[name] + len(data)
            _write_at(self.folder / name, self.sizes[name], data)
        self.sizes = sizes
        mark = {
            "version": VERSION, "made_from": self.made_from, "kinds": self.kinds,
            "widths": self.widths, "scales": self.scales, "bytes": sizes,
        }  # fmt: skip
        atomic_write(self.folder / MARK, (json.dumps(mark, indent=1) + "\n").encode())

    def _begin(self, described: Sequence[Described]) -> None:
        """Widths, and levels of one bit, from the first images."""
        if self.widths is not None:
            return
        rows = {
            "global": np.stack([entry.global_ for entry in described]),
            "local": np.concatenate([entry.local.descriptors for entry in described]),
        }
        self.widths = {part: int(values.shape[1]) for part, values in rows.items()}
        levels = {
            part: learn_levels(values) if len(values) else np.zeros((2, values.shape[1]), "f4")
            for part, values in rows.items()
            if self.kinds[part] == "1bit"
        }
        if levels:
            with atomic_path(self.folder / LEVELS) as temporary:
                np.savez(temporary, allow_pickle=False, **levels)
        self._make_codecs(levels)

    def _check(self, photo: Photograph, entry: Described) -> None:
        """ValueError when the descriptors do not fit those of the images before."""
        found = {"global": len(entry.global_), "local": entry.local.descriptors.shape[1]}
        if not len(entry.local):
            found["local"] = self._width("local")
        if found != self.widths:
            raise ValueError(
                f"{photo.path} gives descriptors of widths {found}, the images before "
                f"{self.widths}; they are of different models: {REMEDY}"
            )
        if not np.isfinite(entry.global_).all():
            raise ValueError(f"the global descriptor of {photo.path} is not finite: bad weights?")

    def _encode_globals(self, described: Sequence[Described]) -> bytes:
        codes = self.codecs["global"].encode(np.stack([entry.global_ for entry in described]))
        return np.ascontiguousarray(codes).tobytes()

    def _encode_locals(self, entry: Described) -> bytes:
        features = entry.local
        records = np.zeros(len(features), self._local_dtype)
        if not len(features):
            return b""
        records["code"] = self.codecs["local"].encode(features.descriptors)
        records["scale"] = self._scale_index(features.scales)
        largest = max(float(features.attention.max()), 1e-30)
        records["attention"] = np.maximum(features.attention, 0) / largest
        places = features.locations
        if self._local_dtype["place"].base.kind == "u":
            inside = np.clip(places / np.asarray(entry.frame, np.float32), 0, 1)
            places = np.rint(inside * STEPS)
        records["place"] = places
        return records.tobytes()

    def _scale_index(self, scales: np.ndarray) -> np.ndarray:
        """(n,) uint8 places in the list of scales, which grows by new ones."""
        values, inverse = np.unique(scales, return_inverse=True)
        known = {value: i for i, value in enumerate(self.scales)}
        for value in values.tolist():
            known.setdefault(value, len(known))
        if len(known) > 256:
            raise ValueError(
                f"the features have more than 256 different scales, {values[:5].tolist()} among "
                "them; round them to the levels of an image pyramid"
            )
        self.scales = list(known)
        return np.array([known[value] for value in values.tolist()], np.uint8)[inverse]

    # ------------------------------------------------------------------------ opening

    def _width(self, part: str) -> int:
        return self.widths[part] if self.widths else 0

    def _make_codecs(self, levels: dict[str, np.ndarray]) -> None:
        self.codecs = {
            part: RowCodec(kind, self._width(part), levels.get(part))
            for part, kind in self.kinds.items()
        }
        exact = self.kinds["local"] == "float32"
        self._local_dtype = np.dtype(
            [
                self.codecs["local"].field,
                ("place", "<f4" if exact else "<u2", (2,)),
                ("attention", "<f4" if exact else "<f2"),
                ("scale", "u1"),
            ]
        )

    def _load(self) -> None:
        """Read the mark and map the files."""
        self.sizes = dict.fromkeys(FILES, 0)
        if (self.folder / MARK).is_file():
            self._read_mark()
        else:
            self._make_codecs({})
        self._globals = self._map("global.bin", np.dtype([self.codecs["global"].field]))
        self._locals = self._map("local.bin", self._local_dtype)
        images = self._read_images()
        self.keys = {str(entry[0]): row for row, entry in enumerate(images)}
        self.frames = np.array([entry[3:5] for entry in images], np.float32).reshape(-1, 2)
        counts = np.array([entry[2] for entry in images], np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if len(self._globals) != len(images) or len(self._locals) != self.offsets[-1]:
            raise ValueError(f"{self.folder} is a damaged store (its files disagree); {REMEDY}")

    def _read_mark(self) -> None:
        path = self.folder / MARK
        try:
            mark = json.loads(path.read_text(encoding="utf-8"))
            found = {key: mark[key] for key in ("version", "made_from", "kinds")}
            self.widths, self.scales = dict(mark["widths"]), list(mark["scales"])
            self.sizes = {name: int(mark["bytes"][name]) for name in FILES}
            levels = self._read_levels(mark["kinds"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ValueError(
                f"{path} is damaged ({type(error).__name__}: {error}); {REMEDY}"
            ) from error
        wanted = {"version": VERSION, "made_from": self.made_from, "kinds": self.kinds}
        if found != wanted:
            differing = "; ".join(_differences(found, wanted))
            raise ValueError(f"{self.folder} holds another store ({differing}); {REMEDY}")
        self._make_codecs(levels)

    def _read_levels(self, kinds: dict[str, str]) -> dict[str, np.ndarray]:
        if "1bit" not in kinds.values():
            return {}
        with np.load(self.folder / LEVELS, allow_pickle=False) as file:
            return {part: file[part] for part, kind in kinds.items() if kind == "1bit"}

    def _map(self, name: str, dtype: np.dtype) -> np.ndarray:
        size = self._require_size(name)
        if not size:
            return np.empty(0, dtype)
        if size % dtype.itemsize:
            raise ValueError(f"{self.folder / name} is damaged; {REMEDY}")
        return np.memmap(self.folder / name, dtype, "r", shape=(size // dtype.itemsize,))

    def _read_images(self) -> list[list[Any]]:
        size = self._require_size("images.jsonl")
        if not size:
            return []
        with (self.folder / "images.jsonl").open("rb") as file:
            lines = file.read(size).decode("utf-8", errors="replace").splitlines()
        try:
            entries = [json.loads(line) for line in lines]
            if all(len(e) == 5 and int(e[2]) >= 0 for e in entries):
                return entries
        except (ValueError, TypeError):
            pass
        raise ValueError(f"{self.folder / 'images.jsonl'} is damaged; {REMEDY}")

    def _require_size(self, name: str) -> int:
        """Bytes that count; ValueError when the file has fewer."""
        path, size = self.folder / name, self.sizes[name]
        there = path.stat().st_size if path.is_file() else 0
        if there < size:
            raise ValueError(f"{path} has {there} bytes, its mark says {size}; {REMEDY}")
        return size


def copy_store(
    source: Store, folder: str | Path, photographs: Sequence[Photograph], kind: str,
    max_locals: int | None = None,
) -> Store:  # fmt: skip
    """The descriptors of `photographs` in another kind, with at most `max_locals` locals each."""
    target = Store(folder, {**source.made_from, "copied_locals": max_locals}, kind, kind)

    def describe(photos: Sequence[Photograph]) -> Iterator[Described]:
        for row in source.rows_of(photos):
            height, width = source.frames[row]
            global_ = source.global_descriptors(row[None])[0]
            yield Described(
                global_, source.load_local(int(row), max_locals), (int(height), int(width))
            )

    target.extend(photographs, describe, progress=False)
    return target


def _until_error(
    items: Iterator[tuple[Photograph, Described]],
    save: Callable[[list[tuple[Photograph, Described]]], None],
) -> Iterator[tuple[Photograph, Described]]:
    """The items; before an error or an interrupt goes on its way, those before it are saved."""
    seen = []
    try:
        for item in items:
            seen.append(item)
            yield item
    except BaseException:
        save(seen)
        raise


def _write_at(path: Path, size: int, data: bytes) -> None:
    """Write behind the first `size` bytes, cutting off what an interrupted writer left there."""
    try:
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(size)
            file.seek(size)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} cannot be written: {error.strerror}; free space there or name another folder",
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the next one waits. The lock ends with the process."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process adds to %s; waiting for it", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """What differs, in words."""
    for key, value in wanted.items():
        other = found.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            names = dict.fromkeys([*other, *value])
            pairs = [(f"{key} {name}", other.get(name), value.get(name)) for name in names]
        else:
            pairs = [(key, other, value)]
        yield from (f"{name} {a!r} instead of {b!r}" for name, a, b in pairs if a != b)
