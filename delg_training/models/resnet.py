"""ResNet-50 in the layout of Keras' first version: biases everywhere, the stride on 1x1.

Attribute names (`l3b.conv2a`) are those of the published checkpoints, layer names
(`res3b_branch2a`) those of the ImageNet weights. Sizes: n -> ceil(n / 2) (stem) ->
floor((. - 3) / 2) + 1 (pooling, block1) -> ceil(. / 2) (block2, block3, block4).
"""

from collections.abc import Sequence
from itertools import pairwise

import tensorflow as tf

from delg_training.models.layers import BatchNorm, Conv, Dense
from delg_training.models.pooling import average_pool, gem_pool

DEPTHS = (3, 4, 6, 3)  # bottlenecks of block1 to block4 of ResNet-50
WIDTH = 64  # channels of the stem
MIN_SIDE = 5  # pixels: the pooling after the stem needs three rows
LETTERS = "abcdefghijklmnopqrstuvwxyz"

Blocks = dict[str, tf.Tensor]


class Bottleneck(tf.Module):
    """1x1 (stride) -> 3x3 -> 1x1, batch normalised, added to the input or to its projection."""

    def __init__(
        self, label: str, in_channels: int, channels: int, stride: int, project: bool, seed: int
    ) -> None:
        """`label`: stage and letter, `2a`. Output channels: 4 `channels`."""
        super().__init__(name=f"block{label}")
        conv, norm = f"res{label}_branch", f"bn{label}_branch"
        self.conv2a = Conv(f"{conv}2a", (in_channels, channels), 1, stride, seed)
        self.bn2a = BatchNorm(f"{norm}2a", channels)
        self.conv2b = Conv(f"{conv}2b", (channels, channels), 3, 1, seed)
        self.bn2b = BatchNorm(f"{norm}2b", channels)
        self.conv2c = Conv(f"{conv}2c", (channels, 4 * channels), 1, 1, seed)
        self.bn2c = BatchNorm(f"{norm}2c", 4 * channels)
        self.project = project
        if project:
            self.conv_shortcut = Conv(f"{conv}1", (in_channels, 4 * channels), 1, stride, seed)
            self.bn_shortcut = BatchNorm(f"{norm}1", 4 * channels)

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """(B, H, W, in) -> (B, ceil(H / stride), ceil(W / stride), 4 channels)."""
        y = tf.nn.relu(self.bn2a(self.conv2a(x), training))
        y = tf.nn.relu(self.bn2b(self.conv2b(y), training))
        y = self.bn2c(self.conv2c(y), training)
        shortcut = self.bn_shortcut(self.conv_shortcut(x), training) if self.project else x
        return tf.nn.relu(y + shortcut)


class ResNet(tf.Module):
    """Backbone: images to feature maps, and the last of them to one vector per image."""

    def __init__(
        self,
        block3_strides: bool = True,
        gem_power: float | None = None,
        embedding_layer_dim: int | None = None,
        width: int = WIDTH,
        depths: Sequence[int] = DEPTHS,
        seed: int = 0,
    ) -> None:
        """`block3_strides`: block3 ends with every second row and column, block4 has no stride.

        `gem_power`: None pools block4 by its mean (DELF), a number by GeM (DELG).
        `embedding_layer_dim`: width of the whitening layer after it; None: none.
        `width`, `depths`: 64 and (3, 4, 6, 3) make the ResNet-50; others a smaller network.
        """
        super().__init__(name="backbone")
        if len(depths) != 4 or min(depths) < 1 or max(depths) > len(LETTERS) or width < 1:
            raise ValueError(
                f"width={width}, depths={list(depths)}: expected a width of at least 1 and four "
                "numbers of bottlenecks from 1 to 26, such as 64 and [3, 4, 6, 3]"
            )
        self.block3_strides, self.gem_power, self.width = block3_strides, gem_power, width
        self.depths = tuple(int(depth) for depth in depths)
        self.conv1 = Conv("conv1", (3, width), 7, 2, seed)
        self.bn_conv1 = BatchNorm("bn_conv1", width)
        strides = (1, 2, 2, 1 if block3_strides else 2)
        outputs = [width, *(4 * width * 2**block for block in range(4))]
        for block, (inside, outside) in enumerate(pairwise(outputs)):
            for i, label in enumerate(self.labels(block + 1)):
                first = i == 0
                bottleneck = Bottleneck(
                    label,
                    inside if first else outside,
                    outside // 4,
                    strides[block] if first else 1,
                    first,
                    seed,
                )
                setattr(self, f"l{label}", bottleneck)
        self.embedding_layer: Dense | None = None
        if embedding_layer_dim is not None:
            channels = (self.block4_channels, embedding_layer_dim)
            self.embedding_layer = Dense("embedding_layer", channels, seed)

    @property
    def local_channels(self) -> int:
        """Channels of block3, 1024 in the ResNet-50."""
        return 16 * self.width

    @property
    def block4_channels(self) -> int:
        """Channels of block4, 2048 in the ResNet-50."""
        return 32 * self.width

    def labels(self, block: int) -> list[str]:
        """`2a`, `2b`, `2c` for block 1: the published names count the stem as stage 1."""
        return [f"{block + 1}{LETTERS[i]}" for i in range(self.depths[block - 1])]

    def _run_block(self, block: int, x: tf.Tensor, training: bool) -> tf.Tensor:
        for label in self.labels(block):
            x = getattr(self, f"l{label}")(x, training)
        return x

    def to_block3(self, images: tf.Tensor, training: bool = False) -> Blocks:
        """(B, H, W, 3) in [-1, 1) -> the maps block0, block0mp, block1, block2, block3.

        block3: (B, h, w, 16 width), of stride 32 with `block3_strides`, else 16.
        """
        blocks = {"block0": tf.nn.relu(self.bn_conv1(self.conv1(images), training))}
        blocks["block0mp"] = tf.nn.max_pool2d(blocks["block0"], 3, 2, "VALID")
        blocks["block1"] = self._run_block(1, blocks["block0mp"], training)
        blocks["block2"] = self._run_block(2, blocks["block1"], training)
        block3 = self._run_block(3, blocks["block2"], training)
        blocks["block3"] = block3[:, ::2, ::2] if self.block3_strides else block3
        return blocks

    def to_block4(self, block3: tf.Tensor, training: bool = False) -> tf.Tensor:
        """(B, h, w, 16 width) -> (B, h', w', 32 width), of stride 32."""
        return self._run_block(4, block3, training)

    def pool(self, block4: tf.Tensor) -> tf.Tensor:
        """(B, h', w', 32 width) -> (B, E): pooled, whitened where there is a layer for it.

        Not L2-normalised.
        """
        if self.gem_power is None:
            pooled = average_pool(block4)
        else:
            pooled = gem_pool(block4, self.gem_power)
        return pooled if self.embedding_layer is None else self.embedding_layer(pooled)

    def __call__(self, images: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, Blocks]:
        """(B, H, W, 3) -> global vectors (B, E) and the maps block0, block0mp, block1 to block4."""
        blocks = self.to_block3(images, training)
        blocks["block4"] = self.to_block4(blocks["block3"], training)
        return self.pool(blocks["block4"]), blocks
