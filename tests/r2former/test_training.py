"""Steps: parts and processes give one and the same batch; groups, flips; guards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from r2former.datasets.images import load_image
from r2former.datasets.place_set import PlaceSet
from r2former.datasets.transforms import Augmentation, make_train_transform
from r2former.datasets.triplets import GroupOptions, Groups, count_batches, make_batches
from r2former.embedding import MiningEmbedder, Reading, embed_images
from r2former.mining import Draws
from r2former.models.deit import DeiT
from r2former.models.vg_network import VGNetwork
from r2former.training import (
    GlobalStage,
    Guard,
    Passes,
    RerankStage,
    check_batch_norms,
)
from r2former.training_run import count_rounds
from r2former.training_setup import list_path
from tests.r2former.golden_models import small_network
from tests.r2former.short_runs import options, train, weights, write_street
from tests.source_tree import ROOT
from utils.distributed import Ranks
from utils.divergence import TrainingDivergedError

SIZE = (32, 48)
STAGES = {
    "global": lambda passes: GlobalStage(passes=passes),
    "fixed": lambda passes: RerankStage(passes=passes),
    "joint": lambda passes: RerankStage(fix=False, passes=passes),
    "end to end": lambda passes: RerankStage(fix=False, finetune=True, passes=passes),
}


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street(tmp_path_factory.mktemp("sets"))


def images(groups: int = 3, slots: int = 4) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(groups, slots, 3, *SIZE)


@pytest.mark.parametrize("name", STAGES)
def test_gradients_of_a_batch_do_not_depend_on_its_parts(name):
    made = []
    for part in (None, 1, 2):
        net = small_network()
        stage = STAGES[name](Passes(part))
        own: nn.Module = net.backbone if name == "global" else net
        sums = stage.backward(own, images(), 3)
        made.append((sums, {n: p.grad for n, p in own.named_parameters()}))
    for sums, gradients in made[1:]:
        torch.testing.assert_close(sums.stack(), made[0][0].stack())
        for entry, gradient in gradients.items():
            expected = made[0][1][entry]
            assert (gradient is None) == (expected is None), entry
            if gradient is not None and expected is not None:
                torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", [pytest.param("global", marks=pytest.mark.slow), "rerank"])
def test_two_processes_equal_one(street, tmp_path, stage):
    """Steps of sgd: adamw would blow up the rounding of gradients that are zero in truth."""
    changes = {"optim": "sgd", "lr": 0.05, "epochs_num": 1}
    if stage == "rerank":
        changes |= {"fix": 0, "finetune": 1}
    train(stage, street, tmp_path / "one", **changes)
    file = tmp_path / "runs.json"
    file.write_text(json.dumps([[stage, options(stage, street, tmp_path / "two", **changes)]]))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launcher, "-m", "tests.r2former.training_processes", str(file)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = weights(tmp_path / "one")
    for name, value in weights(tmp_path / "two").items():
        torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-5, msg=name)
    assert (tmp_path / "two" / "best_model.pth").is_file()


def make_groups(street: Path, changes: Augmentation | None = None) -> Groups:
    root = street / "street" / "images" / "train"
    database = sorted(map(str, (root / "database").iterdir()))
    queries = sorted(map(str, (root / "queries").iterdir()))
    places = PlaceSet("street", "", database, queries)
    triplets = np.array([[q, 3 * q, (q + 5) % 30] for q in range(10)])
    others = make_train_transform(SIZE)
    return Groups(places, triplets, others, make_train_transform(SIZE, changes))


def test_groups_hold_query_positive_and_negatives(street):
    groups = make_groups(street)
    transform, places = groups.others, groups.places
    group = groups[(4, 0, False)]
    paths = [places.query_paths[4], places.database_paths[12], places.database_paths[9]]
    expected = torch.stack([transform(load_image(path)) for path in paths])
    assert torch.equal(group, expected)
    assert torch.equal(groups[(4, 0, True)], expected.flip(-1))


def test_an_incomplete_last_batch_is_dropped_and_order_is_kept(street):
    groups = make_groups(street)
    assert count_batches(groups.triplets, 4) == 2
    batches = list(make_batches(groups, GroupOptions(4), 0, 0))
    assert [batch.images.shape for batch in batches] == [(4, 3, 3, *SIZE)] * 2
    assert torch.equal(batches[1].images[2], groups[(6, 0, False)])


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_depends_on_the_seed_and_the_group_alone(street, workers):
    groups = make_groups(street, Augmentation(brightness=0.8, random_resized_crop=0.6))
    whole = [b.images for b in make_batches(groups, GroupOptions(4), 0, 7)]
    later = [b.images for b in make_batches(groups, GroupOptions(4, workers), 1, 7)]
    assert torch.equal(later[0], whole[1])
    shares = [
        next(make_batches(groups, GroupOptions(4, rank=rank, world=2), 0, 7)).images
        for rank in range(2)
    ]
    assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), whole[0])
    other = next(make_batches(groups, GroupOptions(4), 0, 8)).images
    assert not torch.equal(other, whole[0])
    assert torch.equal(other[:, 1:], whole[0][:, 1:])  # queries alone are changed


def test_a_batch_is_mirrored_as_a_whole_or_not_at_all(street):
    groups = make_groups(street)
    plain = [b.images for b in make_batches(groups, GroupOptions(2), 0, 3)]
    flipped = [b.images for b in make_batches(groups, GroupOptions(2, horizontal_flip=True), 0, 3)]
    kinds = {
        "as it is" if torch.equal(b, a) else "mirrored"
        for a, b in zip(plain, flipped, strict=True)
        if torch.equal(b, a) or torch.equal(b, a.flip(-1))
    }
    assert kinds == {"as it is", "mirrored"}


def test_a_process_without_a_share_gets_no_images(street):
    groups = make_groups(street)
    batch = next(make_batches(groups, GroupOptions(1, rank=1, world=2), 0, 0))
    assert batch.images is None
    assert (batch.count, batch.slots) == (1, 3)


def test_mining_sees_rows_in_their_order_in_evaluation_mode(street):
    groups = make_groups(street)
    net, places = small_network().train(), groups.places
    embedder = MiningEmbedder(net, places, groups.others, Reading(4))
    database, queries = embedder(np.array([2, 7, 29]), np.array([1, 3]))
    assert net.training
    whole = embed_images(net, places.database_paths, groups.others, Reading(16))
    np.testing.assert_allclose(database, whole[[2, 7, 29]], rtol=0, atol=1e-5)
    assert queries.shape == (2, 16)


def test_draws_come_back_where_they_stood():
    draws = Draws.seeded(3)
    draws.choice(10, 4)
    state = json.loads(json.dumps(draws.state()))
    expected = draws.choice(100, 9).tolist(), draws.python.sample(range(50), 5)
    other = Draws.seeded(0)
    other.set_state(state)
    assert (other.choice(100, 9).tolist(), other.python.sample(range(50), 5)) == expected


def test_the_guard_tells_of_images_that_become_alike_once():
    guard, net = Guard(), small_network()
    assert guard.check_steps(1, 0.1, 0.9, net) is None
    word = guard.check_steps(2, 0.1, 0.001, net)
    assert word is not None
    assert "all images are becoming alike" in word
    assert guard.check_steps(3, 0.1, 0.001, net) is None


def test_the_guard_stops_at_numbers_that_are_none():
    net = small_network()
    with pytest.raises(TrainingDivergedError, match="not finite"):
        Guard().check_steps(1, float("nan"), 0.9, net)
    with torch.no_grad():
        net.local_head.bias[0] = float("inf")
    with pytest.raises(TrainingDivergedError, match="not finite"):
        Guard().check_steps(1, 0.1, 0.9, net)


def test_the_guard_stops_at_a_fall_from_55_to_8():
    guard = Guard()
    guard.check_recall(3, "R@1", 40.0, 55.0)
    with pytest.raises(TrainingDivergedError, match=r"epoch 4: R@1 fell to 8\.0 from 55\.0"):
        guard.check_recall(4, "R@1", 8.0, 55.0)
    Guard(smallest_share=0).check_recall(4, "R@1", 8.0, 55.0)


def test_batch_normalisation_needs_the_whole_batch():
    stem = DeiT((32, 48), 16, 32, 2, 2, 8, stem="conv")
    for net in (VGNetwork("resnet18conv4", "gem"), stem):
        for stage in (GlobalStage(passes=Passes(2)), GlobalStage(ranks=Ranks(0, 2))):
            with pytest.raises(ValueError, match="needs the whole batch in one pass"):
                check_batch_norms(net, stage)
        check_batch_norms(net, GlobalStage())
    check_batch_norms(small_network(), GlobalStage(passes=Passes(2)))


def test_rounds_must_divide_the_epoch():
    assert count_rounds(50_000, 10_000) == 5
    with pytest.raises(ValueError, match="must be a multiple"):
        count_rounds(50_000, 15_000)


def test_lists_are_looked_for_under_the_published_name():
    config = {
        "dataset": {"dataset_name": "msls", "mining_file": None},
        "model": {"backbone": "deit"},
    }
    assert list_path(config).name == "msls_v2_deit_hard_final.npy"
    config["dataset"]["mining_file"] = "own.npy"
    assert str(list_path(config)) == "own.npy"
