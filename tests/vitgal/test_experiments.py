"""Both trainings end to end: they learn, and go on exactly where they were interrupted."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from sacred.observers import FileStorageObserver

from tests.interruptions import Clock, Interrupted, assert_same, kill_after
from tests.vitgal.train_folder import write_train_folder
from utils.checkpoints import load_state
from utils.paths import REPO_ROOT
from vitgal import training_run
from vitgal.create_train_split import ex as split_ex
from vitgal.experiment import ex as retrieval_ex
from vitgal.experiment_autoencoder import ex as autoencoder_ex
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.retrieval import RetrievalNetwork
from vitgal.models.weights import BACKBONE, load_autoencoder, load_backbone
from vitgal.models.xcit import XCiTSizes

MODEL = {"name": "tiny", "embed_dim": 24, "depth": 1, "num_heads": 2, "code_dim": 8}
SIZES = XCiTSizes(24, 1, 2)
EXPERIMENTS = {"retrieval": retrieval_ex, "autoencoder": autoencoder_ex}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A training set with its split: 30 images of 6 classes; only read."""
    root = write_train_folder(tmp_path_factory.mktemp("gldv2"))
    split_ex.run(config_updates={"data_path": str(root)})
    return root


def options(folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A short run: 6 steps an epoch or so."""
    dataset = {
        "name": "set",
        "data_path": str(folder),
        "batch_size": 4,
        "num_workers": 0,
        "input_size": 32,
        **changes.pop("dataset", {}),
    }
    base = {
        "epochs": 2,
        "lr": 1e-3,
        "warmup_lr": 5e-4,
        "cpu": True,
        "print_freq": 3,
        "test_freq": 1,
        "keep_epochs": False,
        "output_dir": str(out),
    }
    model = {**MODEL, **changes.pop("model", {})}
    return {**base, "dataset": dataset, "model": model, **changes}


def train(folder: Path, out: Path, stage: str = "retrieval", **changes: Any) -> Any:
    return EXPERIMENTS[stage].run(config_updates=options(folder, out, **changes))


@pytest.fixture(scope="module")
def backbone(folder, tmp_path_factory) -> Path:
    """A trained retrieval network, and how well it did."""
    output_dir = tmp_path_factory.mktemp("backbone")
    mild = {"color_jitter": 0.0, "shift_roate_scale_p": 0.0, "cutout_p": 0.0}
    run = train(folder, output_dir, epochs=10, lr=3e-3, warmup_lr=3e-3, dataset=mild, test_freq=100)
    (output_dir / "result.json").write_text(json.dumps(run.result))
    return output_dir / "checkpoint.pth"


def weights(output_dir: Path, name: str = "checkpoint.pth") -> dict[str, torch.Tensor]:
    return load_state(output_dir / name)["model"]


# ------------------------------------------------------------------ learning, files


def test_retrieval_network_learns_its_classes(backbone):
    # one class in six is right by chance; seen: 100 after 10 epochs
    assert json.loads((backbone.parent / "result.json").read_text())["top1"] >= 80


def test_autoencoder_learns_to_rebuild_the_tokens(folder, tmp_path, backbone):
    run = train(
        folder, tmp_path, "autoencoder", pretrained_backbone=str(backbone), epochs=6, lr=1e-2,
        warmup_lr=1e-2, test_freq=5,
    )  # fmt: skip
    first, *_, last = (json.loads(x) for x in (tmp_path / "log.txt").read_text().splitlines())
    assert (first["epoch"], last["epoch"]) == (0, 5)
    # seen: 11.2, then 7.6; a code of 8 numbers cannot hold all of 24
    assert last["loss"] < 0.8 * first["loss"]
    assert run.result["loss"] == last["loss"]
    trained, frozen = weights(tmp_path), weights(backbone.parent)
    assert_same(
        {k: v for k, v in trained.items() if k.startswith(BACKBONE)},
        {BACKBONE + k: v for k, v in frozen.items() if k != "head.weight"},
    )


@pytest.mark.parametrize("stage", list(EXPERIMENTS))
def test_files_are_the_published_ones_and_load_strictly(folder, tmp_path, backbone, stage):
    start = {"pretrained_backbone": str(backbone)} if stage == "autoencoder" else {}
    train(folder, tmp_path, stage, keep_epochs=True, **start)
    names = ("best_model.pth", "checkpoint.pth", "log.txt")
    copies = [f"checkpoint_model_epoch_{epoch}.pth" for epoch in (0, 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, *copies])
    saved = load_state(tmp_path / "checkpoint.pth")
    published = {"model", "optimizer", "lr_scheduler", "epoch", "scaler", "args"}
    assert published <= set(saved)
    assert saved["epoch"] == 1
    assert "scaler" not in load_state(tmp_path / "best_model.pth")
    for name in ("best_model.pth", "checkpoint.pth"):
        load_backbone(RetrievalNetwork(SIZES), tmp_path / name)
        if stage == "autoencoder":
            load_autoencoder(Autoencoder(SIZES, 8), tmp_path / name)


def test_run_folder_holds_the_scalars(folder, tmp_path):
    observer = FileStorageObserver(tmp_path / "runs")
    retrieval_ex.observers.append(observer)
    try:
        run = train(folder, tmp_path / "out")
    finally:
        retrieval_ex.observers.remove(observer)
    metrics = json.loads((tmp_path / "runs/1/metrics.json").read_text())
    assert metrics["val.top1"]["steps"] == [0, 1]
    steps = metrics["train.loss"]["steps"]
    assert steps == list(range(3, 2 * 3 * len(steps) // 2 + 1, 3))
    assert metrics["train.lr"]["values"] == [5e-4] * len(steps), "one epoch late"
    assert set(run.result) == {"loss", "top1", "top5", "best_top1"}


def test_validation_comes_at_the_published_epochs_and_the_last(folder, tmp_path):
    train(folder, tmp_path, epochs=6, test_freq=4)
    entries = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [entry["epoch"] for entry in entries] == [0, 4, 5]


def test_eval_only_validates(folder, tmp_path, backbone):
    expected = json.loads((backbone.parent / "result.json").read_text())
    mild = {"color_jitter": 0.0, "shift_roate_scale_p": 0.0, "cutout_p": 0.0}
    run = train(
        folder, tmp_path, eval=True, resume=str(backbone), epochs=10, lr=3e-3, warmup_lr=3e-3,
        dataset=mild,
    )  # fmt: skip
    assert run.result["top1"] == expected["top1"]
    assert run.result["loss"] == pytest.approx(expected["loss"], rel=1e-6)


# ------------------------------------------------------------------ interruption


@pytest.mark.parametrize(
    ("kill_at", "stage", "workers"),
    [(2, "retrieval", 0), (5, "retrieval", 1), (8, "retrieval", 0), (3, "autoencoder", 0)],
)
def test_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    folder, tmp_path, monkeypatch, backbone, kill_at, stage, workers
):
    changes: dict[str, Any] = {"checkpoint_every": 2, "model": {"drop_path": 0.3, "drop": 0.1}}
    if stage == "autoencoder":
        changes["pretrained_backbone"] = str(backbone)
    train(folder, tmp_path / "whole", stage, **changes)
    changes["dataset"] = {"num_workers": workers}
    with monkeypatch.context() as patch:
        kill_after(patch, training_run, kill_at)
        with pytest.raises(Interrupted):
            train(folder, tmp_path / "parts", stage, **changes)
    train(folder, tmp_path / "parts", stage, continue_run=True, **changes)
    for name in ("checkpoint.pth", "best_model.pth"):
        assert_same(weights(tmp_path / "parts", name), weights(tmp_path / "whole", name))
    moments = [
        load_state(tmp_path / part / "checkpoint.pth")["optimizer"]["state"]
        for part in ("whole", "parts")
    ]
    for index, state in moments[0].items():
        assert torch.equal(state["exp_avg_sq"], moments[1][index]["exp_avg_sq"])


def test_training_on_two_views_resumes_exactly(folder, tmp_path, monkeypatch):
    changes: dict[str, Any] = {"correspondence_weight": 1.0, "checkpoint_every": 2}
    run = train(folder, tmp_path / "whole", **changes)
    assert math.isfinite(run.result["loss"])
    with monkeypatch.context() as patch:
        kill_after(patch, training_run, 5)
        with pytest.raises(Interrupted):
            train(folder, tmp_path / "parts", **changes)
    with pytest.raises(ValueError, match="correspondence_weight"):  # not without the second view
        train(folder, tmp_path / "parts", continue_run=True)
    train(folder, tmp_path / "parts", continue_run=True, **changes)
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_views_that_are_no_grid_of_patches_are_refused_before_training(folder, tmp_path):
    with pytest.raises(ValueError, match="input_size is 40, expected a multiple of 16"):
        train(folder, tmp_path, correspondence_weight=1.0, dataset={"input_size": 40})
    assert not (tmp_path / "checkpoint.pth").exists()


def test_ctrl_c_during_the_last_step_of_an_epoch_is_heeded(folder, tmp_path, monkeypatch):
    train(folder, tmp_path / "whole")
    after_step = training_run.TrainingRun._after_step

    def interrupt(self, result):
        after_step(self, result)
        if self.progress.step == len(self.batches):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training_run.TrainingRun, "_after_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(folder, tmp_path / "parts")
    train(folder, tmp_path / "parts", continue_run=True)
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_kill_during_validation_costs_no_step(folder, tmp_path, monkeypatch):
    train(folder, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(
            training_run.TrainingRun, "validate", lambda self: (_ for _ in ()).throw(Interrupted())
        )
        with pytest.raises(Interrupted):
            train(folder, tmp_path / "parts")
    last = tmp_path / "parts/checkpoint.pth"
    saved = load_state(last)["progress"]
    assert (saved["epochs_done"], saved["step"], saved["validated"]) == (1, 0, False)
    train(folder, tmp_path / "parts", resume=str(last))
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    logs = [(tmp_path / part / "log.txt").read_text() for part in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_time_budget_ends_the_run_cleanly_and_it_can_go_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "time", Clock())
    done = []
    for minutes in (0.2, 0.5):
        run = train(
            folder, tmp_path, epochs=50, max_minutes=minutes, continue_run=True, test_freq=50
        )
        saved = load_state(tmp_path / "checkpoint.pth")["progress"]
        assert run.result["top1"] == saved["metrics"]["top1"]
        done.append(saved["validated_at"])
    assert 0 < done[0] < done[1] < 60


def test_other_options_are_refused_on_continuing(folder, tmp_path):
    train(folder, tmp_path, epochs=1)
    with pytest.raises(
        ValueError, match=r"checkpoint\.pth was made with other options \(lr: 0\.001 then, 0\.5"
    ):
        train(folder, tmp_path, epochs=1, lr=0.5, continue_run=True)
    with pytest.raises(ValueError, match=r"dataset\.cutout_p: 0\.5 then, 0\.0 now"):
        train(folder, tmp_path, epochs=1, dataset={"cutout_p": 0.0}, continue_run=True)
    with pytest.raises(ValueError, match=r"best_model\.pth lacks \['optimizer', .*no checkpoint"):
        train(folder, tmp_path, epochs=1, resume=str(tmp_path / "best_model.pth"))
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        train(folder, tmp_path, epochs=1, resume="none.pth")
    # more workers and another folder change nothing
    train(folder, tmp_path, epochs=1, dataset={"num_workers": 1}, continue_run=True)


def test_a_new_run_keeps_the_checkpoint_of_the_earlier_one(folder, tmp_path):
    train(folder, tmp_path, epochs=1)
    before = weights(tmp_path)
    train(folder, tmp_path, epochs=1, seed=5)
    assert_same(weights(tmp_path, "checkpoint_previous.pth"), before)


def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(folder, tmp_path, monkeypatch):
    step, steps = training_run.Stepper.step, [0]

    def poisoned(self, *rest):
        steps[0] += 1
        if steps[0] == 4:
            with torch.no_grad():
                self.model.norm.weight.fill_(torch.nan)
        return step(self, *rest)

    monkeypatch.setattr(training_run.Stepper, "step", poisoned)
    with pytest.raises(RuntimeError, match=r"step \d: .*not finite.*last good checkpoint"):
        train(folder, tmp_path, checkpoint_every=1)
    saved = load_state(tmp_path / "checkpoint.pth")
    assert saved["progress"]["step"] == 3
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_full_disk_is_named_and_the_older_checkpoint_survives(folder, tmp_path, monkeypatch):
    whole, save = torch.save, [0]

    def full(content, file):
        save[0] += 1
        if save[0] == 4:
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"checkpoint\.pth cannot be written: No space left"):
        train(folder, tmp_path, checkpoint_every=1)
    assert load_state(tmp_path / "checkpoint.pth")["progress"]["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sched": "step"}, "sched is 'step', expected 'cosine'"),
        ({"opt": "sgd"}, "opt is 'sgd'"),
        ({"lr_noise": 0.1}, r"lr_noise is 0\.1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"test_freq": 0}, "test_freq is 0"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"output_dir": ""}, "output_dir is empty"),
        ({"model": {"depth": None}}, r"model\.depth is not set.*model\.xcit_s12"),
        ({"model": {"nb_classes": 3}}, r"model\.nb_classes is 3, but the split has 6"),
        ({"dataset": {"name": None}}, r"dataset\.name is not set.*dataset\.gldv2"),
        ({"dataset": {"batch_size": 400}}, r"lower dataset\.batch_size"),
        ({"dataset": {"train_split": "gone.txt"}}, r"gone\.txt does not exist.*create_train_split"),
        ({"pretrained": "gone.pth"}, r"gone\.pth does not exist.*pretrained"),
    ],
)
def test_bad_options_stop_early(folder, tmp_path, changes, complaint):
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        train(folder, tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_autoencoder_needs_a_backbone(folder, tmp_path):
    with pytest.raises(ValueError, match=r"pretrained_backbone is not set; give the checkpoint"):
        train(folder, tmp_path, "autoencoder")
    with pytest.raises(FileNotFoundError, match=r"gone\.pth does not exist; run vitgal\.exp"):
        train(folder, tmp_path, "autoencoder", pretrained_backbone="gone.pth")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(folder, tmp_path, precision):
    run = train(folder, tmp_path, epochs=1, precision=precision, clip_grad=1.0)
    assert math.isfinite(run.result["loss"])
    assert bool(load_state(tmp_path / "checkpoint.pth")["scaler"]) == (precision == "fp16")


# ------------------------------------------------------------------ other processes


def command(folder: Path, out: Path, stage: str = "retrieval", **changes: Any) -> list[str]:
    """The same run as arguments of a command line."""
    flat: dict[str, Any] = {}
    for key, value in options(folder, out, **changes).items():
        nested = value if isinstance(value, dict) else None
        flat |= {f"{key}.{k}": v for k, v in nested.items()} if nested else {key: value}
    module = {"retrieval": "experiment", "autoencoder": "experiment_autoencoder"}[stage]
    updates = [f"{key}={value}" for key, value in flat.items()]
    return ["-m", f"vitgal.{module}", "with", *updates]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_ctrl_c_reaches_all_processes_and_saves(folder, tmp_path):
    changes = {"epochs": 10_000, "test_freq": 10_000, "dataset": {"num_workers": 1}}
    process = subprocess.Popen(
        [sys.executable, *command(folder, tmp_path / "run", **changes)],
        cwd=REPO_ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
        # a shell's background jobs, and what they start, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    last = tmp_path / "run/checkpoint.pth"
    deadline = time.monotonic() + 600
    while not (last.is_file() and load_state(last)["progress"]["epochs_done"] >= 2):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: readers of images get it too
    output, _ = process.communicate(timeout=600)
    assert process.returncode != 0
    assert f"resume={last}" in output
    saved = load_state(last)
    assert all(torch.isfinite(value).all() for value in saved["model"].values())
    assert not list(last.parent.glob("*.part*")), "no half-written file is left"


@pytest.mark.parametrize("stage", list(EXPERIMENTS))
def test_two_processes_train_together(folder, tmp_path, backbone, stage):
    """The autoencoder has no batch statistics: two processes equal one with batches twice as large.

    The retrieval network's are each process's own, as published, and change it a little.
    """
    changes: dict[str, Any] = {"epochs": 1, "lr": 1e-4, "warmup_lr": 1e-4}
    if stage == "autoencoder":
        changes["pretrained_backbone"] = str(backbone)
    train(folder, tmp_path / "one", stage, dataset={"batch_size": 8}, **changes)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    arguments = [*launcher, *command(folder, tmp_path / "two", stage, **changes)]
    at = arguments.index("with")
    arguments[at:at] = ["-F", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=REPO_ROOT, env=environment(), timeout=600,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert [name for name in runs if name.isdigit()] == ["1"], "rank 0 alone is observed"
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    # lr * steps bounds how far AdamW moves; the networks must agree much better than that
    tolerance = 1e-5 if stage == "autoencoder" else 1e-3
    for name, value in one.items():
        if "running_" not in name and "num_batches" not in name:
            torch.testing.assert_close(two[name], value, rtol=0, atol=tolerance)
    logs = [json.loads((tmp_path / d / "log.txt").read_text()) for d in ("one", "two")]
    assert logs[0]["epoch"] == logs[1]["epoch"] == 0
    if stage == "autoencoder":
        assert logs[1]["loss"] == pytest.approx(logs[0]["loss"], rel=1e-4)
