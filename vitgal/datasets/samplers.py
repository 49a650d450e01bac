"""Which images a process sees in an epoch, and in which batches."""

import signal
from collections.abc import Iterable, Iterator, Sequence, Sized

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from utils.distributed import Ranks
from vitgal.datasets.gldv2 import LandmarkImages

Batch = tuple[torch.Tensor, ...]  # (B, 3, S, S) float32, (B,) int64, perhaps links (B / 2, N)


class EpochBatches:
    """Batches of one process: a fresh permutation each epoch, the last incomplete batch dropped.

    The permutation of an epoch is that of torch's DistributedSampler with seed 0, and like there a
    process takes every world-th image, the list being filled up from its start when it does not
    divide evenly.
    """

    def __init__(self, num_images: int, batch_size: int, ranks: Ranks, seed: int = 0) -> None:
        self.num_images, self.batch_size = num_images, batch_size
        self.ranks, self.seed = ranks, seed
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        if not len(self):
            raise ValueError(
                f"{num_images} images shared by {ranks.world} processes make no batch of "
                f"{batch_size} each; lower dataset.batch_size"
            )

    @property
    def images_per_rank(self) -> int:
        return -(-self.num_images // self.ranks.world)

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.images_per_rank // self.batch_size

    def draw(self, epoch: int) -> np.ndarray:
        """(batches, batch_size) int64: indices of the images of each batch of this process."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(self.num_images, generator=generator).numpy()
        missing = self.images_per_rank * self.ranks.world - len(order)
        mine = np.concatenate([order, order[:missing]])[self.ranks.rank :: self.ranks.world]
        return mine[: len(self) * self.batch_size].reshape(len(self), self.batch_size)


class _Keys(Sized, Iterable[list[tuple[int, int]]]):
    """(epoch, index) of the images of each batch, made when they are asked for."""

    def __init__(self, batches: Sequence[Sequence[int]] | np.ndarray, epoch: int) -> None:
        self.batches, self.epoch = batches, epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches:
            yield [(self.epoch, int(index)) for index in batch]


def make_loader(
    images: LandmarkImages,
    batches: Sequence[Sequence[int]] | np.ndarray,
    epoch: int,
    num_workers: int,
    pin_memory: bool,
) -> Iterator[Batch]:
    """The batches in order, read ahead by `num_workers` processes."""
    return iter(
        DataLoader(
            images,
            batch_sampler=_Keys(batches, epoch),
            num_workers=min(num_workers, len(batches)),
            pin_memory=pin_memory and torch.cuda.is_available(),
            collate_fn=join_views if images.has_two_views else None,
            worker_init_fn=_start_worker,
        )
    )


def join_views(items: Sequence[tuple[torch.Tensor, ...]]) -> Batch:
    """The views of all photographs, one after the other, their labels, and the links."""
    return tuple(torch.cat(parts) for parts in zip(*items, strict=True))


def _start_worker(_: int) -> None:
    """Workers share the processor already: each keeps to one thread.

    Ctrl-C reaches all processes of a terminal; training needs its images for the step under way.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def make_val_batches(num_images: int, batch_size: int, ranks: Ranks) -> list[list[int]]:
    """Each image once, over all processes; those of this one, in order."""
    mine = list(range(ranks.rank, num_images, ranks.world))
    return [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]
