"""Losses of a training step (DELG, section 3.3)."""

from typing import NamedTuple

import tensorflow as tf

from delg_training.models.delf import Delf, LocalOutputs
from delg_training.models.resnet import Blocks


class Losses(NamedTuple):
    """Scalars of one replica; sums over the replicas are those of the global batch."""

    desc: tf.Tensor  # cross entropy of the global classifier
    attn: tf.Tensor  # cross entropy of the local classifier
    recon: tf.Tensor  # mean squared error of the reconstruction; 0 without autoencoder
    total: tf.Tensor


class Forward(NamedTuple):
    """Everything that a step's reports are made of."""

    losses: Losses
    correct: tf.Tensor  # (2,) float32: images that the global, the local classifier get right
    local: LocalOutputs
    blocks: Blocks


def sum_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """(B,), (B, classes) -> sum of the softmax cross entropies."""
    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def reconstruction_error(local: LocalOutputs) -> tf.Tensor:
    """Mean over all elements of (block3 - expanded)^2; 0 without autoencoder."""
    if local.expanded is None:
        return tf.zeros([])
    return tf.reduce_mean(tf.math.squared_difference(local.block3, local.expanded))


def count_correct(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """How many of the (B, classes) logits are largest at the label, float32."""
    best = tf.argmax(logits, axis=1, output_type=labels.dtype)
    return tf.reduce_sum(tf.cast(best == labels, tf.float32))


def run_forward(
    model: Delf,
    images: tf.Tensor,
    labels: tf.Tensor,
    batch_size: int,
    attention_loss_weight: float,
    reconstruction_loss_weight: float,
    training: bool,
) -> Forward:
    """Losses of this replica's images; `batch_size` counts the global batch.

    total = desc + attention_loss_weight attn + reconstruction_loss_weight recon
    """
    descriptors, local, blocks = model.forward(images, training)
    desc_logits = model.desc_logits(descriptors, labels, training)
    attn_logits = model.attn_logits(local.feature)
    desc = sum_cross_entropy(labels, desc_logits) / batch_size
    attn = sum_cross_entropy(labels, attn_logits) / batch_size
    recon = reconstruction_error(local)
    total = desc + attention_loss_weight * attn + reconstruction_loss_weight * recon
    correct = tf.stack([count_correct(labels, desc_logits), count_correct(labels, attn_logits)])
    return Forward(Losses(desc, attn, recon, total), correct, local, blocks)
