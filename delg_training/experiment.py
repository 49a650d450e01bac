"""Train DELF or DELG on packed landmark images (ICCV 2017; ECCV 2020).

    python -m delg_training.experiment with model.delg dataset.gld_v2_clean \
        imagenet_checkpoint=FILE logdir=logs/train_delg

A run that finds a checkpoint in `logdir` goes on from it. Uses all GPUs of the machine; several
machines: multi_worker=True and TF_CONFIG, one process each.
"""

import logging
from dataclasses import replace
from typing import Any

import tensorflow as tf
from sacred import Experiment

from delg_training.checkpoints import RunFiles
from delg_training.datasets.gldv2_tfrecords import StreamOptions
from delg_training.datasets.ingredient import dataset_ingredient, load_indices, stream_options
from delg_training.guard import Guard
from delg_training.models.delf import Delf
from delg_training.models.ingredient import make_model, model_ingredient
from delg_training.models.weights import load_imagenet_weights
from delg_training.optimisation import Momentum, learning_rate
from delg_training.strategies import is_chief, make_strategy, observe_chief_only
from delg_training.summaries import Summaries
from delg_training.training import StepOptions, Trainer
from delg_training.training_run import BatchSource, RunOptions, TrainingRun
from utils.paths import REPO_ROOT

logger = logging.getLogger(__name__)
ex = Experiment(
    "delg_training_experiment",
    ingredients=[dataset_ingredient, model_ingredient],
    base_dir=str(REPO_ROOT),
    save_git_info=False,
)
ex.option_hook(observe_chief_only)


@ex.config
def config():
    logdir = "logs/delg_training"  # checkpoints, weights, summaries
    seed = 0  # of initial weights, order of images and crops
    initial_lr = 0.01  # falls linearly to 0; 0.01 with 256 images a step, 0.005 with 128
    max_iters = 500000  # steps
    warmup_steps = 0  # the rate rises over that many steps first; 0: published
    attention_loss_weight = 1.0  # of the local classifier's cross entropy
    reconstruction_loss_weight = 10.0  # of the autoencoder's error
    clip_norm = 10.0  # of all gradients of a replica together
    imagenet_checkpoint = None  # Keras' .h5 of a ResNet-50 without top; None: random weights
    imagenet_stem = True  # load the first convolution too, which the published code left random
    report_every = 100  # steps between summaries and console lines
    validate_every = 1000  # steps
    validation_batches = None  # per evaluation; None: 50,000 images, each at most once
    checkpoint_every = 1000  # steps; one more at the end
    max_minutes = None  # wall-clock budget; then a checkpoint and a clean end
    guard_steps = 5000  # steps before a classifier that guesses is reported
    multi_worker = False  # several machines, named by TF_CONFIG
    devices = None  # e.g. ["GPU:0", "GPU:1"]; None: all GPUs, or the CPU
    debug = False  # eager, batches of 4, 100 steps, a checkpoint after each, a line every 10


@ex.named_config
def mini():
    """Generated landmarks on two cores: with dataset.mini and model.delg_mini."""
    initial_lr = 0.15
    max_iters = 10000
    warmup_steps = 100
    reconstruction_loss_weight = 1.0
    report_every = 100
    validate_every = 1000
    checkpoint_every = 500
    guard_steps = 1000


DEBUG = RunOptions(
    100, report_every=10, validate_every=10, checkpoint_every=1, validation_batches=1
)


@ex.capture
def make_run_options(
    max_iters: int,
    initial_lr: float,
    warmup_steps: int,
    report_every: int,
    validate_every: int,
    checkpoint_every: int,
    validation_batches: int | None,
    max_minutes: float | None,
    debug: bool,
) -> RunOptions:
    """The options of the loop."""
    options = RunOptions(
        max_iters=max_iters,
        initial_lr=initial_lr,
        warmup_steps=warmup_steps,
        report_every=report_every,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        validation_batches=validation_batches,
        max_minutes=max_minutes,
    )
    options.check()
    return replace(DEBUG, initial_lr=initial_lr, warmup_steps=warmup_steps) if debug else options


@ex.capture
def make_stream_options(seed: int, debug: bool) -> StreamOptions:
    """The options of the batches."""
    options = stream_options(seed)
    return replace(options, batch_size=4) if debug else options


@ex.capture
def make_trainer(
    stream: StreamOptions,
    options: RunOptions,
    strategy: tf.distribute.Strategy,
    seed: int,
    attention_loss_weight: float,
    reconstruction_loss_weight: float,
    clip_norm: float,
) -> Trainer:
    """Network and optimiser at the start of a run."""
    with strategy.scope():
        model = make_model(stream.num_classes, seed)
        optimizer = Momentum(
            model,
            lambda step: learning_rate(
                step, options.initial_lr, options.max_iters, options.warmup_steps
            ),
        )
    weights = attention_loss_weight, reconstruction_loss_weight
    return Trainer(model, optimizer, StepOptions(stream.batch_size, *weights, clip_norm), strategy)


@ex.capture
def make_setup(
    stream: StreamOptions, options: RunOptions, records: int, _config: dict[str, Any]
) -> dict[str, Any]:
    """Options that an interrupted run and its continuation must share, as plain values."""
    keys = (
        "seed attention_loss_weight reconstruction_loss_weight clip_norm imagenet_checkpoint "
        "imagenet_stem"
    ).split()
    setup = {key: _config[key] for key in keys}
    setup |= {f"model.{key}": value for key, value in _config["model"].items()}
    setup |= {f"dataset.{key}": value for key, value in vars(stream).items()}
    plain = {k: list(v) if isinstance(v, list | tuple) else v for k, v in setup.items()}
    return plain | {
        "max_iters": options.max_iters,
        "initial_lr": options.initial_lr,
        "warmup_steps": options.warmup_steps,
        "records": records,
    }


@ex.capture
def start_or_continue(
    files: RunFiles,
    model: Delf,
    setup: dict[str, Any],
    imagenet_checkpoint: str | None,
    imagenet_stem: bool,
) -> None:
    """The last checkpoint of `logdir`; without one ImageNet weights, where they are asked for."""
    if not files.restore_latest(setup) and imagenet_checkpoint is not None:
        load_imagenet_weights(model.backbone, imagenet_checkpoint, imagenet_stem)
        logger.info("backbone from %s", imagenet_checkpoint)


@ex.capture
def make_run(
    strategy: tf.distribute.Strategy, logdir: str, guard_steps: int, _run: Any
) -> TrainingRun:
    """Everything loaded and made; cheap checks come first."""
    stream, options = make_stream_options(), make_run_options()
    train, validation = load_indices()
    source = BatchSource(train, stream, True, strategy)
    held_out = None if validation is None else BatchSource(validation, stream, False, strategy)
    trainer = make_trainer(stream, options, strategy)
    files = RunFiles(logdir, trainer.model, trainer.optimizer, is_chief())
    start_or_continue(files, trainer.model, make_setup(stream, options, len(train)))
    return TrainingRun(
        trainer,
        source,
        held_out,
        files,
        Summaries(logdir, is_chief()),
        Guard(stream.num_classes, guard_steps),
        options,
        _run.log_scalar,
    )


@ex.automain
def main(debug: bool, multi_worker: bool, devices: list[str] | None) -> dict[str, float]:
    tf.config.run_functions_eagerly(debug)
    strategy = make_strategy(multi_worker, devices)
    return make_run(strategy).run()
