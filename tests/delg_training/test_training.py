"""Steps of training against the reference; distributed steps against those of one replica."""

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from delg_training.models.delf import Delf
from delg_training.models.delg import Delg
from delg_training.models.layers import BatchNorm
from delg_training.models.resnet import ResNet
from delg_training.models.weights import named_variables
from delg_training.optimisation import Momentum, learning_rate
from delg_training.training import StepOptions, StepResult, Trainer
from tests.delg_training.golden_models import (
    SYSTEM,
    golden_model,
    golden_outputs,
    image,
    layer_names,
    normalised,
)
from tests.golden_recipe import load_manifest

LOSS_RTOL = 1e-3
NORM_RTOL = (2e-3, 1e-2)  # of step 1 and 2: rounding grows through batch statistics over 16 values
GRADIENTS: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-3}
VARIABLES: dict[str, Any] = {"rtol": 1e-3, "atol": 2e-4}
MOVING_VARIANCE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-2}
LR: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-9}
SIDE, BATCH, INITIAL_LR, MAX_ITERS = 65, 4, 0.01, 10
LABELS = ([0, 1, 2, 3], [4, 5, 6, 1])
# name of an array of the reference -> layer name, how many of its rows are kept
KEPT_ROWS = {"cosine_weights_first64rows": 64, "desc_fc/kernel_first64rows": 64}


def batch_of(step: int) -> tuple[tf.Tensor, tf.Tensor]:
    first = BATCH * step
    names = [f"golden/train{i}" for i in range(first, first + BATCH)]
    images = tf.stack([normalised(image(name, SIDE, SIDE)) for name in names])
    return images, tf.constant(LABELS[step], tf.int64)


def make_trainer(model: Delf, strategy: tf.distribute.Strategy | None = None) -> Trainer:
    optimizer = Momentum(model, lambda step: learning_rate(step, INITIAL_LR, MAX_ITERS))
    return Trainer(model, optimizer, StepOptions(BATCH), strategy)


def run_step(trainer: Trainer, step: int) -> StepResult:
    return trainer.train_step(*batch_of(step), tf.constant(True), tf.zeros(2))


def expected_norm(step: int, name: str, file: str) -> float:
    return float(np.ravel(golden_outputs(file)[name])[step])


def compare_variables(model: Delf, file: str, prefix: str) -> None:
    """Every variable that the reference keeps under `prefix`."""
    ours = {layer_names()[path]: v.numpy() for path, v in named_variables(model)}
    checked = [name for name in golden_outputs(file) if name.startswith(prefix)]
    assert checked
    for name in checked:
        short = name.removeprefix(prefix)
        rows = KEPT_ROWS.get(short)
        value = ours[short.removesuffix("_first64rows")]
        tolerance = MOVING_VARIANCE if short.endswith("moving_variance") else VARIABLES
        expected = golden_outputs(file)[name]
        kept = value[:rows] if rows else value
        np.testing.assert_allclose(
            kept.reshape(expected.shape), expected, **tolerance, err_msg=name
        )


def test_gradients_of_delg_equal_the_reference() -> None:
    model = golden_model()
    trainer = make_trainer(model)
    images, labels = batch_of(0)
    with tf.GradientTape() as tape:
        total = trainer._forward(images, labels, training=True).losses.total
    norms = [float(tf.norm(g)) for g in tape.gradient(total, trainer.optimizer.targets)]
    names = [layer_names()[p] for p, v in named_variables(model) if v.trainable]
    ours = dict(zip(names, norms, strict=True))
    expected = golden_outputs()["train/step1_grad_norms"]
    order = load_manifest(SYSTEM)["grad_names"]
    significant = expected > GRADIENTS["atol"]  # a bias before a norm has none but rounding
    np.testing.assert_allclose(
        np.array([ours[name] for name in order])[significant], expected[significant], **GRADIENTS
    )
    assert max(np.array([ours[n] for n in order])[~significant], default=0) < 5e-3


def test_two_steps_of_delg_equal_the_reference() -> None:
    model = golden_model()
    trainer = make_trainer(model)
    for step in (0, 1):
        result = run_step(trainer, step)
        expected = golden_outputs()["train/losses"][step]
        np.testing.assert_allclose(result.losses, expected, rtol=LOSS_RTOL)
        norm = expected_norm(step, "train/global_norm", "model.npz")
        assert float(result.norm) == pytest.approx(norm, rel=NORM_RTOL[step])
    assert int(trainer.optimizer.iter) == 2
    compare_variables(model, "model.npz", "train/after2/")


