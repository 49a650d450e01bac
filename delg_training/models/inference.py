"""The network as it is exported: without training, without batch normalisation, less work.

A normalisation behind a convolution is a factor and an offset per channel, and moves into kernel
and bias. Blocks 2 and 3 begin with 1x1 convolutions of stride 2, which look at every second row and
column: the last bottleneck of the block before computes only these (and that of block3, where it
ends with a subsampling). block4 and the head are a call of their own: only levels with a global
descriptor need them.
The outputs are those of `Delf.forward` up to rounding.
"""

import numpy as np
import tensorflow as tf

from delg_training.models.delf import Delf
from delg_training.models.layers import BN_EPSILON, BatchNorm, Conv
from delg_training.models.pooling import average_pool, gem_pool
from delg_training.models.resnet import Bottleneck, ResNet


class FusedConv(tf.Module):
    """Convolution with bias that contains the batch normalisation behind it."""

    def __init__(
        self, conv: Conv, norm: BatchNorm | None = None, stride: int | None = None
    ) -> None:
        """`stride`: other than the trained one; of what that gives, every n-th row and column."""
        super().__init__(name=conv.name)
        kernel, bias = conv.kernel.numpy().astype(np.float64), conv.bias.numpy().astype(np.float64)
        if norm is not None:
            mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
            factor = norm.gamma.numpy() / np.sqrt(variance.astype(np.float64) + BN_EPSILON)
            kernel, bias = kernel * factor, (bias - mean) * factor + norm.beta.numpy()
        self.kernel = tf.Variable(kernel.astype(np.float32), trainable=False, name="kernel")
        self.bias = tf.Variable(bias.astype(np.float32), trainable=False, name="bias")
        self.stride = conv.stride if stride is None else stride
        self.padding: str | list[list[int]] = "SAME"
        if self.stride > conv.stride and conv.kernel.shape[0] > 1:
            # SAME would lay the border by the new stride, the trained one puts it on both sides
            border = int(conv.kernel.shape[0]) // 2
            self.padding = [[0, 0], [border, border], [border, border], [0, 0]]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """(B, H, W, in) -> (B, h, w, out)."""
        return tf.nn.bias_add(tf.nn.conv2d(x, self.kernel, self.stride, self.padding), self.bias)


class FusedBottleneck(tf.Module):
    """A bottleneck of fused convolutions."""

    def __init__(self, block: Bottleneck, take: int = 1, taken: int = 1) -> None:
        """`take`: compute only every n-th row and column of the output.

        `taken`: of the input the same was done already, which its own stride would do.
        """
        super().__init__(name=block.name)
        stride = block.conv2a.stride // taken
        self.conv2a = FusedConv(block.conv2a, block.bn2a, stride)
        self.conv2b = FusedConv(block.conv2b, block.bn2b, take)
        self.conv2c = FusedConv(block.conv2c, block.bn2c)
        self.take = take
        self.conv_shortcut: FusedConv | None = None
        if block.project:
            shortcut = block.conv_shortcut, block.bn_shortcut
            self.conv_shortcut = FusedConv(*shortcut, stride * take)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """(B, H, W, in) -> (B, h, w, out)."""
        y = tf.nn.relu(self.conv2a(x))
        y = self.conv2c(tf.nn.relu(self.conv2b(y)))
        if self.conv_shortcut is not None:
            return tf.nn.relu(y + self.conv_shortcut(x))
        return tf.nn.relu(y + x[:, :: self.take, :: self.take])


def _fuse_block(
    backbone: ResNet, block: int, take: int = 1, taken: int = 1
) -> list[FusedBottleneck]:
    """`take`: what the last bottleneck leaves out; `taken`: what the block before did."""
    labels = backbone.labels(block)
    return [
        FusedBottleneck(
            getattr(backbone, f"l{label}"),
            take if label == labels[-1] else 1,
            taken if label == labels[0] else 1,
        )
        for label in labels
    ]


class InferenceNetwork(tf.Module):
    """A trained network, copied into the form that it is exported in."""

    def __init__(self, model: Delf, with_local: bool = True, with_global: bool = True) -> None:
        """`with_local`, `with_global`: leave the other branch's weights out."""
        super().__init__(name="network")
        backbone = model.backbone
        self.stride = 32 if backbone.block3_strides else 16  # pixels between cells of block3
        self.conv1 = FusedConv(backbone.conv1, backbone.bn_conv1)
        self.to_3 = [
            *_fuse_block(backbone, 1, take=2),
            *_fuse_block(backbone, 2, take=2, taken=2),
            *_fuse_block(backbone, 3, take=2 if backbone.block3_strides else 1, taken=2),
        ]
        self.gem_power = backbone.gem_power
        self.global_channels = 0  # E
        if with_global:
            self.to_4 = _fuse_block(backbone, 4)
            self.global_channels = backbone.block4_channels
            self.whitening = backbone.embedding_layer
            if self.whitening is not None:
                self.global_channels = int(self.whitening.kernel.shape[1])
        self.local_channels = 0  # D
        if with_local:
            self.attention1 = FusedConv(model.attention.conv1, model.attention.bn_conv1)
            self.attention2 = FusedConv(model.attention.conv2)
            self.local_channels = backbone.local_channels
            self.reduction: FusedConv | None = None
            if model.autoencoder is not None:
                self.reduction = FusedConv(model.autoencoder.conv1)
                self.local_channels = int(self.reduction.kernel.shape[-1])

    def to_block3(self, images: tf.Tensor) -> tf.Tensor:
        """(B, H, W, 3) in [-1, 1) -> block3 (B, h, w, C), of stride `stride`."""
        x = tf.nn.max_pool2d(tf.nn.relu(self.conv1(images)), 3, 2, "VALID")
        for block in self.to_3:
            x = block(x)
        return x

    def describe(self, block3: tf.Tensor) -> tf.Tensor:
        """(B, h, w, C) -> global vectors (B, E), not L2-normalised."""
        x = block3
        for block in self.to_4:
            x = block(x)
        pooled = average_pool(x) if self.gem_power is None else gem_pool(x, self.gem_power)
        return pooled if self.whitening is None else self.whitening(pooled)

    def score(self, block3: tf.Tensor) -> tf.Tensor:
        """(B, h, w, C) -> attention (B, h, w, 1), above 0."""
        return tf.nn.softplus(self.attention2(tf.nn.relu(self.attention1(block3))))

    def reduce(self, block3: tf.Tensor) -> tf.Tensor:
        """(..., C) -> the local features (..., D), for maps or for single cells."""
        if self.reduction is None:
            return block3
        kernel = tf.reshape(self.reduction.kernel, [-1, self.local_channels])
        return tf.nn.bias_add(tf.tensordot(block3, kernel, 1), self.reduction.bias)
