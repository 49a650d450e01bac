"""DELF: a backbone, attention over its block3, classifiers for training (Noh et al., ICCV 2017).

Local losses never reach the backbone: everything local works on block3 with its gradient stopped.
"""

from typing import NamedTuple

import tensorflow as tf

from delg_training.models.autoencoder import Autoencoder
from delg_training.models.layers import BatchNorm, Conv, Dense
from delg_training.models.pooling import l2_normalise
from delg_training.models.resnet import Blocks, ResNet


class Attention(tf.Module):
    """Score of every cell: 1x1 -> batch norm -> ReLU -> 1x1; its softplus weighs the features."""

    def __init__(self, channels: int, hidden: int, seed: int = 0) -> None:
        super().__init__(name="attention")
        self.conv1 = Conv("attn_conv1", (channels, hidden), seed=seed)
        self.bn_conv1 = BatchNorm("bn_conv1", hidden)
        self.conv2 = Conv("attn_conv2", (hidden, 1), seed=seed)

    def __call__(self, block3: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """(B, h, w, C) -> prob = softplus(score) and score, (B, h, w, 1) each."""
        hidden = tf.nn.relu(self.bn_conv1(self.conv1(block3), training))
        score = self.conv2(hidden)
        return tf.nn.softplus(score), score


def attention_pool(prob: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """(B, h, w, 1), (B, h, w, C) -> (B, C): mean over space of prob t / |t|."""
    return tf.reduce_mean(prob * l2_normalise(targets), axis=(1, 2))


class LocalOutputs(NamedTuple):
    """What the local branch makes of block3."""

    feature: tf.Tensor  # (B, C) pooled by attention: input of the local classifier
    prob: tf.Tensor  # (B, h, w, 1)
    score: tf.Tensor  # (B, h, w, 1) before the softplus
    block3: tf.Tensor  # (B, h, w, C) with its gradient stopped
    expanded: tf.Tensor | None  # (B, h, w, C) reconstruction; None without autoencoder
    reduced: tf.Tensor | None  # (B, h, w, A); None without autoencoder

    @property
    def features(self) -> tf.Tensor:
        """The local features of an exported model: reduced, or block3 itself."""
        return self.block3 if self.reduced is None else self.reduced


class Delf(tf.Module):
    """Backbone with mean pooling, attention, autoencoder, softmax classifiers."""

    def __init__(
        self,
        backbone: ResNet,
        num_classes: int | None = None,
        autoencoder_dimensions: int | None = 128,
        seed: int = 0,
    ) -> None:
        """`num_classes`: None leaves the classifiers out, as exported models do.

        `autoencoder_dimensions`: None leaves the autoencoder out.
        """
        super().__init__(name="delf")
        channels = backbone.local_channels
        self.num_classes = num_classes
        self.backbone = backbone
        self.attention = Attention(channels, channels // 2, seed)
        self.autoencoder: Autoencoder | None = None
        if autoencoder_dimensions is not None:
            self.autoencoder = Autoencoder(channels, autoencoder_dimensions, seed)
        if num_classes is not None:
            self.attn_classification = Dense("att_fc", (channels, num_classes), seed)
            self._make_global_classifier(num_classes, seed)

    def _make_global_classifier(self, num_classes: int, seed: int) -> None:
        channels = (self.backbone.block4_channels, num_classes)
        self.desc_classification = Dense("desc_fc", channels, seed)

    def run_local(self, block3: tf.Tensor, training: bool = False) -> LocalOutputs:
        """The local branch. Attention looks at block3 and pools its reconstruction, if any."""
        block3 = tf.stop_gradient(block3)
        prob, score = self.attention(block3, training)
        if self.autoencoder is None:
            return LocalOutputs(attention_pool(prob, block3), prob, score, block3, None, None)
        reduced = self.autoencoder.reduce(block3)
        expanded = self.autoencoder.expand(reduced)
        feature = attention_pool(prob, expanded)
        return LocalOutputs(feature, prob, score, block3, expanded, reduced)

    def forward(
        self, images: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, LocalOutputs, Blocks]:
        """(B, H, W, 3) in [-1, 1) -> global vectors (B, E), local outputs, maps of the backbone."""
        descriptors, blocks = self.backbone(images, training)
        return descriptors, self.run_local(blocks["block3"], training), blocks

    def local_features(self, block3: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(B, h, w, C) -> prob (B, h, w, 1) and features (B, h, w, D); nothing of training."""
        prob, _ = self.attention(block3)
        return prob, block3 if self.autoencoder is None else self.autoencoder.reduce(block3)

    def desc_logits(
        self, descriptors: tf.Tensor, labels: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """(B, E), (B,) -> (B, num_classes) logits of the global classifier."""
        return self.desc_classification(descriptors)

    def attn_logits(self, feature: tf.Tensor) -> tf.Tensor:
        """(B, C) -> (B, num_classes) logits of the local classifier."""
        return self.attn_classification(feature)
