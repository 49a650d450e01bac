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

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from search import store_files
from search.codec import RowCodec, check_kind, learn_levels
from search.photographs import Photograph
from search.store_files import FILES, LEVELS, MARK, PARTS, REMEDY, Mark
from utils.descriptors import LocalFeatures

CHUNK = 256  # images between two marks; levels of 1bit are learned from the first so many
STEPS = 65535  # of a place within the image, where it is kept as 16 bits


class Described(NamedTuple):
    """Descriptors of one image."""

    global_: np.ndarray  # (D,)
    local: LocalFeatures  # best first; locations (y, x) in pixels of the frame
    frame: tuple[int, int]  # height and width that the locations are counted in


# photographs -> their descriptors, in the same order
Describe = Callable[[Sequence[Photograph]], Iterator[Described]]
Pair = tuple[Photograph, Described]


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
        self._load()

    # ------------------------------------------------------------------------ reading

    def __len__(self) -> int:
        """Rows, those of changed photographs included."""
        return len(self.frames)

    @property
    def name(self) -> str:
        """Of the descriptors."""
        return str(self.made_from["descriptor"])

    @property
    def has_locals(self) -> bool:
        return self.codecs["local"].width > 0

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
        if records["place"].dtype.kind == "u":
            places *= np.asarray(self.frames[row], np.float32) / STEPS
        if len(records) and records["scale"].max() >= len(self.mark.scales):
            raise ValueError(f"{self.folder / 'local.bin'} is damaged: an unknown scale; {REMEDY}")
        return LocalFeatures(
            places,
            np.asarray(self.mark.scales, np.float32)[records["scale"]],
            self.codecs["local"].decode(records["code"]),
            records["attention"].astype(np.float32),
        )

    def count_bytes(self) -> dict[str, int]:
        """Bytes by file, names and mark included."""
        paths = (self.folder / name for name in (*FILES, MARK, LEVELS))
        return {path.name: path.stat().st_size for path in paths if path.is_file()}

    # ------------------------------------------------------------------------ writing

    def extend(
        self, photographs: Sequence[Photograph], describe: Describe, progress: bool = True
    ) -> int:
        """Describes the photographs that are not in the store yet; returns how many.

        Interrupted, it keeps what was described before. Two processes take turns.
        """
        with store_files.locked(self.folder):
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

    def _append(self, chunk: Sequence[Pair]) -> None:
        """Write some images behind the others, then the mark."""
        if not chunk:
            return
        described = [entry for _, entry in chunk]
        self._begin(described)
        for photo, entry in chunk:
            self._check(photo, entry)
        data = {
            "global.bin": self._encode_globals(described),
            "local.bin": b"".join(self._encode_locals(entry) for entry in described),
            "images.jsonl": store_files.format_images(
                [(p.key, p.name, len(entry.local), *entry.frame) for p, entry in chunk]
            ),
        }
        self.mark.sizes = {
            name: store_files.write_behind(self.folder / name, self.mark.sizes[name], data[name])
            for name in FILES
        }
        store_files.write_mark(self.folder, self.mark)

    def _begin(self, described: Sequence[Described]) -> None:
        """Widths, and levels of one bit, from the first images."""
        if self.mark.widths:
            return
        rows = {
            "global": np.stack([entry.global_ for entry in described]),
            "local": np.concatenate([entry.local.descriptors for entry in described]),
        }
        self.mark.widths = {part: int(values.shape[1]) for part, values in rows.items()}
        levels = {
            part: learn_levels(values) if len(values) else np.zeros((2, values.shape[1]), "f4")
            for part, values in rows.items()
            if self.kinds[part] == "1bit"
        }
        if levels:
            store_files.write_levels(self.folder, levels)
        self._make_codecs(levels)

    def _check(self, photo: Photograph, entry: Described) -> None:
        """ValueError when the descriptors do not fit those of the images before."""
        found = {"global": len(entry.global_), "local": entry.local.descriptors.shape[1]}
        if not len(entry.local):
            found["local"] = self.mark.widths["local"]
        if found != self.mark.widths:
            raise ValueError(
                f"{photo.path} gives descriptors of widths {found}, the images before "
                f"{self.mark.widths}; they are of different models: {REMEDY}"
            )
        if not np.isfinite(entry.global_).all():
            raise ValueError(f"the global descriptor of {photo.path} is not finite: bad weights?")

    def _encode_globals(self, described: Sequence[Described]) -> bytes:
        codes = self.codecs["global"].encode(np.stack([entry.global_ for entry in described]))
        return np.ascontiguousarray(codes).tobytes()

    def _encode_locals(self, entry: Described) -> bytes:
        features = entry.local
        if not len(features):
            return b""
        records = np.zeros(len(features), self._local_dtype)
        records["code"] = self.codecs["local"].encode(features.descriptors)
        records["scale"] = self._scale_index(features.scales)
        largest = max(float(features.attention.max()), 1e-30)
        records["attention"] = np.maximum(features.attention, 0) / largest
        places = features.locations
        if records["place"].dtype.kind == "u":
            inside = np.clip(places / np.asarray(entry.frame, np.float32), 0, 1)
            places = np.rint(inside * STEPS)
        records["place"] = places
        return records.tobytes()

    def _scale_index(self, scales: np.ndarray) -> np.ndarray:
        """(n,) uint8 places in the list of scales, which grows by new ones."""
        values, inverse = np.unique(scales, return_inverse=True)
        known = {value: i for i, value in enumerate(self.mark.scales)}
        for value in values.tolist():
            known.setdefault(value, len(known))
        if len(known) > 256:
            raise ValueError(
                f"the features have more than 256 different scales, {values[:5].tolist()} among "
                "them; round them to the levels of an image pyramid"
            )
        self.mark.scales = list(known)
        return np.array([known[value] for value in values.tolist()], np.uint8)[inverse]

    # ------------------------------------------------------------------------ opening

    def _make_codecs(self, levels: dict[str, np.ndarray]) -> None:
        self.codecs = {
            part: RowCodec(self.kinds[part], self.mark.widths.get(part, 0), levels.get(part))
            for part in PARTS
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
        mark = store_files.read_mark(self.folder)
        if mark is not None:
            mark.require(self.made_from, self.kinds, self.folder)
        self.mark = mark or Mark(self.made_from, self.kinds)
        self._make_codecs(store_files.read_levels(self.folder, self.mark))
        dtypes = (np.dtype([self.codecs["global"].field]), self._local_dtype)
        self._globals, self._locals = (
            store_files.map_records(self.folder / name, self.mark.sizes[name], dtype)
            for name, dtype in zip(FILES[:2], dtypes, strict=True)
        )
        images = store_files.read_images(self.folder / FILES[2], self.mark.sizes[FILES[2]])
        self.keys = {line[0]: row for row, line in enumerate(images)}
        self.frames = np.array([line[3:] for line in images], np.float32).reshape(-1, 2)
        counts = np.array([line[2] for line in images], np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if len(self._globals) != len(images) or len(self._locals) != self.offsets[-1]:
            raise ValueError(f"{self.folder} is a damaged store (its files disagree); {REMEDY}")


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


def _until_error(items: Iterator[Pair], save: Callable[[list[Pair]], None]) -> Iterator[Pair]:
    """The items; before an error or an interrupt goes on its way, those before it are saved."""
    seen = []
    try:
        for item in items:
            seen.append(item)
            yield item
    except BaseException:
        save(seen)
        raise
