"""Batches of training images: identities with several images each, triplets, or plain shuffling.

All draw as the published runs did: Python's `random` for identities, images and partners, torch's
stream for the order of the anchors. An epoch is drawn at once, as index arrays.
"""

import math
import random
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

NUM_CANDIDATES = 100  # columns of the neighbour table that negatives come from
BLOCK = 20_000  # rows of the neighbour table handled at a time
TABLE_REMEDY = (
    "make the table of the training images with python -m rrt_sop.eval_global with query_set=train"
)


class Sampler(Protocol):
    """What the training loop asks of a sampler; also a `batch_sampler` of torch."""

    def draw_batches(self) -> list[np.ndarray]:
        """The batches of one epoch, each (B,) int64 image indices; advances the random streams."""

    def __len__(self) -> int:
        """Batches per epoch."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """The batches of a fresh epoch."""


def _by_label(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) images sorted by label and index; of each label, where its images start and end."""
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(int(labels.max()) + 2))
    return order, bounds[:-1], bounds[1:]


class RandomIdSampler:
    """Batches of distinct identities with `sample_per_id` distinct images each, side by side.

    Identities with fewer images are never drawn; between batches identities repeat freely.
    """

    def __init__(
        self, labels: np.ndarray, batch_size: int, sample_per_id: int = 2, num_iterations: int = 1
    ) -> None:
        """Find the identities with enough images.

        Args:
            labels: (N,) int64, numbered from 0.
            batch_size: images per batch, a multiple of `sample_per_id`.
            num_iterations: batches per epoch.

        Raises:
            ValueError: sizes that do not divide, fewer usable identities than a batch needs.
        """
        if sample_per_id < 1 or batch_size < 1 or batch_size % sample_per_id:
            raise ValueError(
                f"batch_size={batch_size} is not divisible by the {sample_per_id} images per "
                "identity (sample_per_id, or batch_size / num_identities); choose a multiple"
            )
        if num_iterations < 1:
            raise ValueError(
                f"num_iterations is {num_iterations}, expected at least 1 batch per epoch; the "
                "default is 59551 // batch_size, give the number for other sets"
            )
        self.sample_per_id, self.num_iterations = sample_per_id, num_iterations
        self.num_identities = batch_size // sample_per_id
        order, starts, ends = _by_label(labels)
        # lists: random.sample copies them, and with numpy numbers that is slow
        self.images_of = [order[a:b].tolist() for a, b in zip(starts, ends, strict=True)]
        self.eligible = np.flatnonzero(ends - starts >= sample_per_id).tolist()
        if len(self.eligible) < self.num_identities:
            raise ValueError(
                f"only {len(self.eligible)} of {len(starts)} identities have at least "
                f"{sample_per_id} images, but a batch of {batch_size} needs {self.num_identities} "
                "of them; choose a smaller batch_size or another list"
            )

    def __len__(self) -> int:
        return self.num_iterations

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.draw_batches())

    def draw_batches(self) -> list[np.ndarray]:
        """One epoch: batches (batch_size,) int64, the images of an identity side by side."""
        batches = []
        for _ in range(self.num_iterations):
            batch: list[int] = []
            for identity in random.sample(self.eligible, self.num_identities):
                batch += random.sample(self.images_of[identity], self.sample_per_id)
            batches.append(np.array(batch, dtype=np.int64))
        return batches


