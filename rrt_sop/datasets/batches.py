"""Batches of training images, shared out among the processes of a run."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rrt_sop.datasets.image_list import DrawnItems, LabelledItems

SEEDS = 2**63


@dataclass(frozen=True)
class Batch:
    """One process's share of a global batch of B images."""

    # (b, 3, H, W) in [0, 1], or what stands for them; None where the share is empty
    images: Tensor | None
    places: Tensor  # (b,) int64: where these images stand in the global batch, ascending
    labels: Tensor  # (B,) int64, of the whole global batch

    def to(self, device: torch.device) -> "Batch":
        images = None if self.images is None else self.images.to(device, non_blocking=True)
        return Batch(images, self.places.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Sharing:
    """How global batches are shared out: in units of `unit` images, dealt like cards."""

    rank: int = 0
    world: int = 1
    unit: int = 1  # images that stay together: 3 for triplets

    def places(self, size: int) -> np.ndarray:
        """Positions of this process's images in a global batch of `size` images."""
        units = np.arange(size).reshape(-1, self.unit)
        return units[self.rank :: self.world].reshape(-1)


def make_batches(
    images: LabelledItems,
    batches: Sequence[np.ndarray],
    done: int,
    epoch_seed: int,
    sharing: Sharing,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """This process's shares of an epoch's `batches` (index arrays (B,)) after the first `done`.

    The image at position p of the epoch is cropped from the stream of seed `epoch_seed` + p,
    whichever process and worker reads it. The loader gets a generator of its own, so that torch's
    global random stream is left alone.
    """
    first = np.cumsum([0, *map(len, batches)])  # position of each batch's first image
    places = [sharing.places(len(batch)) for batch in batches]
    drawn = [
        [(int(batch[p]), int(start + p + epoch_seed) % SEEDS) for p in mine]
        for batch, mine, start in list(zip(batches, places, map(int, first), strict=False))[done:]
    ]
    loader = iter(
        DataLoader(
            DrawnItems(images),
            batch_sampler=[items for items in drawn if items],
            num_workers=num_workers,
            pin_memory=pin_memory and torch.cuda.is_available(),
            generator=torch.Generator(),
            worker_init_fn=_leave_interrupts_to_parent,
        )
    )
    for batch, mine in zip(batches[done:], places[done:], strict=True):
        own = next(loader)[0] if len(mine) else None
        yield Batch(own, torch.from_numpy(mine), torch.from_numpy(images.labels[batch]))


def _leave_interrupts_to_parent(_: int) -> None:
    """For worker processes: Ctrl-C reaches them too, but the step under way needs its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
