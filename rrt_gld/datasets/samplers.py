"""Triplets for training, drawn from the neighbour table of the training set."""

import math
import random

import numpy as np
import torch

BLOCK = 20_000  # anchors handled at a time


class TripletSampler:
    """(anchor, positive, negative): both partners from the anchor's row of the neighbour table.

    The positive has the anchor's label, the negative another one; each anchor comes once an epoch.
    """

    def __init__(
        self,
        labels: np.ndarray,
        nn_inds: np.ndarray,
        batch_size: int = 36,
        num_candidates: int | None = None,
        stream: str = "published",
        min_positives: int = 5,
    ) -> None:
        """Find the usable anchors.

        Args:
            labels: (N,) int64.
            nn_inds: (N, K) int64 neighbours of each image within the set.
            batch_size: images per batch, a multiple of 3: batch_size / 3 triplets.
            num_candidates: first columns of `nn_inds` that are drawn from; None: all.
            stream: `published` draws as the published runs did (torch for the order of the anchors,
                Python's `random` for the partners); `vectorised` draws all partners at once from
                torch's stream.
            min_positives: an image is an anchor when its row holds at least that many images of
                its label.

        Raises:
            ValueError: unequal sizes, indices out of range, a batch size that is no multiple of 3,
                no usable anchor.
        """
        if stream not in ("published", "vectorised"):
            raise ValueError(f"stream is {stream!r}, expected 'published' or 'vectorised'")
        if batch_size < 3 or batch_size % 3:
            # the published loader would round it up silently, but not its declared length
            raise ValueError(f"batch_size is {batch_size}, expected a multiple of 3 (triplets)")
        if nn_inds.ndim != 2 or len(nn_inds) != len(labels):
            raise ValueError(
                f"the neighbour table is {nn_inds.shape}, expected ({len(labels)}, K): remake it "
                "with python -m rrt_gld.tools.prepare_topk_gldv2"
            )
        if num_candidates is not None and num_candidates < 1:
            raise ValueError(f"num_candidates is {num_candidates}, expected None or at least 1")
        if min_positives < 1:
            raise ValueError(f"min_positives is {min_positives}, expected at least 1")
        self.min_positives = min_positives
        self.labels = labels
        self.nn_inds = nn_inds[:, :num_candidates]
        self.triplets_per_batch = batch_size // 3
        self.stream = stream
        self.valids = self._find_valids()
        if not len(self.valids):
            raise ValueError(
                f"no image has {min_positives} neighbours of its own label and one of another "
                f"among its first {self.nn_inds.shape[1]}: labels and neighbour table may not "
                "belong together"
            )

    def _same_label(self, rows: np.ndarray) -> np.ndarray:
        """(n,) anchors -> (n, K) bool: which neighbours have the anchor's label."""
        return self.labels[self.nn_inds[rows]] == self.labels[rows, None]

    def _find_valids(self) -> np.ndarray:
        """Usable anchors, (V,) ascending. Rows without a negative are left out as well."""
        found = []
        for start in range(0, len(self.labels), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(self.labels)))
            block = self.nn_inds[rows]
            if block.min() < 0 or block.max() >= len(self.labels):
                raise ValueError(
                    f"the neighbour table holds indices {block.min()}..{block.max()}, but the set "
                    f"has {len(self.labels)} images: it belongs to another set"
                )
            count = self._same_label(rows).sum(axis=1)
            found.append(rows[(count >= self.min_positives) & (count < block.shape[1])])
        return np.concatenate(found)

    def __len__(self) -> int:
        """Batches per epoch; the last one may be smaller."""
        return math.ceil(len(self.valids) / self.triplets_per_batch)

    def draw_epoch(self) -> np.ndarray:
        """(V, 3) int64 triplets of one epoch; advances the global random streams."""
        anchors = self.valids[torch.randperm(len(self.valids)).numpy()]
        draw = self._draw_published if self.stream == "published" else self._draw_vectorised
        return np.concatenate([draw(anchors[i : i + BLOCK]) for i in range(0, len(anchors), BLOCK)])

    def _draw_published(self, anchors: np.ndarray) -> np.ndarray:
        triplets = np.empty((len(anchors), 3), dtype=np.int64)
        same, rows = self._same_label(anchors), self.nn_inds[anchors]
        for i, anchor in enumerate(anchors):
            positives, negatives = rows[i, same[i]].tolist(), rows[i, ~same[i]].tolist()
            random.shuffle(positives)
            random.shuffle(negatives)
            triplets[i] = anchor, positives[0], negatives[0]
        return triplets

    def _draw_vectorised(self, anchors: np.ndarray) -> np.ndarray:
        same, rows = self._same_label(anchors), self.nn_inds[anchors]
        columns = []
        for candidates in (same, ~same):
            # the j-th candidate of each row, j uniform: the first place where the count exceeds j
            uniform = torch.rand(len(anchors), dtype=torch.float64).numpy()
            j = (uniform * candidates.sum(axis=1)).astype(np.int64)
            columns.append((candidates.cumsum(axis=1) > j[:, None]).argmax(axis=1))
        picked = [rows[np.arange(len(anchors)), column] for column in columns]
        return np.stack([anchors, *picked], axis=1)

    def draw_batches(self, steps: int | None = None) -> list[np.ndarray]:
        """Batches of triplets, each (T, 3): one epoch, or `steps` batches.

        Fewer steps than an epoch has: the first ones of a fresh order. More: further epochs follow.
        """
        steps = len(self) if steps is None else steps
        batches: list[np.ndarray] = []
        while len(batches) < steps:
            epoch = self.draw_epoch()
            cuts = range(self.triplets_per_batch, len(epoch), self.triplets_per_batch)
            batches += np.split(epoch, cuts)
        return batches[:steps]