class TripletSampler:
    """Anchor, positive, negative, anchor, ...: every usable image is the anchor once an epoch.

    The positive is any other image of the identity, the negative any image of another one among
    the anchor's first `num_candidates` neighbours. Images without a positive or without a negative
    are left out (`skipped`): on the published form they were an error.
    """

    def __init__(
        self,
        labels: np.ndarray,
        nn_inds: np.ndarray,
        batch_size: int,
        num_candidates: int = NUM_CANDIDATES,
        random_negatives: float = 0.0,
    ) -> None:
        """Find the usable anchors and sort out their candidates.

        Args:
            labels: (N,) int64, numbered from 0.
            nn_inds: (N, K) neighbours of each image within the same list, nearest first.
            batch_size: images per batch, a multiple of 3: batch_size / 3 triplets.
            num_candidates: first columns of `nn_inds` that negatives are drawn from.
            random_negatives: share of the triplets, on average, whose negative is any image of
                another identity instead; published: 0.

        Raises:
            ValueError: a batch size that is no multiple of 3, a share beyond 0..1, a table of
                another size or with indices out of range, no usable anchor.
        """
        if batch_size < 3 or batch_size % 3:
            raise ValueError(f"batch_size is {batch_size}, expected a multiple of 3 (triplets)")
        if num_candidates < 1:
            raise ValueError(f"num_candidates is {num_candidates}, expected at least 1")
        if not 0 <= random_negatives <= 1:
            raise ValueError(f"random_negatives is {random_negatives}, expected a share 0..1")
        self.random_negatives = random_negatives
        if nn_inds.ndim != 2 or len(nn_inds) != len(labels):
            raise ValueError(
                f"the neighbour table is {nn_inds.shape}, but there are {len(labels)} training "
                f"images: it is the table of another split; {TABLE_REMEDY}"
            )
        self.triplets_per_batch = batch_size // 3
        self._sort_by_label(labels)
        self._sort_candidates(labels, nn_inds[:, :num_candidates])
        usable = (self.num_positives > 0) & (self.num_negatives > 0)
        self.anchors = np.flatnonzero(usable)
        self.skipped = len(labels) - len(self.anchors)
        if not len(self.anchors):
            raise ValueError(
                "no image has a second image of its identity and a neighbour of another one: "
                f"labels and neighbour table do not belong together; {TABLE_REMEDY}"
            )

    def _sort_by_label(self, labels: np.ndarray) -> None:
        self.order, starts, ends = _by_label(labels)
        self.start = starts[labels]  # (N,) where the images of the same identity start in `order`
        self.num_positives = (ends - starts)[labels] - 1
        self.place = np.empty(len(labels), dtype=np.int64)  # of the image among those of its label
        self.place[self.order] = np.arange(len(labels)) - self.start[self.order]

    def _sort_candidates(self, labels: np.ndarray, nn_inds: np.ndarray) -> None:
        """Of each row the images of other identities first, in the order of the table."""
        self.negatives = np.empty(nn_inds.shape, dtype=np.int32)
        self.num_negatives = np.empty(len(labels), dtype=np.int64)
        for start in range(0, len(labels), BLOCK):
            rows = slice(start, start + BLOCK)
            block = np.asarray(nn_inds[rows])
            if block.size and (block.min() < 0 or block.max() >= len(labels)):
                raise ValueError(
                    f"the neighbour table holds indices {block.min()}..{block.max()}, but there "
                    f"are {len(labels)} training images: it is the table of another split; "
                    f"{TABLE_REMEDY}"
                )
            same = labels[block] == labels[rows, None]
            first = np.argsort(same, axis=1, kind="stable")
            self.negatives[rows] = np.take_along_axis(block, first, axis=1)
            self.num_negatives[rows] = (~same).sum(axis=1)

    def __len__(self) -> int:
        return math.ceil(len(self.anchors) / self.triplets_per_batch)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.draw_batches())

    def draw_epoch(self) -> np.ndarray:
        """(A, 3) int64: anchor, positive, negative of one epoch."""
        order = torch.randperm(len(self.place)).numpy()
        anchors = order[(self.num_positives[order] > 0) & (self.num_negatives[order] > 0)]
        # random.choices takes floor(u * n) with one u per draw: positive, then negative
        draws = [random.random() for _ in range(2 * len(anchors))]
        uniform = np.array(draws).reshape(-1, 2)
        j = (uniform[:, 0] * self.num_positives[anchors]).astype(np.int64)
        j += j >= self.place[anchors]  # all but the anchor itself
        positives = self.order[self.start[anchors] + j]
        k = (uniform[:, 1] * self.num_negatives[anchors]).astype(np.int64)
        negatives = self.negatives[anchors, k]
        if self.random_negatives:
            negatives = np.where(*self._draw_from_all(anchors), negatives)
        return np.stack([anchors, positives, negatives], axis=1)

    def _draw_from_all(self, anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(A,) bool, whether to take it; (A,) any image of another identity than the anchor's."""
        draws = [random.random() for _ in range(2 * len(anchors))]
        chance, place = np.array(draws).reshape(-1, 2).T
        own = self.num_positives[anchors] + 1
        j = (place * (len(self.order) - own)).astype(np.int64)
        j += own * (j >= self.start[anchors])  # the identity's images stand side by side
        return chance < self.random_negatives, self.order[j]

    def draw_batches(self) -> list[np.ndarray]:
        """One epoch: batches (3 T,) int64, anchor, positive, negative, anchor, ...; rest last."""
        triplets = self.draw_epoch()
        cuts = range(self.triplets_per_batch, len(triplets), self.triplets_per_batch)
        return [batch.reshape(-1) for batch in np.split(triplets, cuts)]


class ShuffleSampler:
    """All images once an epoch in a random order; the last batch may be smaller."""

    def __init__(self, num_images: int, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.num_images, self.batch_size = num_images, batch_size

    def __len__(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.draw_batches())

    def draw_batches(self) -> list[np.ndarray]:
        """One epoch: batches (batch_size,) int64."""
        order = torch.randperm(self.num_images).numpy()
        return np.split(order, range(self.batch_size, len(order), self.batch_size))
