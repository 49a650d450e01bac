"""Interrupted training goes on exactly where it stood; several processes train as one does."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rrt_sop import training_run
from rrt_sop.datasets.samplers import ShuffleSampler
from rrt_sop.run_state import Progress
from tests.interruptions import Clock, Interrupted, assert_same, kill_after
from tests.rrt_sop.image_folders import write_products
from tests.rrt_sop.short_runs import (
    BEST,
    STAGES,
    options,
    train,
    weights,
    write_set,
)
from tests.rrt_sop.small_networks import use_thin_backbone
from utils.checkpoints import load_state
from utils.distributed import Ranks
from utils.paths import REPO_ROOT


@pytest.fixture(autouse=True)
def thin_backbone(monkeypatch) -> None:
    use_thin_backbone(monkeypatch)


@pytest.fixture(scope="module")
def products(tmp_path_factory) -> Path:
    """See `write_set`; only read."""
    return write_set(tmp_path_factory.mktemp("set"))


# ------------------------------------------------------------------ interruptions


@pytest.mark.parametrize(
    ("stage", "kill_at"),
    [("global", 1), ("global", 3), ("global", 5), ("rerank", 2), ("rerank", 7)],
)
def test_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    products, tmp_path, monkeypatch, stage, kill_at
):
    changes = {
        "checkpoint_every": 2,
        "scheduler": "warmcos_step",
        # the random stream of torch and the running statistics must go on as well
        "model": {"ert_dropout": 0.1, "set_bn_eval": False},
    }
    train(stage, products, tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        kill_after(patch, training_run, kill_at)
        with pytest.raises(Interrupted):
            train(stage, products, tmp_path / "parts", **changes)
    changes["dataset"] = {"num_workers": 1}  # who reads the images does not matter
    train(stage, products, tmp_path / "parts", continue_run=True, **changes)
    for name in ("last.pt", BEST):
        assert_same(weights(tmp_path / "parts", name), weights(tmp_path / "whole", name))
    moments = [load_state(tmp_path / part / "last.pt")["optim"]["state"] for part in
               ("whole", "parts")]  # fmt: skip
    for first, second in zip(*(list(m.values()) for m in moments), strict=True):
        assert all(
            torch.equal(torch.as_tensor(first[k]), torch.as_tensor(second[k])) for k in first
        )


def test_kill_during_evaluation_costs_no_step(products, tmp_path, monkeypatch):
    train("rerank", products, tmp_path / "whole")
    with monkeypatch.context() as patch:
        calls = [0]
        evaluate = training_run.TrainingRun._evaluate

        def dies(self):
            calls[0] += 1
            if calls[0] == 2:
                raise Interrupted
            evaluate(self)

        patch.setattr(training_run.TrainingRun, "_evaluate", dies)
        with pytest.raises(Interrupted):
            train("rerank", products, tmp_path / "parts")
    last = tmp_path / "parts/last.pt"
    saved = load_state(last)["progress"]
    assert (saved["epochs_done"], saved["step"], saved["evaluated"]) == (1, 0, False)
    train("rerank", products, tmp_path / "parts", continue_from=str(last))
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_during_the_last_step_of_an_epoch_is_heeded(products, tmp_path, monkeypatch, stage):
    train(stage, products, tmp_path / "whole")
    after_step = training_run.TrainingRun._after_step

    def interrupt(self, *arguments):
        after_step(self, *arguments)
        if self.progress.step == len(self.progress.batches):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training_run.TrainingRun, "_after_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(stage, products, tmp_path / "parts")
    train(stage, products, tmp_path / "parts", continue_run=True)
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_time_budget_ends_the_run_cleanly_and_it_can_go_on(products, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "time", Clock())
    run = train("global", products, tmp_path, epochs=50, max_minutes=0.0)
    assert load_state(tmp_path / "last.pt")["progress"]["epochs_done"] == 0
    assert run.result == run.info["recall_at_start"]["R@1"]
    done = []
    for minutes in (0.25, 0.6):
        train("global", products, tmp_path, epochs=50, max_minutes=minutes, continue_run=True)
        saved = load_state(tmp_path / "last.pt")["progress"]
        assert saved["evaluated"]
        done.append(4 * saved["epochs_done"] + saved["step"])
    # at least one look at the clock for each step; the seconds of the first part count
    assert 0 < done[0] < 15
    assert done[0] < done[1] < 36


def test_other_options_and_other_images_are_refused_on_continuing(products, tmp_path):
    train("global", products, tmp_path, epochs=1)
    with pytest.raises(
        ValueError, match=r"last\.pt was made with other options \(lr: 0\.001 then, 0\.5"
    ):
        train("global", products, tmp_path, epochs=1, lr=0.5, continue_run=True)
    other = write_products(tmp_path / "other", train_classes=9)
    with pytest.raises(ValueError, match=r"train count: 24 then, 27 now"):
        train("global", other, tmp_path, epochs=1, continue_run=True)
    with pytest.raises(ValueError, match=r"resnet18_set\.pt lacks .*resume="):
        train("global", products, tmp_path, continue_from=str(tmp_path / BEST))


def test_a_new_run_keeps_the_checkpoint_of_the_earlier_one(products, tmp_path):
    train("global", products, tmp_path, epochs=1)
    before = weights(tmp_path)
    train("global", products, tmp_path, epochs=1, seed=5)
    assert_same(weights(tmp_path, "last_previous.pt"), before)


@pytest.mark.parametrize("stage", STAGES)
def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(
    products, tmp_path, monkeypatch, stage
):
    train_step = training_run.train_one_epoch.__globals__["train_step"]
    steps = [0]

    def poisoned(net, *rest):
        steps[0] += 1
        if steps[0] == 4:
            with torch.no_grad():
                net.layer4[0].conv1.weight.fill_(torch.nan)
        return train_step(net, *rest)

    monkeypatch.setitem(training_run.train_one_epoch.__globals__, "train_step", poisoned)
    with pytest.raises(RuntimeError, match=r"step \d: .*not finite.*last good checkpoint"):
        train(stage, products, tmp_path, checkpoint_every=1)
    saved = load_state(tmp_path / "last.pt")
    assert saved["progress"]["step"] == 3
    assert all(torch.isfinite(value).all() for value in saved["state"].values())


def test_full_disk_is_named_and_the_older_checkpoint_survives(products, tmp_path, monkeypatch):
    whole, save = torch.save, [0]

    def full(content, file):
        save[0] += 1
        if save[0] == 5:  # the file of the best, then last.pt, at the start; then every step
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"last\.pt cannot be written: No space left.*free space"):
        train("global", products, tmp_path, checkpoint_every=1)
    assert load_state(tmp_path / "last.pt")["progress"]["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", BEST]


# ------------------------------------------------------------------ other processes


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run_file(folder: Path, *runs: tuple[str, dict[str, Any]]) -> str:
    """A file for `training_processes`."""
    path = folder / "runs.json"
    path.write_text(json.dumps(runs))
    return str(path)


def test_ctrl_c_saves_and_says_how_to_go_on(products, tmp_path):
    out = tmp_path / "out"
    changes = {"epochs": 10_000, "checkpoint_every": 0, "dataset": {"num_workers": 1}}
    file = run_file(tmp_path, ("rerank", options("rerank", products, out, **changes)))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.rrt_sop.training_processes", file],
        cwd=REPO_ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
        # a shell's background jobs, and what they start, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    last = out / "last.pt"
    deadline = time.monotonic() + 600
    while not (last.is_file() and load_state(last)["progress"]["epochs_done"] >= 2):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    output, _ = process.communicate(timeout=600)
    assert process.returncode != 0
    assert f"continue_from={last}" in output
    saved = load_state(last)
    assert all(torch.isfinite(value).all() for value in saved["state"].values())
    assert not list(out.glob("*.part*")), "no half-written file is left"


class SecondRank(Ranks):
    """A second process; the first one sends `sent`."""

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        assert not tensor.any(), "the others add nothing"
        return tensor + self.sent  # type: ignore[attr-defined]


def test_all_processes_take_the_draws_of_the_first(products, tmp_path):
    made = []
    for ranks in (Ranks(0, 1), SecondRank(1, 2)):
        run: Any = object.__new__(training_run.TrainingRun)
        run.progress, run.ranks = Progress(), ranks
        run.options = SimpleNamespace(steps_per_epoch=3)
        if made:
            first = made[0].progress
            sent = torch.tensor([first.epoch_seed, *np.concatenate(first.batches).tolist()])
            object.__setattr__(ranks, "sent", sent)
        run._draw_epoch(ShuffleSampler(10, 4))  # from another place of torch's stream
        made.append(run)
    assert made[0].progress.epoch_seed == made[1].progress.epoch_seed
    for first, second in zip(*(run.progress.batches for run in made), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        # batches of 9 images in shares of 5 and 4
        ("global", {"lr": 0.05, "dataset": {"batch_size": 9, "sample_per_id": 3}}),
        # 24 triplets in batches of 5, the last of 4: shares of 3 and 2, of 2 and 2
        ("rerank", {"lr": 1e-4, "dataset": {"batch_size": 15}}),
    ],
)
def test_two_processes_equal_one(products, tmp_path, stage, changes):
    train(stage, products, tmp_path / "one", **dict(changes))
    # one run per start: a process cannot safely join the other a second time
    run = (stage, options(stage, products, tmp_path / "two", **dict(changes)))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.rrt_sop.training_processes",
         run_file(tmp_path, run)],
        cwd=REPO_ROOT, env=environment(), timeout=300, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_state(tmp_path / part / "last.pt") for part in ("one", "two"))
    for name, value in one["state"].items():
        torch.testing.assert_close(two["state"][name], value, rtol=0, atol=2e-5)
    best = [saved["progress"]["best_metrics"]["R@1"] for saved in (one, two)]
    assert abs(best[0] - best[1]) <= 7, "of 15 queries at most one differs by rounding"
    runs_seen = [path.name for path in (tmp_path / f"runs.{stage}").iterdir()]
    assert [name for name in runs_seen if name.isdigit()] == ["1"], "rank 0 alone is observed"
