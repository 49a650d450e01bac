"""Rows of features filled in order, in memory or in a file that an interrupted run resumes."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from utils.array_files import create_map, map_array
from utils.locks import Lock
from utils.paths import atomic_write
from utils.text_files import read_json_object

logger = logging.getLogger(__name__)

DTYPES = ("float32", "float16")


class Store:
    """(N, ...) rows; with a path, in a file beside a mark of what is done.

    A file of the same origin is taken up where it stood; one of another origin is made anew.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        path: Path | None = None,
        origin: dict[str, Any] | None = None,
        dtype: str = "float32",
    ) -> None:
        """`path`: ending in .npy; `origin`: plain values which say what the rows are made from."""
        if dtype not in DTYPES:
            raise ValueError(f"features are stored as {dtype!r}, expected one of {list(DTYPES)}")
        self.path, self.done = path, 0
        self.array: np.ndarray
        if path is None:
            self.array = np.empty(shape, dtype)
            return
        self.mark = path.with_suffix(".json")
        made_from = {"origin": origin, "shape": list(shape), "dtype": dtype}
        self.record = json.loads(json.dumps(made_from))
        self.lock = Lock(path)  # another process that fills the file is waited for
        found = self._read_mark()
        if found is not None:
            self.array = map_array(path, "delete it", writable=True)
            self.done = found
            if found == shape[0]:
                self.lock.release()
            logger.info("%s: %d of %d rows are there, going on", path, found, shape[0])
        else:
            self.mark.unlink(missing_ok=True)
            self.array = create_map(path, dtype, shape)

    def _read_mark(self) -> int | None:
        """Rows that are there; None when the file is missing, damaged or of another origin."""
        assert self.path is not None
        if not (self.path.is_file() and self.mark.is_file()):
            return None
        try:
            mark = read_json_object(self.mark, "")
            array = map_array(self.path, "")
        except ValueError:
            return None
        fits = [list(array.shape), str(array.dtype)] == [self.record["shape"], self.record["dtype"]]
        same = {key: mark.get(key) for key in self.record} == self.record
        done = mark.get("done")
        return done if fits and same and type(done) is int and 0 <= done <= len(array) else None

    def save_mark(self, done: int) -> None:
        """The first `done` rows are complete."""
        self.done = done
        if self.path is not None:
            assert isinstance(self.array, np.memmap)
            self.array.flush()
            text = json.dumps({**self.record, "done": done}, indent=2)
            atomic_write(self.mark, text.encode())
            if done == len(self.array):
                self.lock.release()

    def remove(self) -> None:
        """Delete the file and its mark."""
        if self.path is not None:
            self.mark.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            self.lock.release()


class Resumption:
    """Files of a folder in which an evaluation keeps what it has, to go on after an interrupt.

    They count only for the same weights, images and options (`origin`).
    """

    def __init__(self, folder: str | Path, origin: dict[str, Any]) -> None:
        self.folder, self.origin = Path(folder), origin
        self.stores: list[Store] = []
        self.shared: list[Path] = []  # files that several processes map

    def store(
        self, name: str, shape: tuple[int, ...], dtype: str = "float32", **origin: Any
    ) -> Store:
        """The rows `name`, as far as they are there."""
        path = self.folder / f"partial_{name}.npy"
        self.stores.append(Store(shape, path, {**self.origin, **origin}, dtype))
        return self.stores[-1]

    def remove(self) -> None:
        """Delete the files: the evaluation is complete."""
        for store in self.stores:
            store.remove()
        for path in self.shared:
            path.unlink(missing_ok=True)  # mapped files live on until all have closed them


def hash_arrays(*arrays: np.ndarray) -> str:
    """Short digest of the values of arrays, by which what was made from others is recognised."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
