"""Training end to end: it learns, keeps the best, and goes on exactly where it was interrupted."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sacred.observers import FileStorageObserver

from rrt_sop import experiment_global, experiment_rerank, training_run
from rrt_sop.datasets.samplers import ShuffleSampler
from rrt_sop.run_state import SCHEDULER_KEYS, Progress
from tests.rrt_sop.image_folders import write_products, write_random_table
from tests.rrt_sop.small_networks import MODEL, use_thin_backbone
from utils.checkpoints import load_state
from utils.distributed import Ranks
from utils.paths import REPO_ROOT

EXPERIMENTS = {"global": experiment_global.ex, "rerank": experiment_rerank.ex}
STAGES = tuple(EXPERIMENTS)
BEST = "resnet18_set.pt"


@pytest.fixture(autouse=True)
def thin_backbone(monkeypatch) -> None:
    use_thin_backbone(monkeypatch)


@pytest.fixture(scope="module")
def products(tmp_path_factory) -> Path:
    """Lists, images, and random neighbour tables in nn_train.pkl and nn_test.pkl; only read."""
    folder = write_products(tmp_path_factory.mktemp("set"))
    write_random_table(folder / "nn_train.pkl", 24, 12)
    write_random_table(folder / "nn_test.pkl", 15, 14)
    return folder


def options(stage: str, products: Path, temp_dir: Path, **changes: Any) -> dict[str, Any]:
    """A short run: 2 epochs of 4 steps on 24 images; the neighbour tables are random."""
    dataset = {
        "name": "set",
        "data_path": str(products),
        "batch_size": 8 if stage == "global" else 18,
        "test_batch_size": 16,
        "sampler": "random_id" if stage == "global" else "triplet",
        "num_workers": 0,
        "crop_size": 40,
        "test_resize": 40,
        "test_crop": 40,
        "recalls": [1, 2, 10],
        "num_iterations": 4,
        "train_cache_nn_inds": str(products / "nn_train.pkl"),
        **changes.pop("dataset", {}),
    }
    base: dict[str, Any] = {"epochs": 2, "cpu": True, "visdom_freq": 3, "temp_dir": str(temp_dir)}
    if stage == "rerank":
        base |= {"cache_nn_inds": str(products / "nn_test.pkl")}
    model = MODEL | changes.pop("model", {})
    return {**base, "dataset": dataset, "model": model, **changes}


def train(stage: str, products: Path, temp_dir: Path, **changes: Any) -> Any:
    return EXPERIMENTS[stage].run(config_updates=options(stage, products, temp_dir, **changes))


def weights(temp_dir: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    return load_state(temp_dir / name)["state"]


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


class Interrupted(BaseException):
    """Stands for a kill: nothing of the run gets to react."""


def kill_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the run die in its `steps`-th step from now."""
    left = [steps]
    after_step = training_run.TrainingRun._after_step

    def counted(self, result):
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted
        after_step(self, result)

    monkeypatch.setattr(training_run.TrainingRun, "_after_step", counted)


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
        kill_after(patch, kill_at)
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


class Clock:
    """In place of the module `time`: every look at it takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


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


def test_two_processes_equal_one(products, tmp_path):
    # rerank: 24 triplets in batches of 5: of the last batch's 4 each rank has 2; the batches of the
    # global stage are odd too: 9 images in shares of 5 and 4
    changes: dict[str, Any] = {
        "global": {"lr": 0.05, "dataset": {"batch_size": 9, "sample_per_id": 3}},
        "rerank": {"lr": 1e-4, "dataset": {"batch_size": 15}},
    }
    runs = []
    for stage in STAGES:
        train(stage, products, tmp_path / "one" / stage, **changes[stage])
        runs.append((stage, options(stage, products, tmp_path / "two" / stage, **changes[stage])))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.rrt_sop.training_processes",
         run_file(tmp_path, *runs)],
        cwd=REPO_ROOT, env=environment(), timeout=600, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in STAGES:
        one, two = (load_state(tmp_path / d / stage / "last.pt") for d in ("one", "two"))
        for name, value in one["state"].items():
            torch.testing.assert_close(two["state"][name], value, rtol=0, atol=2e-5)
        best = [saved["progress"]["best_metrics"]["R@1"] for saved in (one, two)]
        assert abs(best[0] - best[1]) <= 7, "of 15 queries at most one differs by rounding"
        runs_seen = [path.name for path in (tmp_path / f"runs.{stage}").iterdir()]
        assert [n for n in runs_seen if n.isdigit()] == ["1"], "rank 0 alone is observed"
