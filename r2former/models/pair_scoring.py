"""Scores many pairs with the reranker: every image is encoded once, pairs pass by in small groups.

Memory beyond features and encodings does not depend on how many pairs are asked for.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from r2former.models.network import R2Former
from r2former.models.reranker import EncodedImage
from r2former.models.selection import XYA

Local = np.ndarray | Tensor
PRECISIONS = ("float32", "bf16")
GROUP = {"cpu": 2_000, "cuda": 64_000}  # local features of pairs that are computed together
BLOCK_BYTES = 256 << 20  # of encoded database images at a time


class PairScorer:
    """Scores (query, database image) pairs; the weights are copied, later changes do not count.

    The score is the difference of the two logits: it ranks as the published softmax does, but does
    not run into ties where that rounds to 1.
    """

    def __init__(
        self, net: R2Former, device: torch.device | str = "cpu", precision: str = "float32"
    ) -> None:
        """`precision`: "bf16" computes products in bfloat16 (faster; not for the tables)."""
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}, expected one of {list(PRECISIONS)}")
        self.device, self.precision = torch.device(device), precision
        self.reranker = copy.deepcopy(net.Reranker).to(self.device).eval().requires_grad_(False)

    def score(
        self, local_query: Local, local_database: Local, pairs: np.ndarray, progress: bool = False
    ) -> np.ndarray:
        """(P,) float32 scores of `pairs` (P, 2): row of the query, row of the database image.

        `local_query` (Q, K, 131), `local_database` (N, K', 131): arrays, tensors or memory maps of
        float32 or float16; images that are in no pair are not read.
        """
        logits = self.compute_logits(local_query, local_database, pairs, progress)
        return logits[:, 1] - logits[:, 0]

    @torch.inference_mode()
    def compute_logits(
        self, local_query: Local, local_database: Local, pairs: np.ndarray, progress: bool = False
    ) -> np.ndarray:
        """(P, 2) float32 logits of the pairs."""
        check_pairs(pairs, len(local_query), len(local_database))
        found = np.empty((len(pairs), 2), np.float32)
        per_pair = local_query.shape[1] + local_database.shape[1]
        group = max(1, GROUP[self.device.type] // per_pair)
        bar = tqdm(total=len(pairs), desc="pairs", unit="pair", disable=not progress)
        with bar, self._autocast():
            for part, queries, database in self._blocks(local_query, local_database, pairs):
                rows = torch.as_tensor(part[1], device=self.device)
                for start in range(0, len(rows), group):
                    some = rows[start : start + group]
                    logits = self.reranker.compare(
                        take(queries, some[:, 0]), take(database, some[:, 1])
                    )
                    found[part[0][start : start + group]] = logits.float().cpu().numpy()
                    bar.update(len(some))
        return found

    def encode(self, local: Local, rows: np.ndarray, role: str) -> EncodedImage:
        """The encoded images `rows` (increasing) of a store."""
        picked = local[torch.as_tensor(rows)] if isinstance(local, Tensor) else local[rows]
        tensor = torch.as_tensor(picked).to(self.device, non_blocking=True).float()
        if not bool(torch.isfinite(tensor).all()):
            bad = ~torch.isfinite(tensor).flatten(1).all(dim=1).cpu().numpy()
            raise ValueError(
                f"local features of {role} image {rows[bad][0]} are not finite: a damaged store or "
                "weights; extract them again"
            )
        return self.reranker.encode(tensor, role)

    def _blocks(
        self, local_query: Local, local_database: Local, pairs: np.ndarray
    ) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], EncodedImage, EncodedImage]]:
        """Pairs whose images fit into memory together: (their rows, places in the block), images.

        A block has the pairs of some queries; their database images are encoded in pieces.
        """
        per_image = 4 * (local_database.shape[1] * (local_database.shape[2] - XYA + 80))
        limit = max(1, BLOCK_BYTES // per_image)
        order = np.argsort(pairs[:, 0], kind="stable")
        for start in range(0, len(order), 16 * limit):
            block = order[start : start + 16 * limit]
            images, place = np.unique(pairs[block, 1], return_inverse=True)
            for first in range(0, len(images), limit):
                inside = (place >= first) & (place < first + limit)
                rows = block[inside]
                database = self.encode(local_database, images[first : first + limit], "reference")
                yield from self._query_pieces(
                    local_query, pairs[rows, 0], rows, place[inside] - first, database, limit
                )

    def _query_pieces(
        self,
        local_query: Local,
        wanted: np.ndarray,
        rows: np.ndarray,
        database_place: np.ndarray,
        database: EncodedImage,
        limit: int,
    ) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], EncodedImage, EncodedImage]]:
        """The pairs of a block, so many queries encoded at a time."""
        queries, place = np.unique(wanted, return_inverse=True)
        for first in range(0, len(queries), limit):
            inside = (place >= first) & (place < first + limit)
            encoded = self.encode(local_query, queries[first : first + limit], "query")
            places = np.stack([place[inside] - first, database_place[inside]], axis=1)
            yield (rows[inside], places), encoded, database

    def _autocast(self) -> AbstractContextManager:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def take(images: EncodedImage, rows: Tensor) -> EncodedImage:
    """Some of the encoded images."""
    return EncodedImage(*(part[rows] for part in images))


def check_pairs(pairs: np.ndarray, num_queries: int, num_database: int) -> None:
    """ValueError unless `pairs` is (P, 2) with indices of queries and database images."""
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"pairs is {pairs.dtype} {pairs.shape}, expected integers (P, 2)")
    for column, (name, count) in enumerate((("query", num_queries), ("database", num_database))):
        if len(pairs) and not (0 <= pairs[:, column].min() and pairs[:, column].max() < count):
            raise ValueError(
                f"pairs name {name} images {pairs[:, column].min()}..{pairs[:, column].max()}, but "
                f"there are {count}: the list belongs to another set"
            )
