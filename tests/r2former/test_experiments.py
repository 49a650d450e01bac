"""Both training stages end to end on a few images: files, recalls, resumption, refusals."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from r2former import precompute_mining, training_run
from r2former.datasets.place_set import PlaceSet
from r2former.models.weights import read_checkpoint
from tests.interruptions import assert_same
from tests.r2former.short_runs import (
    DATASET,
    MODEL,
    STAGES,
    train,
    weights,
    write_street,
)
from utils.checkpoints import load_state

FREE = {"fix": 0, "finetune": 1}


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def trained(street: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A whole run of each stage: its folder and its sacred run."""
    made = {}
    for stage in STAGES:
        folder = tmp_path_factory.mktemp(stage)
        made[stage] = folder, train(stage, street, folder)
    return made


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_measures_and_keeps_the_best(trained, stage):
    folder, run = trained[stage]
    assert run.result["R@10"] >= run.result["R@1"] >= 0
    assert ("global R@1" in run.result) == (stage == "rerank")
    best, last = (read_checkpoint(folder / f"{name}_model.pth") for name in ("best", "last"))
    assert best["epoch_num"] == run.info["best_epoch"]
    assert last["epoch_num"] == 2
    assert all(name.startswith("module.") for name in best["model_state_dict"])
    published = {"optimizer_state_dict", "recalls", "best_r5", "not_improved_num"}
    assert published <= best.keys()
    assert (folder / "best_model_global.pth").is_file() == (stage == "rerank")


def test_fix_leaves_the_backbone_and_moves_the_rest(street, trained, tmp_path):
    folder, _ = trained["global"]
    train("rerank", street, tmp_path, resume=str(folder / "best_model.pth"), epochs_num=1)
    before, after = weights(folder, "best_model.pth"), weights(tmp_path)
    for name, value in before.items():
        assert torch.equal(after[name.replace("module.", "module.backbone.")], value), name
    assert float(after["module.local_head.bias"].abs().max()) > 0


