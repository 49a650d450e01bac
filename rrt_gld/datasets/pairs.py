"""Padded batches of triplets (anchor, positive, negative), from files or from memory."""

import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from rrt_gld.datasets.image_set import ImageSet, Item

GIB = 1 << 30


class PaddedImages(NamedTuple):
    """B images, padded to the longest of them; the order of the matcher's arguments."""

    global_: Tensor  # (B, D_global) float32
    local: Tensor  # (B, L, D) float32, zero on padding
    mask: Tensor  # (B, L) bool, True = padding
    scales: Tensor  # (B, L) int64, 0 on padding
    positions: Tensor  # (B, L, 2) float32, zero on padding

    def to(self, device: torch.device) -> "PaddedImages":
        return PaddedImages(*(part.to(device, non_blocking=True) for part in self))

    def pin_memory(self) -> "PaddedImages":
        return PaddedImages(*(part.pin_memory() for part in self))


class TripletBatch(NamedTuple):
    """T anchors and their 2T partners: positives first, then negatives."""

    anchors: PaddedImages
    partners: PaddedImages

    def to(self, device: torch.device) -> "TripletBatch":
        return TripletBatch(self.anchors.to(device), self.partners.to(device))

    def keep_random_locals(self, keep: int) -> "TripletBatch":
        """At most `keep` local features per image."""
        return TripletBatch(*(keep_random_locals(part, keep) for part in self))

    def pin_memory(self) -> "TripletBatch":
        return TripletBatch(self.anchors.pin_memory(), self.partners.pin_memory())


def keep_random_locals(images: PaddedImages, keep: int) -> PaddedImages:
    """At most `keep` local features per image, drawn at random and left in their order.

    Draws from torch's global stream, whose state an interrupted run takes up again.
    """
    if images.mask.shape[1] <= keep:
        return images
    noise = torch.rand(images.mask.shape).masked_fill_(images.mask, 2.0)  # padding goes last
    kept = noise.topk(keep, dim=1, largest=False).indices.sort(dim=1).values
    rows = torch.arange(len(kept))[:, None]
    parts = (
        part[rows, kept] for part in (images.local, images.mask, images.scales, images.positions)
    )
    return PaddedImages(images.global_, *parts)


def collate(items: Sequence[Item], length: int | None = None) -> PaddedImages:
    """Pad `items` to `length`, by default to the longest of them (at least 1)."""
    counts = [len(item.local) for item in items]
    length = max([1, *counts]) if length is None else length
    shape = (len(items), length)
    local = np.zeros((*shape, items[0].local.shape[1]), dtype=np.float32)
    mask = np.ones(shape, dtype=bool)
    scales = np.zeros(shape, dtype=np.int64)
    positions = np.zeros((*shape, 2), dtype=np.float32)
    for i, (item, n) in enumerate(zip(items, counts, strict=True)):
        local[i, :n], mask[i, :n] = item.local, False
        scales[i, :n], positions[i, :n] = item.scales, item.positions
    global_ = np.stack([item.global_ for item in items])
    parts = (global_, local, mask, scales, positions)
    return PaddedImages(*(torch.from_numpy(part) for part in parts))


class FileImages:
    """Batches read from the descriptor files, each time anew: for sets larger than memory."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def load_batch(self, rows: np.ndarray) -> PaddedImages:
        """Images `rows` (B,), padded to the longest of them; a row that recurs is read once."""
        items = {int(i): self.images.load_item(int(i)) for i in np.unique(rows)}
        return collate([items[int(i)] for i in rows])


class CachedImages:
    """All descriptors of a set in memory, ragged: no file is read twice.

    The local descriptors of all images lie behind each other; the last row is zero and serves as
    padding, so that a padded batch is one indexed copy per array.
    """

    def __init__(self, images: ImageSet, budget_gib: float, progress: bool = True) -> None:
        """Reads every file once; MemoryError when the set needs more than `budget_gib`.

        `size_gib` is what it takes.
        """
        counts = self._count(images)
        total, width = int(counts.sum()), images.local_dim
        global_ = images.global_descriptors()
        per_local = 4 * width + 8 + 8  # descriptor, scale index, position
        self.size_gib = (total * per_local + global_.nbytes) / GIB
        if self.size_gib > budget_gib:
            raise MemoryError(
                f"{images.txt}: caching {total:,} local descriptors takes {self.size_gib:.2f} GiB, "
                f"more than cache_budget_gib={budget_gib:g}; raise it or set cache_locals=False"
            )
        self.offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
        self.global_ = torch.from_numpy(global_)
        self.local = torch.zeros(total + 1, width)
        self.scales = torch.zeros(total + 1, dtype=torch.int64)
        self.positions = torch.zeros(total + 1, 2)
        rows = tqdm(range(len(images)), "local descriptors", unit="image", disable=not progress)
        for i in rows:
            span = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
            local, scales, positions = images.load_local_item(i)
            self.local[span] = torch.from_numpy(local)
            self.scales[span] = torch.from_numpy(scales)
            self.positions[span] = torch.from_numpy(positions)

    @staticmethod
    def _count(images: ImageSet) -> np.ndarray:
        counts = [images.count_local(i) for i in range(len(images))]
        return np.array(counts, dtype=np.int64)

    def load_batch(self, rows: np.ndarray) -> PaddedImages:
        """Images `rows` (B,), padded to the longest of them (at least 1)."""
        index = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        start, end = self.offsets[index], self.offsets[index + 1]
        steps = torch.arange(max(1, int((end - start).max())))
        mask = steps >= (end - start)[:, None]
        flat = (start[:, None] + steps).masked_fill_(mask, len(self.local) - 1).flatten()
        shape = mask.shape
        return PaddedImages(
            self.global_[index],
            self.local.index_select(0, flat).unflatten(0, shape),
            mask,
            self.scales.index_select(0, flat).unflatten(0, shape),
            self.positions.index_select(0, flat).unflatten(0, shape),
        )


class TripletBatches(Dataset):
    """Dataset whose key is a whole batch of triplets, (T, 3) int64: anchor, positive, negative."""

    def __init__(self, source: FileImages | CachedImages) -> None:
        self.source = source

    def __getitem__(self, triplets: np.ndarray) -> TripletBatch:
        partners = np.concatenate([triplets[:, 1], triplets[:, 2]])
        return TripletBatch(
            self.source.load_batch(triplets[:, 0]), self.source.load_batch(partners)
        )


def _leave_interrupts_to_parent(_: int) -> None:
    """For worker processes: Ctrl-C reaches them too, but the step under way needs its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def make_batches(
    source: FileImages | CachedImages,
    batches: Sequence[np.ndarray],
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[TripletBatch]:
    """Iterate over `batches` of triplets, each (T, 3) int64, in order.

    A cached source is read in this process. The loader gets a generator of its own, so that it
    leaves torch's global random stream alone.
    """
    loader = DataLoader(
        TripletBatches(source),
        batch_size=None,
        sampler=batches,
        num_workers=0 if isinstance(source, CachedImages) else num_workers,
        pin_memory=pin_memory and torch.cuda.is_available(),
        generator=torch.Generator(),
        worker_init_fn=_leave_interrupts_to_parent,
    )
    return iter(loader)
