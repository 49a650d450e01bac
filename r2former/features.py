"""Images -> global descriptors and local features, each image read and run once.

With several ranks each extracts a share of the images. Global descriptors are then exchanged; local
features, which are a thousand times larger, go to one file that all ranks map (one machine, or a
shared disk).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from r2former.datasets.images import PlaceImages
from r2former.datasets.transforms import Transform
from r2former.models.network import R2Former
from utils.array_files import create_map
from utils.distributed import Ranks
from utils.row_store import Resumption, Store

logger = logging.getLogger(__name__)

SAVE_EVERY = 2048  # images between two marks of what is done


@dataclass(frozen=True)
class Loading:
    """How images are read for evaluation."""

    batch_size: int = 16  # images per step
    num_workers: int = 0  # processes that read images; 0: none
    progress: bool = True  # show bars


class Features(NamedTuple):
    """Of the images of one list."""

    descriptors: np.ndarray  # (N, D) float32 unit rows; (N, 5, D) for crops
    local: np.ndarray | None  # (N, K, 131) float32 or float16, memory-mapped in a folder


class Extraction:
    """Extracts the features of lists of images with one network."""

    def __init__(
        self,
        net: nn.Module,
        loading: Loading | None = None,
        ranks: Ranks | None = None,
        folder: Resumption | None = None,
        local_dtype: str = "float32",
    ) -> None:
        """`net`: an `R2Former`, or a global model. `folder`: where rows are kept; None: memory."""
        self.net, self.loading, self.ranks = net, loading or Loading(), ranks or Ranks()
        self.folder, self.local_dtype = folder, local_dtype

    @torch.no_grad()
    def extract(
        self, paths: Sequence[str], transform: Transform, name: str, with_local: bool
    ) -> Features:
        """Features of all `paths` in their order; `name`: of the files and of the bar."""
        images = PlaceImages(paths, transform)
        shapes = self._probe(images, with_local)
        stores = {kind: self._store(f"{name}_{kind}", len(paths), s) for kind, s in shapes.items()}
        done = min(store.done for store in stores.values())
        rows = np.arange(done + self.ranks.rank, len(paths), self.ranks.world)
        silent = not (self.loading.progress and self.ranks.is_first)
        at, last_mark = 0, done
        with tqdm(total=len(rows), desc=name, unit="image", disable=silent) as bar:
            for batch in self._read(images, rows):
                mine = rows[at : at + len(batch)]
                for kind, values in self._run(batch, with_local).items():
                    check_finite(values, kind, [paths[i] for i in mine])
                    check_alike(values, stores[kind].array, [paths[i] for i in mine])
                    stores[kind].array[mine] = values
                at += len(batch)
                bar.update(len(batch))
                if self.ranks.world == 1 and mine[-1] + 1 - last_mark >= SAVE_EVERY:
                    last_mark = int(mine[-1]) + 1
                    mark(stores, last_mark)
        self._finish(stores, len(paths))
        local = stores["local"].array if with_local else None
        return Features(stores["global"].array, local)

    def _probe(self, images: PlaceImages, with_local: bool) -> dict[str, tuple[int, ...]]:
        """Shapes of one image's rows, from the first image."""
        one = self._run(images[0][0].unsqueeze(0).to(self.ranks.device), with_local)
        return {kind: values.shape[1:] for kind, values in one.items()}

    def _run(self, batch: Tensor, with_local: bool) -> dict[str, np.ndarray]:
        """(B, 3, H, W), or crops (B, 5, 3, H, W), -> rows by kind."""
        if with_local:
            assert isinstance(self.net, R2Former)
            if batch.dim() != 4:
                raise ValueError(
                    "crops have no local features to rerank with: use dataset.test_method="
                    "hard_resize, central_crop or single_query, or rerank=False"
                )
            descriptors, local = self.net(batch)
            return {"global": to_numpy(descriptors), "local": to_numpy(local)}
        embed: Any = getattr(self.net, "embed_global", self.net)
        descriptors = embed(batch.flatten(0, -4))
        return {"global": to_numpy(descriptors.unflatten(0, batch.shape[:-3]))}

    def _store(self, name: str, count: int, shape: tuple[int, ...]) -> Store:
        dtype = self.local_dtype if name.endswith("_local") else "float32"
        if self.folder is None:
            return Store((count, *shape), dtype=dtype)
        if self.ranks.world == 1:
            return self.folder.store(name, (count, *shape), dtype)
        if not name.endswith("_local"):
            return Store((count, *shape))
        return self._shared_store(name, (count, *shape), dtype)

    def _shared_store(self, name: str, shape: tuple[int, ...], dtype: str) -> Store:
        """One file that all ranks write their rows to; the first rank makes it."""
        assert self.folder is not None
        store = Store((0,), dtype=dtype)
        path = self.folder.folder / f"shared_{name}.npy"
        self.folder.shared.append(path)
        if self.ranks.is_first:
            create_map(path, dtype, shape)
        self.ranks.any(True)  # all wait until the file is there
        store.array = np.lib.format.open_memmap(path, "r+")
        return store

    def _read(self, images: PlaceImages, rows: np.ndarray) -> Any:
        loader = DataLoader(
            PlaceImages(images.paths, images.transform, rows),
            batch_size=self.loading.batch_size,
            num_workers=min(self.loading.num_workers, len(rows)),
            pin_memory=self.ranks.device.type == "cuda",
            # a generator of its own: torch's global random stream is left alone
            generator=torch.Generator(),
            collate_fn=collate_alike,
        )
        for batch in loader:
            yield batch.to(self.ranks.device, non_blocking=True)

    def _finish(self, stores: dict[str, Store], count: int) -> None:
        """Everything is there, for all ranks."""
        if self.ranks.world == 1:
            mark(stores, count)
            return
        self.ranks.share_rows(stores["global"].array)
        if "local" in stores:
            array = stores["local"].array
            if not isinstance(array, np.memmap):
                raise ValueError("several processes need a folder for local features")
            array.flush()
            self.ranks.any(True)  # all wait until every share is written


def to_numpy(values: Tensor) -> np.ndarray:
    """float32 on the CPU."""
    return values.float().cpu().numpy()


def mark(stores: dict[str, Store], done: int) -> None:
    """The first `done` rows of all stores are complete."""
    for store in stores.values():
        store.save_mark(done)


def collate_alike(batch: list[tuple[Tensor, int]]) -> Tensor:
    """The images of a batch; ValueError when their sizes differ."""
    images = [image for image, _ in batch]
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise ValueError(
            f"images of sizes {sorted(sizes)} cannot share a batch: test_method=single_query keeps "
            "the aspect; use dataset.infer_batch_size=1, or hard_resize"
        )
    return torch.stack(images)


def check_finite(values: np.ndarray, kind: str, paths: Sequence[str]) -> None:
    """ValueError names the first image whose features are not finite."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{kind} features of {paths[int(bad.argmax())]} are not finite: damaged weights, or "
            "another model than the checkpoint's"
        )


def check_alike(values: np.ndarray, array: np.ndarray, paths: Sequence[str]) -> None:
    """ValueError when images give another number of local features than the first."""
    if values.shape[1:] != array.shape[1:]:
        raise ValueError(
            f"{paths[0]} gives features {values.shape[1:]}, the first image {array.shape[1:]}: "
            "images too small for model.num_local; use test_method=hard_resize or a smaller "
            "model.num_local"
        )
