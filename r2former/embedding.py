"""Global descriptors of a list of images, for mining and for the check after each epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from r2former.datasets.images import PlaceImages
from r2former.datasets.place_set import PlaceSet
from r2former.datasets.transforms import Transform
from r2former.datasets.triplets import leave_interrupts_to_parent
from utils.distributed import Ranks

EmbedImages = Callable[[Tensor], Tensor]  # (B, 3, H, W) -> (B, D)


@dataclass(frozen=True)
class Reading:
    """How images are read in inference."""

    infer_batch_size: int = 16
    num_workers: int = 0
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        if self.infer_batch_size < 1 or self.num_workers < 0:
            raise ValueError(
                f"infer_batch_size={self.infer_batch_size}, num_workers={self.num_workers}: "
                "expected at least 1 and at least 0"
            )


def embedder_of(net: nn.Module) -> EmbedImages:
    """The descriptor part of a network with reranking, or a global model itself."""
    return getattr(net, "embed_global", net)


def embed_images(
    net: nn.Module,
    paths: Sequence[str],
    transform: Transform,
    reading: Reading,
    rows: np.ndarray | None = None,
    told: str = "descriptors",
    embed: EmbedImages | None = None,
) -> np.ndarray:
    """(N, D) float32 descriptors of `paths`, or of their `rows`, in evaluation mode.

    `embed`: another method of `net`, which gives rows in their place.

    Each process describes its share; all get the whole.
    """
    ranks = reading.ranks
    rows = np.arange(len(paths)) if rows is None else np.asarray(rows)
    mine = np.arange(ranks.rank, len(rows), ranks.world)
    was_training = net.training
    net.eval()
    loader = DataLoader(
        PlaceImages(paths, transform, rows[mine]),
        batch_size=reading.infer_batch_size,
        num_workers=reading.num_workers,
        pin_memory=ranks.device.type == "cuda",
        generator=torch.Generator(),  # leaves torch's global stream alone
        worker_init_fn=leave_interrupts_to_parent,
    )
    embed, parts = embed or embedder_of(net), [np.empty((0, 0), np.float32)]
    hidden = not ranks.is_first or None  # None: shown on a terminal only
    with (
        torch.inference_mode(),
        tqdm(total=len(mine), desc=told, unit="img", disable=hidden) as bar,
    ):
        for images, _ in loader:
            parts.append(embed(images.to(ranks.device, non_blocking=True)).float().cpu().numpy())
            bar.update(len(images))
    net.train(was_training)
    own = np.concatenate(parts[1:]) if len(parts) > 1 else parts[0]
    return own if ranks.world == 1 else _gather(own, mine, len(rows), ranks)


def _gather(own: np.ndarray, mine: np.ndarray, total: int, ranks: Ranks) -> np.ndarray:
    """(total, D): the rows `mine` of this process among those of the others."""
    widths = torch.tensor([float(len(mine) > 0), float(own.shape[1])], device=ranks.device)
    ranks.sum_(widths)
    width = int(widths[1] / widths[0].clamp(min=1))
    whole = torch.zeros(total, width, device=ranks.device)
    if len(mine):
        whole[torch.from_numpy(mine).to(ranks.device)] = torch.from_numpy(own).to(ranks.device)
    return ranks.sum_(whole).cpu().numpy()


@dataclass(frozen=True)
class MiningEmbedder:
    """Descriptors of database rows and of queries, as a round of mining asks for them."""

    net: nn.Module
    places: PlaceSet
    transform: Transform
    reading: Reading

    def __call__(self, rows: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ascending rows of the database and of the queries -> (., D) each."""
        places = self.places
        split = len(places.database_paths)
        paths = [*places.database_paths, *places.query_paths]
        both = np.concatenate([rows, split + queries])
        found = embed_images(self.net, paths, self.transform, self.reading, both, "mining")
        return found[: len(rows)], found[len(rows) :]
