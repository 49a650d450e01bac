"""Images -> global features and local maps, in memory or in a file that an interrupted run resumes.

With several ranks each extracts a share of the images, and all of them get everything.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from utils.array_files import create_map, map_array
from utils.distributed import Ranks
from utils.locks import Lock
from utils.paths import atomic_write
from utils.text_files import read_json_object

logger = logging.getLogger(__name__)

GATHERED = 1 << 28  # bytes that ranks exchange at a time
SAVE_EVERY = 2048  # images between two marks of what is done


@dataclass(frozen=True)
class Loading:
    """How images are read for evaluation."""

    batch_size: int = 256  # images per step
    num_workers: int = 0  # processes that read images; 0: none
    pin_memory: bool = True  # page-locked batches, where there is a GPU
    progress: bool = True  # show a bar


class Store:
    """(N, ...) rows filled in order; with a path, in a file beside a mark of what is done.

    A file of the same origin is taken up where it stood; one of another origin is made anew.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        path: Path | None = None,
        origin: dict[str, Any] | None = None,
        dtype: type[np.floating] = np.float32,
    ) -> None:
        """`path`: ending in .npy; `origin`: plain values which say what the rows are made from."""
        self.path, self.done, self.dtype = path, 0, dtype
        self.array: np.ndarray
        if path is None:
            self.array = np.empty(shape, dtype)
            return
        self.mark = path.with_suffix(".json")
        self.record = json.loads(json.dumps({"origin": origin, "shape": list(shape)}))
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
        fits = [list(array.shape), array.dtype] == [self.record["shape"], self.dtype]
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


def fingerprint_of(array: np.ndarray) -> str:
    """Short digest of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:16]


def fingerprint(module: torch.nn.Module) -> str:
    """Short digest of all weights, by which features of other weights are recognised."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def read_batches(
    images: Dataset, rows: np.ndarray, loading: Loading, device: torch.device
) -> Iterator[Tensor]:
    """The images `rows` in order, (B, 3, H, W) on `device`."""
    loader = DataLoader(
        Subset(images, rows.tolist()),
        batch_size=loading.batch_size,
        num_workers=loading.num_workers,
        pin_memory=loading.pin_memory and device.type == "cuda",
        # a generator of its own: torch's global random stream is left alone
        generator=torch.Generator(),
    )
    for batch, *_ in loader:
        yield batch.to(device, non_blocking=True)


@torch.no_grad()
def extract(
    function: Callable[[Tensor], Tensor],
    images: Dataset,
    store: Store,
    loading: Loading,
    ranks: Ranks | None = None,
    what: str = "features",
) -> np.ndarray:
    """Fill `store` with `function` of all images, from its `done` on; returns its array.

    `function`: (B, 3, H, W) -> (B, ...) as the store's rows. With several ranks the store must be
    in memory, and every rank ends with all rows.
    """
    ranks = ranks or Ranks()
    if ranks.world > 1 and store.path is not None:
        raise ValueError("several processes cannot share a file of features; leave temp_dir alone")
    count = len(store.array)
    rows = np.arange(store.done + ranks.rank, count, ranks.world)
    at, last_mark = 0, store.done
    silent = not (loading.progress and ranks.is_first)
    with tqdm(total=len(rows), desc=what, unit="image", disable=silent) as bar:
        for batch in read_batches(images, rows, loading, ranks.device):
            mine = rows[at : at + len(batch)]
            found = function(batch).float().cpu().numpy()
            if not np.isfinite(found).all():
                raise ValueError(
                    f"{what} of images {mine[0]}..{mine[-1]} are not finite: damaged weights, or "
                    "another model than the checkpoint's"
                )
            store.array[mine] = found
            at += len(batch)
            bar.update(len(batch))
            if ranks.world == 1 and mine[-1] + 1 - last_mark >= SAVE_EVERY:
                last_mark = int(mine[-1]) + 1
                store.save_mark(last_mark)
    if ranks.world > 1:
        share_rows(store.array, ranks)
    store.save_mark(count)
    return store.array


def share_rows(array: np.ndarray, ranks: Ranks) -> None:
    """Give every rank the rows of all: row i comes from rank i modulo their number; in place."""
    flat = array.reshape(len(array), -1)
    step = max(1, GATHERED // (flat.shape[1] * flat.itemsize))
    for start in range(0, len(flat), step):
        part = flat[start : start + step]
        others = np.arange(start, start + len(part)) % ranks.world != ranks.rank
        part[others] = 0
        part[:] = ranks.sum_(torch.from_numpy(part).to(ranks.device).float()).cpu().numpy()