def test_a_step_of_delf_equals_the_reference() -> None:
    model = golden_model(delg_global_features=False, use_autoencoder=False)
    result = run_step(make_trainer(model), 0)
    desc, attn, recon, total = result.losses.numpy()
    expected = golden_outputs("pipeline.npz")["train_delf/losses"]
    np.testing.assert_allclose([desc, attn, total], expected, rtol=LOSS_RTOL)
    assert recon == 0
    norm = expected_norm(0, "train_delf/global_norm", "pipeline.npz")
    assert float(result.norm) == pytest.approx(norm, rel=NORM_RTOL[0])
    compare_variables(model, "pipeline.npz", "train_delf/after1/")


def test_learning_rate_falls_as_in_the_reference() -> None:
    for case in load_manifest(SYSTEM, "misc.json")["lr"]:
        ours = learning_rate(case["step"], case["initial_lr"], case["max_iters"])
        np.testing.assert_allclose(ours, case["lr"], **LR)


def test_warm_up_rises_to_the_falling_rate() -> None:
    rates = [float(learning_rate(step, 1.0, 100, warmup_steps=4)) for step in range(6)]
    # (1 - t / 100) * min((t + 1) / 5, 1)
    np.testing.assert_allclose(rates, [0.2, 0.396, 0.588, 0.776, 0.96, 0.95], rtol=1e-6)


def test_momentum_adds_up_past_gradients() -> None:
    """lr 0.5, gradient 1: v = -0.5, then 0.9 * -0.5 - 0.5 = -0.95; w = -0.5, then -1.45."""
    model = tf.Module()
    model.w = tf.Variable([0.0])
    optimizer = Momentum(model, lambda step: tf.constant(0.5))
    values = []
    for _ in range(2):
        optimizer.apply_gradients([tf.constant([1.0])])
        values.append(float(model.w[0]))
    assert values == pytest.approx([-0.5, -1.45])
    assert math.isclose(float(optimizer.momentum.w[0]), -0.95, rel_tol=1e-6)


class WithoutBatchStatistics(Delg):
    """Norms use their moving averages in training too: no image depends on its neighbours."""

    def forward(self, images: tf.Tensor, training: bool = False) -> Any:
        return super().forward(images, training=False)


def train_tiny(strategy: tf.distribute.Strategy) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Losses of three steps of four images on all replicas together, weights at the end."""
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (3, 4, 33, 33, 3)).astype(np.float32)
    labels = random.integers(0, 3, (3, 4))
    with strategy.scope():
        backbone = ResNet(True, 3.0, 8, width=2, depths=(1, 1, 1, 1))
        model = WithoutBatchStatistics(backbone, 3, None)
        optimizer = Momentum(model, lambda step: learning_rate(step, 0.1, 10))
    # clipping and the reconstruction's mean are those of each replica: left out here
    trainer = Trainer(model, optimizer, StepOptions(4, clip_norm=1e9), strategy)
    share = 4 // strategy.num_replicas_in_sync

    def part(values: np.ndarray) -> Any:
        def of(context: Any) -> tf.Tensor:
            first = share * context.replica_id_in_sync_group
            return tf.constant(values[first : first + share])

        return strategy.experimental_distribute_values_from_function(of)

    losses = []
    for x, y in zip(images, labels, strict=True):
        result = trainer.train_step(part(x), part(y), tf.constant(True), tf.constant([1.0, 0.0]))
        losses.append(result.losses.numpy())
        assert result.stop.numpy().tolist() == [strategy.num_replicas_in_sync, 0]
    trainer.synchronise_statistics()
    return losses, {name: v.read_value().numpy() for name, v in named_variables(model)}


def two_replicas() -> tf.distribute.Strategy:
    """Sums without collective operations: TensorFlow numbers those of each strategy from the same
    number on, and a second strategy of the process then meets the shapes of the first.
    """
    together = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=together)


def test_two_replicas_make_the_steps_of_one() -> None:
    losses, weights = train_tiny(two_replicas())
    expected_losses, expected = train_tiny(tf.distribute.get_strategy())
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_moving_averages_are_the_mean_of_the_replicas() -> None:
    """1 and 3 in the replicas: 2 is read from outside, and after synchronising also within."""
    strategy = two_replicas()
    with strategy.scope():
        norm = BatchNorm("norm", 1)

    def within(function: Any) -> list[float]:
        values = strategy.run(tf.function(function))
        return [float(v) for v in strategy.experimental_local_results(values)]

    def set_own() -> tf.Tensor:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        norm.moving_mean.assign([1.0 + 2.0 * tf.cast(number, tf.float32)])
        return norm.moving_mean[0]

    assert within(set_own) == [1, 3]
    assert norm.moving_mean.read_value().numpy().tolist() == [2]
    root = tf.Module()
    root.norm = norm
    Trainer(root, None, StepOptions(2), strategy).synchronise_statistics()  # type: ignore[arg-type]
    assert within(lambda: tf.identity(norm.moving_mean)[0]) == [2, 2]
