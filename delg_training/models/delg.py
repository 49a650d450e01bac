"""DELG: GeM, whitening and ArcFace on the global side of DELF (Cao et al., ECCV 2020).

`ModelOptions` and `build_model` make either of the two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from delg_training.models.delf import Delf
from delg_training.models.layers import glorot_uniform
from delg_training.models.pooling import l2_normalise
from delg_training.models.resnet import DEPTHS, WIDTH, ResNet

# below it lies 1 - cos^2 of a float32 cosine only when that is 1; keeps the root's slope finite
MIN_SIN_SQUARED = 1e-12


def add_margin(cosines: tf.Tensor, margin: float) -> tf.Tensor:
    """cos(theta + margin) where theta + margin <= pi, else cos(theta); any shape.

    By the sum formula, whose slope is finite at +-1, unlike the arc cosine's.
    """
    cosines = tf.clip_by_value(cosines, -1.0, 1.0)
    sines = tf.sqrt(tf.maximum(1.0 - tf.square(cosines), MIN_SIN_SQUARED))
    moved = cosines * math.cos(margin) - sines * math.sin(margin)
    return tf.where(cosines >= -math.cos(margin), moved, cosines)


def arcface_logits(
    descriptors: tf.Tensor,
    weights: tf.Tensor,
    scale: tf.Tensor,
    labels: tf.Tensor | None = None,
    margin: float = 0.0,
) -> tf.Tensor:
    """scale cos(theta + margin of the true class), (B, E) and (E, classes) -> (B, classes).

    `labels`: (B,) true classes; without them, or with margin 0, no margin (validation).
    """
    cosines = tf.matmul(l2_normalise(descriptors), l2_normalise(weights, axis=0))
    if labels is None or margin <= 0:
        return scale * cosines
    rows = tf.range(tf.shape(labels)[0])
    cells = tf.stack([rows, tf.cast(labels, rows.dtype)], axis=1)
    true = tf.gather_nd(cosines, cells)
    return scale * tf.tensor_scatter_nd_update(cosines, cells, add_margin(true, margin))


class Delg(Delf):
    """DELF with an ArcFace classifier on the whitened GeM vector."""

    def __init__(
        self,
        backbone: ResNet,
        num_classes: int | None = None,
        autoencoder_dimensions: int | None = 128,
        arcface_margin: float = 0.1,
        scale_factor_init: float = 45.25,
        seed: int = 0,
    ) -> None:
        """`arcface_margin`: radians. `scale_factor_init`: stays as it is, it is not trained."""
        self.arcface_margin, self.scale_factor_init = arcface_margin, scale_factor_init
        super().__init__(backbone, num_classes, autoencoder_dimensions, seed)

    def _make_global_classifier(self, num_classes: int, seed: int) -> None:
        layer = self.backbone.embedding_layer
        assert layer is not None
        shape = (int(layer.kernel.shape[1]), num_classes)
        self.cosine_weights = tf.Variable(
            lambda: glorot_uniform("cosine_weights", shape, seed), name="cosine_weights"
        )
        self.scale_factor = tf.Variable(
            self.scale_factor_init, trainable=False, dtype=tf.float32, name="scale_factor"
        )

    def desc_logits(
        self, descriptors: tf.Tensor, labels: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """(B, E), (B,) -> (B, num_classes); the margin is on in training only."""
        margin = self.arcface_margin if training else 0.0
        return arcface_logits(descriptors, self.cosine_weights, self.scale_factor, labels, margin)


@dataclass(frozen=True)
class ModelOptions:
    """Options of a network, named as the flags of the published code; see the ingredient."""

    delg_global_features: bool = True
    block3_strides: bool = True
    use_autoencoder: bool = True
    autoencoder_dimensions: int = 128
    local_feature_map_channels: int = 16 * WIDTH
    delg_gem_power: float = 3.0
    delg_embedding_layer_dim: int = 2048
    delg_arcface_margin: float = 0.1
    delg_scale_factor_init: float = 45.25
    width: int = WIDTH
    depths: Sequence[int] = DEPTHS

    def check(self) -> None:
        """ValueError for numbers that do not fit together."""
        if self.local_feature_map_channels != 16 * self.width:
            raise ValueError(
                f"local_feature_map_channels is {self.local_feature_map_channels}, but block3 of a "
                f"network of width {self.width} has {16 * self.width}; leave the option out"
            )
        if not 0 <= self.delg_arcface_margin < math.pi:
            raise ValueError(
                f"delg_arcface_margin is {self.delg_arcface_margin}, expected an angle in [0, pi)"
            )
        if self.delg_gem_power <= 0 or self.delg_embedding_layer_dim < 1:
            raise ValueError(
                f"delg_gem_power={self.delg_gem_power}, delg_embedding_layer_dim="
                f"{self.delg_embedding_layer_dim}: expected a positive power and width"
            )


def build_model(options: ModelOptions, num_classes: int | None = None, seed: int = 0) -> Delf:
    """DELG or DELF, freshly initialised; the same seed gives the same weights.

    `num_classes`: None leaves the classifiers out, as exported models do.
    """
    options.check()
    dimensions = options.autoencoder_dimensions if options.use_autoencoder else None
    size = {"width": options.width, "depths": options.depths, "seed": seed}
    if not options.delg_global_features:
        backbone = ResNet(options.block3_strides, **size)  # type: ignore[arg-type]
        return Delf(backbone, num_classes, dimensions, seed)
    backbone = ResNet(
        options.block3_strides,
        options.delg_gem_power,
        options.delg_embedding_layer_dim,
        **size,  # type: ignore[arg-type]
    )
    return Delg(
        backbone,
        num_classes,
        dimensions,
        options.delg_arcface_margin,
        options.delg_scale_factor_init,
        seed,
    )
