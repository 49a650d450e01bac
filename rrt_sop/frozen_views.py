"""Random crops of the training images as the frozen backbone sees them, computed once.

With `freeze_backbone` the last stage's output F of a crop never changes, so that a step on stored
ones trains the same local head and matcher without a pass through the backbone.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rrt_sop.datasets.image_list import DrawnItems, ImageList
from rrt_sop.evaluation import evaluation_mode
from rrt_sop.features import Loading, extract
from rrt_sop.models.network import RerankNet
from rrt_sop.training import RerankStage
from utils.checkpoints import fingerprint_weights
from utils.row_store import Store


class FrozenViews(Dataset[tuple[Tensor, int, int]]):
    """Stands for an `ImageList` in training: (F (C, h, w) float32, label, index).

    Each access draws one of the image's views from torch's stream, as a transform draws its crop.
    """

    def __init__(self, images: ImageList, store: Store) -> None:
        """`store`: (V * N, C, h, w) complete rows; row v * N + i is view v of image i."""
        self.images, self.labels, self.store = images, images.labels, store
        self.views = len(store.array) // len(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        view = int(torch.randint(self.views, ()))
        features = self.store.array[view * len(self.images) + index]
        return torch.from_numpy(features.astype(np.float32)), int(self.labels[index]), int(index)

    def remove(self) -> None:
        """Delete their file: the training is complete."""
        self.store.remove()


class SeededCrops(Dataset[tuple[Tensor, int, int]]):
    """`views` times the images, each time with other crops: item j is image j mod N, seed + j."""

    def __init__(self, images: ImageList, views: int, seed: int) -> None:
        self.drawn, self.views, self.seed = DrawnItems(images), views, seed

    def __len__(self) -> int:
        return self.views * len(self.drawn)

    def __getitem__(self, item: int) -> tuple[Tensor, int, int]:
        return self.drawn[item % len(self.drawn), self.seed + item]


def make_frozen_views(
    net: RerankNet,
    images: ImageList,
    views: int,
    seed: int,
    folder: str | Path,
    loading: Loading,
    stage: RerankStage,
) -> FrozenViews:
    """Pass `views` crops of every image through the frozen backbone, in the stage's precision.

    They are kept in `folder` in half precision, 2 V N C h w bytes, mapped and not read into memory,
    and an interrupted call goes on with them; several processes hold them in memory.

    Raises ValueError for fewer than one view, a network without the stages of a ResNet, and a
    backbone that is to be trained.
    """
    if views < 1:
        raise ValueError(f"cached_views is {views}, expected at least 1 (None: no stored views)")
    if not isinstance(net, RerankNet) or any(p.requires_grad for p in net.layer4.parameters()):
        raise ValueError(
            "cached_views stores what a frozen ResNet sees: it needs model.freeze_backbone=True "
            "and an arch other than superpoint; or leave cached_views out"
        )
    crops = SeededCrops(images, views, seed)
    ranks = stage.ranks

    def features(batch: Tensor) -> Tensor:
        with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=stage.autocast):
            return net.features(batch)

    with evaluation_mode(net), torch.no_grad():
        one = features(images[0][0].unsqueeze(0).to(ranks.device))
        origin = {
            **images.origin(),
            "weights": fingerprint_weights(net),
            "transform": str(images.transform),
            "seed": seed,
            "autocast": stage.autocast,
        }
        path = Path(folder) / "frozen_views.npy" if ranks.world == 1 else None
        store = Store((len(crops), *one.shape[1:]), path, origin, "float16")
        extract(features, crops, store, loading, ranks, "views of the frozen backbone")
    return FrozenViews(images, store)
