"""Stored outputs of the frozen backbone are those of the crops; training resumes on them."""

import numpy as np
import pytest
import torch

from rrt_sop.datasets.image_list import DrawnItems, ImageList
from rrt_sop.datasets.transforms import make_train_transform
from rrt_sop.features import Loading
from rrt_sop.frozen_views import make_frozen_views
from rrt_sop.models.network import RerankNet
from rrt_sop.training import RerankStage
from rrt_sop.training_run import TrainingRun
from tests.interruptions import assert_same
from tests.rrt_sop.short_runs import train, weights, write_set
from tests.rrt_sop.small_networks import MODEL

FROZEN = {"freeze_backbone": True}
LOADING = Loading(batch_size=16, progress=False)


def make_net(**changes) -> RerankNet:
    torch.manual_seed(0)
    sizes = {k: v for k, v in MODEL.items() if k != "pretrained"}
    return RerankNet(**{**sizes, "num_classes": 8, **FROZEN, **changes})


def test_views_are_what_the_backbone_makes_of_the_crops(tmp_path):
    write_set(tmp_path)
    images = ImageList(tmp_path, "train.txt", make_train_transform(40))
    net = make_net()
    views = make_frozen_views(net, images, 2, 7, tmp_path / "out", LOADING, RerankStage())
    assert (len(views), views.views) == (len(images), 2)
    assert views.store.array.dtype == np.float16
    last = len(images) - 1
    crop = DrawnItems(images)[last, 7 + len(images) + last][0]  # its second view
    with torch.no_grad():
        expected = net.eval().features(crop.unsqueeze(0))[0].numpy()
    # half precision has 11 bits
    np.testing.assert_allclose(views.store.array[-1], expected, rtol=2**-10, atol=1e-4)
    torch.manual_seed(0)
    drawn = [views[last] for _ in range(20)]
    assert {label for _, label, _ in drawn} == {int(images.labels[last])}
    found = {features.numpy().tobytes() for features, _, _ in drawn}
    rows = views.store.array[[last, -1]].astype(np.float32)
    assert found == {row.tobytes() for row in rows}


def test_views_of_an_interrupted_call_are_kept(tmp_path, monkeypatch):
    write_set(tmp_path)
    images = ImageList(tmp_path, "train.txt", make_train_transform(40))
    first = make_frozen_views(make_net(), images, 1, 7, tmp_path, LOADING, RerankStage())
    before = first.store.array.copy()
    # were an image read again, its row would be another one
    monkeypatch.setattr(ImageList, "__getitem__", lambda *_: (torch.zeros(3, 40, 40), 0, 0))
    again = make_frozen_views(make_net(), images, 1, 7, tmp_path, LOADING, RerankStage())
    np.testing.assert_array_equal(again.store.array, before)


def test_training_on_views_resumes_exactly_and_cleans_up(tmp_path, monkeypatch):
    products = write_set(tmp_path / "set")
    changes = {"cached_views": 2, "model": FROZEN, "checkpoint_every": 1}
    train("rerank", products, tmp_path / "whole", **changes)
    assert not (tmp_path / "whole/frozen_views.npy").exists()
    after_step = TrainingRun._after_step
    left = [5]

    def dying(self, result):
        after_step(self, result)
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("killed")

    monkeypatch.setattr(TrainingRun, "_after_step", dying)
    with pytest.raises(RuntimeError, match="killed"):
        train("rerank", products, tmp_path / "broken", **changes)
    assert (tmp_path / "broken/frozen_views.npy").exists()
    monkeypatch.setattr(TrainingRun, "_after_step", after_step)
    train("rerank", products, tmp_path / "broken", **changes, continue_run=True)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


@pytest.mark.parametrize(
    ("views", "frozen", "complaint"),
    [(0, True, "cached_views is 0"), (1, False, "model.freeze_backbone=True")],
)
def test_what_cannot_be_stored_is_refused(tmp_path, views, frozen, complaint):
    write_set(tmp_path)
    images = ImageList(tmp_path, "train.txt", make_train_transform(40))
    net = make_net(freeze_backbone=frozen)
    with pytest.raises(ValueError, match=complaint):
        make_frozen_views(net, images, views, 7, tmp_path, LOADING, RerankStage())
