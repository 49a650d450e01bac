"""Training end to end: it learns, keeps the best, and goes on exactly where it was interrupted."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sacred.observers import FileStorageObserver

from rrt_gld import training_run
from rrt_gld.experiment import ex
from rrt_gld.tools.prepare_topk_gldv2 import ex as topk_gldv2
from rrt_gld.tools.prepare_topk_revisited import ex as topk_revisited
from tests.interruptions import Clock, Interrupted, assert_same, kill_after
from tests.rrt_gld.data_folders import write_random_test_folder, write_random_train_folder
from utils.checkpoints import load_state
from utils.paths import REPO_ROOT

FEAT = "feat"
MODEL = {
    "name": "tiny",
    "num_global_features": 24,
    "num_local_features": 16,
    "dim_feedforward": 32,
    "nhead": 2,
    "num_encoder_layers": 2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """test/ and train/ with descriptors, line lists and neighbour tables; only read."""
    root = tmp_path_factory.mktemp("sets")
    write_random_test_folder(root / "test")
    write_random_train_folder(root / "train")
    topk_revisited.run(
        config_updates={
            "dataset_name": "test",
            "data_dir": str(root / "test"),
            "feature_name": FEAT,
            "gnd_name": "gnd.pkl",
        }
    )
    topk_gldv2.run(
        config_updates={
            "data_dir": str(root / "train"),
            "feature_name": FEAT,
            "num_neighbours": 20,
        }
    )
    return root


def options(folders: Path, temp_dir: Path, **changes: Any) -> dict[str, Any]:
    """A short run: 64 anchors, 6 steps an epoch."""
    dataset = {
        "name": "set",
        "desc_name": FEAT,
        "train_data_dir": str(folders / "train"),
        "test_data_dir": str(folders / "test"),
        "train_txt": "train.txt",
        "test_txt": ["test_query.txt", "test_gallery.txt"],
        "test_gnd_file": "gnd.pkl",
        "max_sequence_len": 9,
        "sampler": "triplet",
        "cache_locals": True,
        **changes.pop("dataset", {}),
    }
    base = {"epochs": 2, "lr": 1e-3, "cpu": True, "visdom_freq": 3, "temp_dir": str(temp_dir)}
    return {**base, "dataset": dataset, "model": MODEL, **changes}


def train(folders: Path, temp_dir: Path, **changes: Any) -> Any:
    return ex.run(config_updates=options(folders, temp_dir, **changes))


def weights(temp_dir: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    return load_state(temp_dir / name)["state"]


def test_training_learns_on_a_handful_of_images(folders, tmp_path):
    run = train(
        folders,
        tmp_path,
        lr=2e-3,
        steps_per_epoch=150,
        scheduler="warmcos_step",
        warmup_steps=20,
        dataset={"sampler": "triplet_fast", "batch_size": 96},
    )
    # seen: 31.3 / 20.9 untrained (one label in four is right), 57.3 / 55.3 after 300 steps
    start = run.info["metrics_at_start"]
    assert run.result["M_map"] > start["M_map"] + 15
    assert run.result["H_map"] > start["H_map"] + 15
    assert run.info["metrics"] == {k: v for k, v in run.result.items() if k != "top_k"}
    assert load_state(tmp_path / "tiny_set.pt").keys() == {"state", "optim"}


def test_run_folder_holds_the_published_scalars_and_the_best_model(folders, tmp_path):
    observer = FileStorageObserver(tmp_path / "runs")
    ex.observers.append(observer)
    try:
        train(folders, tmp_path / "out")
    finally:
        ex.observers.remove(observer)
    run = tmp_path / "runs/1"
    steps = {k: v["steps"] for k, v in json.loads((run / "metrics.json").read_text()).items()}
    assert steps["val.M_map"] == steps["val.H_map"] == [1, 2]
    assert steps["train.loss"] == steps["train.acc"] == steps["train.lr"] == [3, 6, 9, 12]
    info = json.loads((run / "info.json").read_text())
    assert set(info["metrics"]) == {"M_map", "H_map", "M_mp", "H_mp"}
    assert (run / "tiny_set.pt").read_bytes() == (tmp_path / "out/tiny_set.pt").read_bytes()


@pytest.mark.parametrize(
    ("kill_at", "sampler"),
    [(2, "triplet"), (4, "triplet_fast"), (6, "triplet"), (9, "triplet_fast")],
)
def test_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    folders, tmp_path, monkeypatch, kill_at, sampler
):
    changes = {
        "checkpoint_every": 2,
        "scheduler": "warmcos_step",
        "dataset": {"sampler": sampler},
        "model": {**MODEL, "dropout": 0.1},  # the random stream of torch must go on as well
    }
    train(folders, tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        kill_after(patch, training_run, kill_at)
        with pytest.raises(Interrupted):
            train(folders, tmp_path / "parts", **changes)
    train(folders, tmp_path / "parts", continue_run=True, **changes)
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert_same(
        weights(tmp_path / "parts", "tiny_set.pt"), weights(tmp_path / "whole", "tiny_set.pt")
    )


def test_kill_during_evaluation_costs_no_step(folders, tmp_path, monkeypatch):
    train(folders, tmp_path / "whole")
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
            train(folders, tmp_path / "parts")
    saved = load_state(tmp_path / "parts/last.pt")["progress"]
    assert (saved["epochs_done"], saved["step"], saved["evaluated"]) == (1, 0, False)
    last = tmp_path / "parts/last.pt"
    train(folders, tmp_path / "parts", continue_from=str(last))
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_ctrl_c_during_the_last_step_of_an_epoch_is_heeded(folders, tmp_path, monkeypatch):
    train(folders, tmp_path / "whole")
    after_step = training_run.TrainingRun._after_step

    def interrupt(self, result, num_pairs):
        after_step(self, result, num_pairs)
        if self.progress.step == self.options.steps_per_epoch:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training_run.TrainingRun, "_after_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(folders, tmp_path / "parts")
    train(folders, tmp_path / "parts", continue_run=True)
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_files_and_cache_train_the_same(folders, tmp_path):
    train(folders, tmp_path / "cache", epochs=1)
    no_cache = {"cache_locals": False, "num_workers": 2}
    train(folders, tmp_path / "files", epochs=1, dataset=no_cache)
    assert_same(weights(tmp_path / "cache"), weights(tmp_path / "files"))


def test_time_budget_ends_the_run_cleanly_and_it_can_go_on(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "time", Clock())
    run = train(folders, tmp_path, epochs=50, max_minutes=0.0)
    assert load_state(tmp_path / "last.pt")["progress"]["epochs_done"] == 0
    assert run.result["M_map"] == run.info["metrics_at_start"]["M_map"]
    done = []
    for minutes in (0.5, 1.0):
        train(folders, tmp_path, epochs=50, max_minutes=minutes, continue_run=True)
        saved = load_state(tmp_path / "last.pt")["progress"]
        assert saved["evaluated"]
        done.append(6 * saved["epochs_done"] + saved["step"])
    # at least one look at the clock for each step; the seconds of the first part count
    assert 0 < done[0] < 30
    assert done[0] < done[1] < 60


def test_epochs_zero_only_evaluates(folders, tmp_path):
    run = train(folders, tmp_path, epochs=0, dataset={"train_data_dir": None, "sampler": "random"})
    assert run.result["M_map"] == run.info["metrics_at_start"]["M_map"]
    assert not (tmp_path / "last.pt").exists()
    # the released form, loadable as a start
    train(folders, tmp_path / "next", epochs=1, resume=str(tmp_path / "tiny_set.pt"))


def test_steps_per_epoch_counts_epochs(folders, tmp_path):
    train(folders, tmp_path, epochs=3, steps_per_epoch=2, scheduler="cos_step")
    saved = load_state(tmp_path / "last.pt")
    assert saved["progress"]["epochs_done"] == 3
    assert saved["scheduler"]["last_epoch"] == 6


def test_other_options_are_refused_on_continuing(folders, tmp_path):
    train(folders, tmp_path, epochs=1)
    with pytest.raises(
        ValueError, match=r"last\.pt was made with other options \(lr: 0\.001 then, 0\.5"
    ):
        train(folders, tmp_path, epochs=1, lr=0.5, continue_run=True)
    best = tmp_path / "tiny_set.pt"
    with pytest.raises(ValueError, match=r"tiny_set\.pt lacks .*resume="):
        train(folders, tmp_path, continue_from=str(best))


def test_a_new_run_keeps_the_checkpoint_of_the_earlier_one(folders, tmp_path):
    train(folders, tmp_path, epochs=1)
    before = weights(tmp_path)
    train(folders, tmp_path, epochs=1, seed=5)
    assert_same(weights(tmp_path, "last_previous.pt"), before)


def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(
    folders, tmp_path, monkeypatch
):
    train_step = training_run.train_one_epoch.__globals__["train_step"]
    steps = [0]

    def poisoned(model, *rest):
        steps[0] += 1
        if steps[0] == 4:
            with torch.no_grad():
                model.classifier.weight.fill_(torch.nan)
        return train_step(model, *rest)

    monkeypatch.setitem(training_run.train_one_epoch.__globals__, "train_step", poisoned)
    with pytest.raises(RuntimeError, match=r"step \d: .*not finite.*last good checkpoint"):
        train(folders, tmp_path, checkpoint_every=1)
    saved = load_state(tmp_path / "last.pt")
    assert saved["progress"]["step"] == 3
    assert all(torch.isfinite(value).all() for value in saved["state"].values())


def test_full_disk_is_named_and_the_older_checkpoint_survives(folders, tmp_path, monkeypatch):
    whole, save = torch.save, [0]

    def full(content, file):
        save[0] += 1
        if save[0] == 6:  # the file of the best, then last.pt, at the start; then every step
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"last\.pt cannot be written: No space left.*free space"):
        train(folders, tmp_path, checkpoint_every=1)
    assert load_state(tmp_path / "last.pt")["progress"]["step"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "tiny_set.pt"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"dataset": {"sampler": "random"}}, r"dataset\.sampler is 'random'.*triplet"),
        ({"dataset": {"batch_size": 35}}, "multiple of 3"),
        ({"dataset": {"train_txt": None}}, r"dataset\.train_txt is not set"),
        ({"dataset": {"cache_budget_gib": 1e-9}}, "cache_budget_gib"),
        ({"loss": "hinge"}, "loss is 'hinge', expected 'bce'"),
        ({"cudnn_flag": "fast"}, "cudnn_flag is 'fast'"),
        ({"epochs": -1}, "epochs=-1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch is 0"),
        ({"model": {**MODEL, "nhead": None}}, "the model has no size"),
    ],
)
def test_bad_options_stop_early(folders, tmp_path, changes, complaint):
    with pytest.raises((ValueError, MemoryError), match=complaint):
        train(folders, tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_missing_table_and_checkpoint_name_the_remedy(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt does not exist"):
        train(folders, tmp_path, resume="nothing.pt")
    (tmp_path / "train").symlink_to(folders / "train" / f"delg_{FEAT}")
    empty = tmp_path / "set"
    empty.mkdir()
    (empty / f"delg_{FEAT}").symlink_to(folders / "train" / f"delg_{FEAT}")
    (empty / "train.txt").write_bytes((folders / "train/train.txt").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"nn_inds_feat\.pkl.*prepare_topk_gldv2"):
        train(folders, tmp_path / "out", dataset={"train_data_dir": str(empty)})


# ------------------------------------------------------------------ other processes


def command(folders: Path, temp_dir: Path, **changes: Any) -> list[str]:
    """The same run as arguments of a command line."""
    flat: dict[str, Any] = {}
    for key, value in options(folders, temp_dir, **changes).items():
        nested = value if isinstance(value, dict) else None
        flat |= {f"{key}.{k}": v for k, v in nested.items()} if nested else {key: value}
    updates = [f"{key}={value!r}" if isinstance(value, list) else f"{key}={value}"
               for key, value in flat.items()]  # fmt: skip
    return ["-m", "rrt_gld.experiment", "with", *updates]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_ctrl_c_saves_and_says_how_to_go_on(folders, tmp_path):
    arguments = command(folders, tmp_path / "run", epochs=10_000, checkpoint_every=0)
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=REPO_ROOT, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # a shell's background jobs, and what they start, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    last = tmp_path / "run/last.pt"
    deadline = time.monotonic() + 600
    # two epochs done: well inside the training loop
    while not (last.is_file() and load_state(last)["progress"]["epochs_done"] >= 2):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=600)
    assert process.returncode != 0
    assert f"continue_from={last}" in output
    saved = load_state(last)
    assert all(torch.isfinite(value).all() for value in saved["state"].values())
    assert not list(last.parent.glob("*.part*")), "no half-written file is left"


def test_two_processes_equal_one(folders, tmp_path):
    # 64 anchors in batches of 9 triplets: of the last batch, one triplet, rank 1 has no share.
    # The published rate: biases of the keys have no gradient but rounding, which AdamW scales up
    # to steps of the size of lr.
    changes = {"epochs": 1, "max_norm": 0.1, "lr": 1e-4, "dataset": {"batch_size": 27}}
    train(folders, tmp_path / "one", **changes)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    arguments = [*launcher, *command(folders, tmp_path / "two", **changes)]
    arguments[arguments.index("with")] = "-F"
    at = arguments.index("-F")
    arguments[at + 1 : at + 1] = [str(tmp_path / "runs"), "with"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=REPO_ROOT, env=environment(), timeout=600,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5)
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert [name for name in runs if name.isdigit()] == ["1"], "rank 0 alone is observed"
    first, second = (load_state(tmp_path / d / "last.pt")["progress"] for d in ("one", "two"))
    np.testing.assert_allclose(
        [first["best_metrics"][k] for k in ("M_map", "H_map")],
        [second["best_metrics"][k] for k in ("M_map", "H_map")],
        atol=0.5,
    )
