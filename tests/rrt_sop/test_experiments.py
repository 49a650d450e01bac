"""Training end to end: it learns, keeps the best, and refuses bad input early."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sacred.observers import FileStorageObserver

from rrt_sop import experiment_global
from rrt_sop.run_state import SCHEDULER_KEYS
from tests.rrt_sop.short_runs import (
    BEST,
    EXPERIMENTS,
    STAGES,
    train,
    weights,
    write_set,
)
from tests.rrt_sop.small_networks import use_thin_backbone
from utils.checkpoints import load_state


@pytest.fixture(autouse=True)
def thin_backbone(monkeypatch) -> None:
    use_thin_backbone(monkeypatch)


@pytest.fixture(scope="module")
def products(tmp_path_factory) -> Path:
    """See `write_set`; only read."""
    return write_set(tmp_path_factory.mktemp("set"))


# ------------------------------------------------------------------ learning, and what is kept


def observed(temp_dir: Path, stage: str, products: Path, **changes: Any) -> tuple[Any, dict]:
    """A run and its scalars; its folder is runs/1."""
    observer = FileStorageObserver(temp_dir / "runs")
    ex = EXPERIMENTS[stage]
    ex.observers.append(observer)
    try:
        run = train(stage, products, temp_dir / "out", **changes)
    finally:
        ex.observers.remove(observer)
    return run, json.loads((temp_dir / "runs/1/metrics.json").read_text())


def test_global_stage_learns(products, tmp_path):
    run, scalars = observed(
        tmp_path, "global", products,
        epochs=1, lr=0.05, dataset={"num_iterations": 60}, model={"set_bn_eval": False},
    )  # fmt: skip
    found = scalars["train.loss"]["values"]
    # seen: 1.7 at first, 0.1 at last (ln 7 = 1.9 tells nothing apart)
    assert np.mean(found[-10:]) < 0.5 * np.mean(found[:5])
    assert run.result == run.info["recall"]["R@1"] >= run.info["recall_at_start"]["R@1"]
    state = weights(tmp_path / "out")
    assert not state["classifier.weight"].any(), "the classifier never gets a gradient"


def test_matcher_learns_and_reranks_better(products, tmp_path):
    run = train(
        "rerank", products, tmp_path,
        epochs=1, steps_per_epoch=80, lr=0.01, scheduler="warmcos_step", warmup_steps=10,
    )  # fmt: skip
    # the table is random: 2 of 14 are right
    assert run.info["recall_at_start"]["R@1"] < 50
    assert run.result > run.info["recall_at_start"]["R@1"] + 25
    assert run.info["recall"]["R@1"] == run.result


@pytest.mark.parametrize("stage", STAGES)
def test_run_folder_holds_the_published_scalars_and_the_best_model(products, tmp_path, stage):
    _, scalars = observed(tmp_path, stage, products)
    run = tmp_path / "runs/1"
    steps = {name: scalar["steps"] for name, scalar in scalars.items()}
    assert steps["val.recall@1"] == [1, 2]
    assert steps["train.loss"] == steps["train.acc"] == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]
    info = json.loads((run / "info.json").read_text())
    assert set(info["recall"]) == {"R@1", "R@2", "R@10"}
    assert all(isinstance(value, float) for value in info["recall"].values())
    result = json.loads((run / "run.json").read_text())["result"]
    assert result == info["recall"]["R@1"]
    assert (run / BEST).read_bytes() == (tmp_path / "out" / BEST).read_bytes()
    best = load_state(run / BEST)
    assert best.keys() == {"state", "optim", "scheduler"}
    assert best["scheduler"].keys() == set(SCHEDULER_KEYS)
    assert not any(name.startswith("module.") for name in best["state"])


def test_frozen_stage_leaves_the_backbone_bit_for_bit(products, tmp_path):
    train("global", products, tmp_path / "global", epochs=1)
    start = tmp_path / "global" / BEST
    for frozen in (True, False):
        out = tmp_path / f"frozen {frozen}"
        train(
            "rerank", products, out,
            epochs=1, resume=str(start), lr=0.01, model={"freeze_backbone": frozen},
        )  # fmt: skip
        before, after = load_state(start)["state"], weights(out)
        moved = {n.split(".")[0] for n, v in before.items() if not torch.equal(v, after[n])}
        backbone = {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
        assert moved == {"matcher", "remap_local"} | (set() if frozen else backbone)


class Recalls:
    """In place of an evaluation: R@1 after each epoch, as written down."""

    def __init__(self, *values: float) -> None:
        self.values: Iterator[float] = iter(values)

    def __call__(self, *_: Any) -> Any:
        value = next(self.values)
        return type("Found", (), {"metrics": {"R@1": value, "R@10": 90.0}})


def test_weights_are_kept_when_at_least_as_good(products, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment_global, "evaluate_global", Recalls(50.0, 60.0, 60.0, 59.9))
    run = train("global", products, tmp_path, epochs=3)
    assert (run.result, run.info["best_epoch"]) == (60.0, 2)
    # the kept file is that of the second epoch: 8 steps of the schedule's epochs, not the last
    assert load_state(tmp_path / BEST)["scheduler"]["last_epoch"] == 2
    assert load_state(tmp_path / "last.pt")["scheduler"]["last_epoch"] == 3


def test_a_run_that_never_improves_keeps_its_start(products, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment_global, "evaluate_global", Recalls(50.0, 40.0))
    run = train("global", products, tmp_path, epochs=1)
    assert (run.result, run.info["best_epoch"]) == (50.0, 0)
    assert (tmp_path / BEST).is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_epochs_zero_only_evaluates(products, tmp_path, stage):
    # no neighbour table of the training set is needed
    run = train(stage, products, tmp_path, epochs=0, dataset={"train_cache_nn_inds": None})
    assert run.result == run.info["recall_at_start"]["R@1"]
    assert not (tmp_path / "last.pt").exists()


def test_reranking_during_training_cuts_to_its_depth(products, tmp_path):
    table = np.load(products / "nn_test.pkl", allow_pickle=True)
    labels = np.arange(5).repeat(3)
    right = labels[table] == labels[:, None]
    run = train("rerank", products, tmp_path, epochs=0, rerank_depth=4)
    assert run.result <= run.info["recall"]["R@10"]
    assert run.info["recall"]["R@10"] == round(100 * right[:, :4].any(axis=1).mean(), 2)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("stage", "changes", "complaint"),
    [
        ("global", {"dataset": {"batch_size": 9}}, "batch_size=9 is not divisible by num_identit"),
        ("global", {"dataset": {"batch_size": 80}}, "a batch of 80 needs 40"),
        ("global", {"dataset": {"sampler": "boost"}}, r"dataset\.sampler is 'boost'"),
        ("global", {"dataset": {"recalls": [10]}}, "expected 1 among them"),
        ("global", {"cudnn_flag": "fast"}, "cudnn_flag is 'fast'"),
        ("global", {"epochs": -1}, "epochs=-1"),
        ("global", {"optim": "adam"}, "optim is 'adam'"),
        ("global", {"steps_per_epoch": 0}, "steps_per_epoch is 0"),
        ("global", {"chunk": 0}, "chunk is 0: expected"),
        ("global", {"temperature": 0.0}, r"temperature is 0\.0"),
        ("rerank", {"dataset": {"batch_size": 20}}, "multiple of 3"),
        (
            "rerank",
            {"dataset": {"sampler": "random_id"}},
            r"but reranking trains on 'triplet'.*sop_",
        ),
        ("rerank", {"dataset": {"train_cache_nn_inds": None}}, "train_cache_nn_inds is not set"),
        ("rerank", {"rerank_depth": 0}, "rerank_depth is 0"),
    ],
)
def test_bad_options_stop_early(products, tmp_path, stage, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        train(stage, products, tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_missing_tables_and_checkpoints_name_the_remedy(products, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt does not exist.*resume="):
        train("global", products, tmp_path, resume="nothing.pt")
    with pytest.raises(FileNotFoundError, match=r"no\.pkl does not exist.*eval_global_r50\.sh"):
        train("rerank", products, tmp_path, cache_nn_inds="no.pkl")
    with pytest.raises(FileNotFoundError, match=r"no\.pkl does not exist.*nn_inds_train_r50\.sh"):
        train("rerank", products, tmp_path, dataset={"train_cache_nn_inds": "no.pkl"})
    # the tables exchanged: each is of another split
    with pytest.raises(ValueError, match=r"nn_train\.pkl has 24 rows, expected 15"):
        train("rerank", products, tmp_path, cache_nn_inds=str(products / "nn_train.pkl"))
    swapped = {"train_cache_nn_inds": str(products / "nn_test.pkl")}
    with pytest.raises(ValueError, match=r"nn_test\.pkl has 15 rows, expected 24"):
        train("rerank", products, tmp_path, dataset=swapped)


def test_checkpoint_of_another_model_is_refused(products, tmp_path):
    train("global", products, tmp_path, epochs=0)
    with pytest.raises(ValueError, match=r"(?s)resnet18_set\.pt does not fit the model.*remap"):
        train(
            "rerank", products, tmp_path / "next",
            resume=str(tmp_path / BEST), model={"num_global_features": 16},
        )  # fmt: skip
