"""SuperPoint variant: packed images, descriptors, matcher on points, weights by path, commands."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from rrt_sop import eval_global, eval_rerank
from rrt_sop.datasets.keypoint_list import KeypointList, load_keypoints
from rrt_sop.keypoint_layout import pack, unpack
from rrt_sop.models.point_scoring import PointScorer
from rrt_sop.models.superpoint import PointMatcher, SuperPointNet, load_superpoint
from tests.rrt_sop.image_folders import write_products
from utils.checkpoints import save_checkpoint

SIZES: dict[str, Any] = {"nhead": 2, "num_encoder_layers": 2, "dim_feedforward": 32}


def random_points(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))


def packed_images(counts: list[int], size: int = 64, max_points: int = 9) -> torch.Tensor:
    grey = torch.rand(len(counts), 1, size, size, generator=torch.Generator().manual_seed(0))
    return torch.stack(
        [
            pack(g, random_points(n, k), max_points)
            for k, (g, n) in enumerate(zip(grey, counts, strict=True))
        ]
    )


@pytest.fixture(scope="module")
def net() -> SuperPointNet:
    torch.manual_seed(0)
    return SuperPointNet(**SIZES).eval().requires_grad_(False)


def test_points_and_pixels_come_back_from_a_packed_image():
    images = packed_images([3, 12, 0])
    grey, points, mask = unpack(images)
    assert grey.shape == (3, 1, 64, 64)
    assert (~mask).sum(dim=1).tolist() == [3, 9, 0]  # the first nine of twelve
    torch.testing.assert_close(points[0, :3], random_points(3, 0), rtol=0, atol=0)
    torch.testing.assert_close(points[1, :9], random_points(12, 1)[:9], rtol=0, atol=0)
    assert (points[2][mask[2]] == 0.5).all()
    with pytest.raises(ValueError, match="keypoints below the pixels"):
        unpack(torch.rand(2, 3, 64, 64))


def test_names_of_the_convolutions_are_those_of_the_public_file(net):
    names = {name.split(".")[0] for name in net.state_dict() if not name.startswith("matcher.")}
    blocks = {f"conv{k}{part}" for k in "1234PD" for part in "ab"}
    assert names == blocks
    shapes = {name: list(net.get_parameter(f"{name}.weight").shape) for name in blocks}
    assert shapes["conv1a"] == [64, 1, 3, 3]
    assert shapes["conv3a"] == [128, 64, 3, 3]
    assert shapes["convPb"] == [65, 256, 1, 1]
    assert shapes["convDa"] == [256, 128, 3, 3]
    assert shapes["convDb"] == [256, 256, 1, 1]


def test_descriptors_follow_the_definition(net):
    """A keypoint at a corner of the map takes that cell's descriptor: corners are aligned."""
    grey = torch.rand(1, 64, 64)
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])  # x, y
    images = pack(grey, points, 5).unsqueeze(0)
    dense = net.dense(grey.unsqueeze(0))
    assert dense.shape == (1, 256, 8, 8)
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(1, 8, 8))
    rows = net.embed_local(images)
    expected = torch.stack([dense[0, :, 0, 0], dense[0, :, -1, -1], dense[0, :, 0, -1]])
    torch.testing.assert_close(rows[0, 1:4], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(rows[0, 0], dense[0].mean(dim=(1, 2)))
    assert not rows[0, 4:].any()
    torch.testing.assert_close(net.embed_global(images), rows[:, 0], rtol=0, atol=0)


def test_padding_does_not_change_a_score(net):
    few, many = packed_images([4, 6], max_points=6), packed_images([4, 6], max_points=20)
    short, long = net.embed_local(few), net.embed_local(many)
    assert short.shape[1] == 7
    torch.testing.assert_close(
        net.matcher(short[:1], short[1:]), net.matcher(long[:1], long[1:]), rtol=0, atol=1e-5
    )


def test_scorer_equals_the_plain_matcher(monkeypatch):
    torch.manual_seed(0)
    matcher = PointMatcher(16, **SIZES).eval().requires_grad_(False)
    rows = functional.normalize(torch.randn(6, 12, 16), dim=2)
    for k, count in enumerate([0, 3, 5, 11, 7, 2]):
        rows[k, 1 + count :] = 0
    pairs = np.stack(np.divmod(np.arange(36), 6), axis=1)
    expected = matcher(rows[pairs[:, 0]], rows[pairs[:, 1]]).numpy()
    monkeypatch.setattr("rrt_sop.models.point_scoring.BATCH_TOKENS", {"cpu": 60})
    scorer = PointScorer(matcher)
    encoded = scorer.encode(rows.numpy(), "query")
    got = scorer.score_pairs(encoded, encoded, pairs)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert expected.std() > 1e-3


def test_weights_by_path_leave_the_matcher_alone(net, tmp_path):
    state = {n: v for n, v in net.state_dict().items() if not n.startswith("matcher.")}
    torch.save(state, tmp_path / "superpoint_v1.pth")
    other = SuperPointNet(**SIZES)
    before = other.matcher.classifier.weight.clone()
    load_superpoint(other, tmp_path / "superpoint_v1.pth")
    torch.testing.assert_close(other.conv4b.weight, net.conv4b.weight, rtol=0, atol=0)
    torch.testing.assert_close(other.matcher.classifier.weight, before, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"superpoint_v1\.pth as model\.backbone_weights"):
        load_superpoint(other, None)
    torch.save({"conv1a.weight": torch.zeros(1)}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth does not hold SuperPoint's weights"):
        load_superpoint(other, tmp_path / "bad.pth")


def test_frozen_backbone_trains_the_matcher_alone():
    frozen = SuperPointNet(**SIZES, freeze_backbone=True)
    trained = {name.split(".")[0] for name, p in frozen.named_parameters() if p.requires_grad}
    assert trained == {"matcher"}


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    folder = write_products(tmp_path_factory.mktemp("sop"), 2, 3, images=2)
    rng = np.random.default_rng(0)
    points = {
        path.stem: {"keypoints": rng.random((rng.integers(1, 6), 2)), "scores": None}
        for path in folder.glob("*/*.png")
    }
    content = {stem: {"keypoints": entry["keypoints"]} for stem, entry in points.items()}
    (folder / "points.pkl").write_bytes(pickle.dumps(content))
    return folder


def test_list_gives_packed_grey_images(products):
    images = KeypointList(products, "test.txt", products / "points.pkl", size=64, max_points=3)
    packed, label, index = images[4]
    grey, points, mask = unpack(packed.unsqueeze(0))
    expected = load_keypoints(products / "points.pkl")[images.paths[4].split("/")[1][:-4]][:3]
    torch.testing.assert_close(points[~mask], torch.from_numpy(expected))
    assert (grey.shape, label, index) == ((1, 1, 64, 64), 2, 4)


def test_bad_keypoint_files_are_refused(products, tmp_path):
    content = pickle.loads((products / "points.pkl").read_bytes())
    for name in ("00003_1", "00004_1"):  # of the test list
        del content[name]
    (tmp_path / "few.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"no keypoints of 2 of the 6 images of .*detect them too"):
        KeypointList(products, "test.txt", tmp_path / "few.pkl")
    (tmp_path / "far.pkl").write_bytes(pickle.dumps({"a": {"keypoints": np.full((2, 2), 3.0)}}))
    with pytest.raises(ValueError, match=r"keypoints of a are no \(N, 2\) x, y in \[0, 1\]"):
        load_keypoints(tmp_path / "far.pkl")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="no dict of keypoints by image stem"):
        load_keypoints(tmp_path / "list.pkl")
    with pytest.raises(FileNotFoundError, match="detect SuperPoint keypoints first"):
        load_keypoints(tmp_path / "gone.pkl")


def test_commands_end_to_end(products, net, tmp_path):
    path = save_checkpoint(tmp_path / "net.pt", state=net.state_dict())
    update = {
        "cpu": True, "resume": str(path), "temp_dir": str(tmp_path / "global"),
        "dataset": {"data_path": str(products), "keypoints": str(products / "points.pkl"),
                    "num_workers": 0, "test_batch_size": 4, "recalls": [1, 2]},
        "model": {"ert_nhead": 2, "ert_num_encoder_layers": 2, "ert_dim_feedforward": 32},
    }  # fmt: skip
    named = ["model.superpoint"]
    found = eval_global.ex.run(named_configs=named, config_updates=update).result
    assert set(found) == {"R@1", "R@2"}
    table = str(tmp_path / "global" / "nn_inds.pkl")
    update |= {"cache_nn_inds": table, "temp_dir": str(tmp_path / "rerank")}
    reranked = eval_rerank.ex.run(named_configs=named, config_updates=update).result
    assert set(reranked) == {"R@1", "R@2", "top_k"}