def test_finetuning_moves_the_backbone(street, trained, tmp_path):
    folder, _ = trained["rerank"]
    resume = str(folder / "best_model.pth")
    train("rerank", street, tmp_path, resume=resume, epochs_num=1, **FREE)
    before, after = weights(folder, "best_model.pth"), weights(tmp_path)
    moved = [n for n, v in before.items() if not torch.equal(after[n], v)]
    assert any(name.startswith("module.backbone.blocks.0") for name in moved)
    assert "module.Reranker.ratio" not in moved
    assert "module.Reranker.decoder_pos_embed" not in moved


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Send this process Ctrl-C after so many steps."""
    after_step = training_run.TrainingRun._after_step

    def stop(self: Any, result: Any) -> None:
        after_step(self, result)
        if self.progress.total_steps == steps:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training_run.TrainingRun, "_after_step", stop)


# in the middle of a round; at the end of one; at the end of an epoch
@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_run_goes_on_exactly(street, tmp_path, monkeypatch, trained, stage, steps):
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(KeyboardInterrupt):
            train(stage, street, tmp_path)
    train(stage, street, tmp_path, continue_run=True)
    assert_same(weights(tmp_path), weights(trained[stage][0]))


def test_full_mining_and_augmentation_are_resumed_exactly_too(street, tmp_path, monkeypatch):
    dataset = {"mining": "full", "brightness": 0.5, "random_resized_crop": 0.5,
               "horizontal_flip": True}  # fmt: skip
    train("global", street, tmp_path / "whole", dataset=dataset)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train("global", street, tmp_path / "parts", dataset=dataset)
    last = str(tmp_path / "parts" / "last_model.pth")
    train("global", street, tmp_path / "parts", dataset=dataset, continue_from=last)
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_other_options_are_not_continued(street, trained, tmp_path):
    last = trained["global"][0] / "last_model.pth"
    with pytest.raises(ValueError, match=r"margin: 0\.1 then, 0\.2 now"):
        train("global", street, tmp_path, continue_from=str(last), margin=0.2)
    best = trained["global"][0] / "best_model.pth"
    with pytest.raises(ValueError, match="no checkpoint of an interrupted run"):
        train("global", street, tmp_path, continue_from=str(best))


def test_more_epochs_may_follow(street, trained, tmp_path):
    """Of a constant rate; the published code repeated the stored epoch."""
    last = trained["global"][0] / "last_model.pth"
    run = train("global", street, tmp_path, continue_from=str(last), epochs_num=3)
    assert read_checkpoint(tmp_path / "last_model.pth")["epoch_num"] == 3
    assert run.result is not None


def test_an_earlier_run_in_the_folder_is_kept(street, tmp_path, trained):
    train("global", street, tmp_path, epochs_num=1)
    first = weights(tmp_path)
    train("global", street, tmp_path, epochs_num=1, seed=5)
    assert_same(weights(tmp_path, "previous_last_model.pth"), first)


def test_patience_ends_a_run(street, tmp_path):
    # a rate of almost nothing: recalls never improve after the first epoch
    train("global", street, tmp_path, epochs_num=30, patience=2, lr=1e-12)
    assert read_checkpoint(tmp_path / "last_model.pth")["epoch_num"] == 3


def test_max_minutes_ends_a_run_after_a_measurement(street, tmp_path):
    train("global", street, tmp_path, epochs_num=30, max_minutes=1e-6)
    first = load_state(tmp_path / "last_model.pth")["progress"]
    assert (first["epochs_done"], first["total_steps"], first["evaluated"]) == (0, 1, True)
    long = {"epochs_num": 400, "patience": 400, "collapse_share": 0.0}
    run = train("global", street, tmp_path, max_minutes=0.03, **long)
    assert 0 < read_checkpoint(tmp_path / "last_model.pth")["epoch_num"] < 400
    assert "R@1" in run.result


def test_mining_by_a_precomputed_list(street, trained, tmp_path, caplog):
    updates = {
        "resume": str(trained["global"][0] / "best_model.pth"),
        **{"cpu": True, "hard_init": 12, "hard_final": 9, "keep_all": True, "model": MODEL},
    }
    path = tmp_path / "street_v2_deit_hard_final.npy"
    dataset = {"mining": "global", "neg_hardness": 5, "mining_file": str(path)}
    updates["dataset"] = DATASET | {"datasets_folder": str(street), "mining_file": str(path)}
    assert precompute_mining.ex.run(config_updates=updates).result == str(path)
    rows = np.load(path)
    assert rows.shape == (10, 9)
    # query q stands 2 m beside place 3 q: the only one within 25 m
    assert all(3 * q not in rows[q] for q in range(10))
    assert np.load(tmp_path / "street_v2_deit_query_feature.npy").shape == (10, 16)
    assert np.load(tmp_path / "street_v2_deit_hard_init.npy").shape == (10, 12)
    caplog.clear()
    train("rerank", street, tmp_path / "run", epochs_num=1, dataset=dataset)
    assert "the published command forgot it" in caplog.text
    saved = load_state(tmp_path / "run" / "last_model.pth")["triplets"].numpy()
    assert all(set(row[2:]) <= set(rows[row[0], :5]) for row in saved)


def test_a_collapsed_recall_ends_a_run_with_the_best_kept(street, tmp_path, monkeypatch):
    recalls = iter([55.0, 8.0])

    def measured(*_: Any) -> Any:
        return lambda: {"R@1": (value := next(recalls)), "R@5": value, "R@10": value}

    monkeypatch.setattr("r2former.training_setup.make_measure", measured)
    with pytest.raises(Exception, match=r"R@1 fell to 8\.0 from 55\.0"):
        train("global", street, tmp_path, epochs_num=5)
    assert read_checkpoint(tmp_path / "best_model.pth")["epoch_num"] == 1


def test_sets_without_positions_are_refused_before_training(street, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "r2former.experiment_global.load_val_set",
        lambda: PlaceSet("bare", "", ["a.jpg"], ["b.jpg"]),
    )
    with pytest.raises(ValueError, match="bare has no positions"):
        train("global", street, tmp_path)


@pytest.mark.parametrize(
    "stage, changes, told",
    [
        ("global", {"criterion": "best"}, "criterion is 'best'"),
        ("rerank", {"criterion": "sare_ind"}, "reranking trains with 'triplet'"),
        ("rerank", {"rerank_loss": "best"}, "rerank_loss is 'best'"),
        ("rerank", {"fix": 1, "finetune": 1}, "choose one"),
        ("global", {"groups_per_pass": 0}, "groups_per_pass is 0"),
        ("global", {"patience": 0}, "patience is 0"),
        ("global", {"save_best": 3}, "expected an index into recall_values"),
        ("global", {"dataset": {"cache_refresh_rate": 5}}, "must be a multiple"),
        ("global", {"dataset": {"train_batch_size": 7}}, "fewer than train_batch_size=7"),
        ("global", {"dataset": {"train_batch_size": 0}}, "train_batch_size is 0"),
        ("global", {"dataset": {"mining": "best"}}, "mining is 'best'"),
        ("global", {"freeze": 3}, "freeze is 3, expected 0 to 2"),
    ],
)
def test_bad_options_are_refused_before_training(street, tmp_path, stage, changes, told):
    with pytest.raises(ValueError, match=told):
        train(stage, street, tmp_path, **changes)
    assert not (tmp_path / "last_model.pth").exists()
