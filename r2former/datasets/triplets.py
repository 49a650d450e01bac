"""Groups of training images (query, positive, negatives), shared out among the processes."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from r2former.datasets.images import load_image
from r2former.datasets.place_set import PlaceSet
from r2former.datasets.transforms import Transform

SEEDS = 2**63


@dataclass(frozen=True)
class GroupBatch:
    """One process's share of a batch of B groups of T images."""

    images: Tensor | None  # (b, T, 3, H, W); None where the share is empty
    count: int  # B, of the whole batch
    slots: int  # T
    places: Tensor | None = None  # (b, T, 3) float64, where images were taken, where that is known


@dataclass(frozen=True)
class GroupOptions:
    """How groups are read."""

    train_batch_size: int  # groups of a batch, all processes together
    num_workers: int = 0
    horizontal_flip: bool = False  # all images of a batch, or none
    rank: int = 0
    world: int = 1


class Groups(Dataset[Tensor]):
    """Items (row of `triplets`, seed, flip): (T, 3, H, W).

    Augmentation is drawn from a stream of that seed, so that it depends neither on the worker that
    reads a group nor on the groups before it.
    """

    def __init__(
        self, places: PlaceSet, triplets: np.ndarray, others: Transform, queries: Transform
    ) -> None:
        """`triplets`: (G, T) query index, then database indices."""
        self.places, self.triplets = places, triplets
        self.others, self.queries = others, queries

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, item: tuple[int, int, bool]) -> Tensor:
        row, seed, flip = item
        query, *others = self.triplets[row].tolist()
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            images = [self.queries(load_image(self.places.query_paths[query]))]
        images += [self.others(load_image(self.places.database_paths[i])) for i in others]
        group = torch.stack(images)
        return group.flip(-1) if flip else group


def count_batches(triplets: np.ndarray, train_batch_size: int) -> int:
    """Whole batches; an incomplete last one is dropped, as published."""
    return len(triplets) // train_batch_size


class GroupSet(Protocol):
    """Groups as `make_batches` reads them: `Groups`, or packed rows in place of images."""

    places: PlaceSet
    triplets: np.ndarray

    def __len__(self) -> int: ...

    def __getitem__(self, item: tuple[int, int, bool]) -> Tensor: ...


def make_batches(
    groups: GroupSet, options: GroupOptions, done: int, seed: int, pin_memory: bool = False
) -> Iterator[GroupBatch]:
    """This process's shares of the batches after the first `done`, in the order of the triplets.

    Group g is augmented from the stream of seed `seed` + g, whichever process and worker reads it.
    """
    size, slots = options.train_batch_size, groups.triplets.shape[1]
    total = count_batches(groups.triplets, size)
    flips = np.random.default_rng(seed).random(total) < (0.5 if options.horizontal_flip else 0.0)
    shares = [
        [
            (row, (seed + row) % SEEDS, bool(flips[batch]))
            for row in range(batch * size + options.rank, (batch + 1) * size, options.world)
        ]
        for batch in range(done, total)
    ]
    loader = iter(
        DataLoader(
            cast(Groups, groups),
            batch_sampler=[share for share in shares if share],
            num_workers=options.num_workers,
            pin_memory=pin_memory and torch.cuda.is_available(),
            generator=torch.Generator(),  # leaves torch's global stream alone
            worker_init_fn=leave_interrupts_to_parent,
        )
    )
    for share in shares:
        if not share:
            yield GroupBatch(None, size, slots)
            continue
        where = None
        if groups.places.has_positions:
            rows = groups.triplets[[row for row, _, _ in share]]
            where = torch.from_numpy(groups.places.places_of(rows))
        yield GroupBatch(next(loader), size, slots, where)


def leave_interrupts_to_parent(_: int) -> None:
    """For worker processes: Ctrl-C reaches them too, but the step under way needs its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
