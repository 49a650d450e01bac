"""Images -> global features and local maps, in memory or in a file that an interrupted run resumes.

With several ranks each extracts a share of the images, and all of them get everything.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from utils.distributed import Ranks
from utils.row_store import Store

logger = logging.getLogger(__name__)

SAVE_EVERY = 2048  # images between two marks of what is done


@dataclass(frozen=True)
class Loading:
    """How images are read for evaluation."""

    batch_size: int = 256  # images per step
    num_workers: int = 0  # processes that read images; 0: none
    pin_memory: bool = True  # page-locked batches, where there is a GPU
    progress: bool = True  # show a bar


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
        ranks.share_rows(store.array)
    store.save_mark(count)
    return store.array
