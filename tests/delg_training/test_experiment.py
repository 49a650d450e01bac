"""Training runs end to end on tiny sets: restart, interruption, validation, summaries, debug."""

import logging
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from delg_training import experiment, training_run
from delg_training.guard import Guard, TrainingDivergedError, Window
from delg_training.models.weights import SUFFIX
from delg_training.strategies import is_chief, make_strategy, observe_chief_only
from delg_training.summaries import Summaries, attention_pictures
from delg_training.training import Observation
from tests.delg_training.tiny_sets import NUM_CLASSES, TINY_CONFIG, pack_tiny_set


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_tiny_set(tmp_path_factory.mktemp("tiny"))


def run(pattern: str, logdir: Path, dataset: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A run of six steps of four pictures."""
    config = {
        "logdir": str(logdir),
        "initial_lr": 0.05,
        "max_iters": 6,
        "report_every": 3,
        "validate_every": 4,
        "checkpoint_every": 4,
        "model": TINY_CONFIG,
        "dataset": {
            "train_file_pattern": pattern,
            "validation_file_pattern": pattern.replace("train*", "validation*"),
            "num_classes": NUM_CLASSES,
            "batch_size": 4,
            "image_size": 33,
            **(dataset or {}),
        },
        **changes,
    }
    return experiment.ex.run(config_updates=config).result


def tensors(prefix: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(prefix))
    keys = reader.get_variable_to_shape_map()
    return {key: reader.get_tensor(key) for key in keys if key.endswith(SUFFIX)}


@pytest.fixture(scope="module")
def whole(pattern: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """Folder and result of a run that nothing disturbed."""
    logdir = tmp_path_factory.mktemp("whole")
    return logdir, run(pattern, logdir)


def assert_same_end(first: Path, second: Path) -> None:
    ours, theirs = (tensors(p / "delf_tf2-ckpt" / "ckpt-6") for p in (first, second))
    ours.pop("save_counter" + SUFFIX, None)
    theirs.pop("save_counter" + SUFFIX, None)
    assert set(ours) == set(theirs)
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)


def test_run_writes_checkpoints_weights_and_metrics(whole: tuple[Path, dict[str, float]]) -> None:
    logdir, result = whole
    names = {path.name for path in (logdir / "delf_tf2-ckpt").glob("*.index")}
    assert names == {"ckpt-4.index", "ckpt-6.index"}
    weights = tensors(logdir / "delf_weights")
    checkpoint = tensors(logdir / "delf_tf2-ckpt" / "ckpt-6")
    assert checkpoint["optimizer/iter" + SUFFIX] == 6
    for key, value in weights.items():
        np.testing.assert_array_equal(checkpoint[f"model/{key}"], value)
    assert result["steps"] == 6
    assert 0 <= result["validation/desc"] <= 1
    assert result["learning_rate"] == pytest.approx(0.05 / 6)  # of the last update
    assert {"loss/desc/crossentropy", "loss/attn/crossentropy", "loss/recon/mse"} <= set(result)


def test_restarted_run_ends_with_the_same_weights(
    pattern: str, tmp_path: Path, whole: tuple[Path, dict[str, float]]
) -> None:
    """Ended by its time budget after the first step, then started again with the same command."""
    first = run(pattern, tmp_path, max_minutes=0.0)
    assert first["steps"] == 1
    run(pattern, tmp_path)
    assert_same_end(tmp_path, whole[0])


def test_run_killed_between_its_last_checkpoint_and_the_weights_writes_them(
    pattern: str, tmp_path: Path, whole: tuple[Path, dict[str, float]]
) -> None:
    logdir = tmp_path / "killed"
    shutil.copytree(whole[0], logdir)
    for file in logdir.glob("delf_weights*"):
        file.unlink()
    run(pattern, logdir)
    before, after = tensors(whole[0] / "delf_weights"), tensors(logdir / "delf_weights")
    assert set(before) == set(after)
    for key, value in before.items():
        np.testing.assert_array_equal(value, after[key], err_msg=key)


def test_interrupted_run_finishes_its_step_saves_and_goes_on(
    pattern: str,
    tmp_path: Path,
    whole: tuple[Path, dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original = training_run.TrainingRun._after_step

    def interrupt(self: Any, step: int, images: Any, result: Any) -> None:
        original(self, step, images, result)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training_run.TrainingRun, "_after_step", interrupt)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        run(pattern, tmp_path)
    assert "the same command goes on" in caplog.text
    monkeypatch.undo()
    assert (tmp_path / "delf_tf2-ckpt" / "ckpt-3.index").is_file()
    run(pattern, tmp_path)
    assert_same_end(tmp_path, whole[0])


def test_other_options_do_not_go_on_silently(
    pattern: str, whole: tuple[Path, dict[str, float]]
) -> None:
    with pytest.raises(ValueError, match=r"initial_lr: 0\.05 then, 0\.1 now.*another logdir"):
        run(pattern, whole[0], initial_lr=0.1)


def test_run_of_two_replicas_ends_like_one(
    pattern: str, tmp_path: Path, whole: tuple[Path, dict[str, float]]
) -> None:
    """That its steps are the same is shown in test_training.py."""
    devices = tf.config.list_logical_devices("CPU")
    assert len(devices) == 2, "conftest.py splits the CPU in two"
    result = run(pattern, tmp_path, devices=["CPU:0", "CPU:1"])
    assert result["steps"] == 6
    ours, single = tensors(tmp_path / "delf_weights"), tensors(whole[0] / "delf_weights")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in single.items()}
    assert all(np.isfinite(value).all() for value in ours.values())


def events(logdir: Path) -> Iterator[tuple[str, int, Any]]:
    """Tag, step and value of every summary."""
    for file in sorted((logdir / "train_logs").iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                yield value.tag, event.step, tf.make_ndarray(value.tensor)


def test_summaries_have_the_published_names(whole: tuple[Path, dict[str, float]]) -> None:
    found: dict[str, dict[int, Any]] = {}
    for tag, step, value in events(whole[0]):
        found.setdefault(tag, {})[step] = value
    expected = {
        *("learning_rate", "global_steps_per_sec", "desc/scale_factor"),
        *("loss/desc/crossentropy", "loss/attn/crossentropy", "loss/recon/mse"),
        *("train_accuracy/desc", "train_accuracy/attn", "validation/desc", "validation/attn"),
        *("batch_images", "batch_attention", "image_range/max", "image_range/min"),
        *(f"attention/{k}" for k in ("max", "min", "mean")),
        *(f"attention/percent_{k}" for k in (25, 50, 75)),
        *(f"sparsity/block{k}" for k in ("0", "0mp", "1", "2", "3", "4")),
    }
    assert set(found) == expected
    assert set(found["learning_rate"]) == {3, 6}
    assert set(found["validation/desc"]) == {4, 6}
    assert found["desc/scale_factor"][3] == pytest.approx(45.25)
    assert 0 < found["sparsity/block1"][3] < 1
    assert found["image_range/max"][3] <= 127 / 128
    width, height, picture = found["batch_images"][3][:3]
    assert (width, height) == (b"33", b"33")
    assert tf.io.decode_png(picture).shape == (33, 33, 3)


def test_percentiles_are_those_of_the_sorted_attention(tmp_path: Path) -> None:
    """Of 0 ... 4 the 25 %, 50 %, 75 % points are 1, 2, 3."""
    prob = tf.reshape(tf.range(5, dtype=tf.float32), (1, 5, 1, 1))
    summaries = Summaries(tmp_path)
    summaries.observation(tf.zeros((1, 5, 5, 3)), Observation(prob, {}), 7)
    summaries.close()
    found = {tag: value for tag, _, value in events(tmp_path)}
    assert [found[f"attention/percent_{k}"] for k in (25, 50, 75)] == [1, 2, 3]
    np.testing.assert_allclose(attention_pictures(prob)[0, 4], 4 / 4.001)


def test_debug_run_is_short_and_saves_every_step(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (experiment.DEBUG.max_iters, experiment.DEBUG.checkpoint_every) == (100, 1)
    short = training_run.RunOptions(2, report_every=1, checkpoint_every=1, validation_batches=1)
    monkeypatch.setattr(experiment, "DEBUG", short)
    try:
        result = run(pattern, tmp_path, dataset={"batch_size": 400}, debug=True)
    finally:
        tf.config.run_functions_eagerly(False)
    assert result["steps"] == 2
    names = {path.name for path in (tmp_path / "delf_tf2-ckpt").glob("*.index")}
    assert names == {"ckpt-1.index", "ckpt-2.index"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"max_iters": 0}, "expected 1 or more steps"),
        ({"initial_lr": 0.0}, "a positive rate"),
        ({"multi_worker": True}, "multi_worker=True needs TF_CONFIG"),
        ({"dataset": {"dataset_version": "gld_v3", "num_classes": None}}, "dataset_version is"),
        ({"dataset": {"train_file_pattern": "/nowhere/train*"}}, "no file matches"),
    ],
)
def test_wrong_options_are_refused(
    pattern: str, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        run(pattern, tmp_path, **changes)


# ------------------------------------------------------------------ guard, strategies


def window(desc: float, correct: float, images: int = 1000) -> Window:
    losses = {"desc": desc, "attn": 1.0, "recon": 0.0, "total": desc}
    return Window(losses, {"desc": correct, "attn": images / 2}, images)


@pytest.mark.parametrize(
    ("loss", "correct", "complaint"),
    [
        (np.log(100), 500, "stands at ln(100)"),  # whatever the accuracy
        (7.0, 15, "stands at chance"),  # of 1000 images 10 are right by chance
        (7.0, 40, None),
        (3.0, 500, None),
    ],
)
def test_guard_complains_about_chance(
    loss: float, correct: float, complaint: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard(num_classes=100, patience=50)
    guard.check(49, window(loss, correct))
    assert not caplog.text
    guard.check(50, window(loss, correct))
    guard.check(60, window(loss, correct))
    assert caplog.text.count("has learnt nothing") == (1 if complaint else 0)
    assert complaint is None or complaint in caplog.text


def test_guard_stops_a_run_that_fell_apart() -> None:
    with pytest.raises(TrainingDivergedError, match="lower initial_lr"):
        Guard(10).check(3, window(float("nan"), 0))


def test_broken_weights_do_not_replace_good_ones(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError):
        run(pattern, tmp_path, initial_lr=1e30, clip_norm=1e30, report_every=100)
    assert not (tmp_path / "delf_weights.index").exists()


def test_first_machine_writes_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_chief()
    for task, chief in (("chief", True), ("worker", True), ("evaluator", False)):
        monkeypatch.setenv("TF_CONFIG", f'{{"task": {{"type": "{task}", "index": 0}}}}')
        assert is_chief() is chief
    monkeypatch.setenv("TF_CONFIG", '{"task": {"type": "worker", "index": 1}}')
    options: dict[str, Any] = {}
    observe_chief_only(options)
    assert options == {"--unobserved": True}
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(ValueError, match="TF_CONFIG is no JSON"):
        make_strategy(multi_worker=True)
