"""Layers with the variable names of the published checkpoints: convolution, batch norm, dense.

Plain `tf.Module`s: the attribute path of a variable is its key in a checkpoint
(`backbone/l2a/conv2a/kernel`), and a SavedModel needs nothing else. `name` is the Keras layer name
(`res2a_branch2a`), under which files of ImageNet weights know the layer. Maps are NHWC float32.
"""

import math
import zlib

import tensorflow as tf

BN_EPSILON = 1e-3
BN_MOMENTUM = 0.99


def glorot_uniform(name: str, shape: tuple[int, ...], seed: int) -> tf.Tensor:
    """Glorot's uniform start of a kernel ([kh, kw,] in, out): a function of name and seed alone."""
    receptive = math.prod(shape[:-2])
    limit = math.sqrt(6.0 / (receptive * (shape[-2] + shape[-1])))
    stream = tf.constant([seed, zlib.crc32(name.encode()) & 0x7FFFFFFF], tf.int32)
    return tf.random.stateless_uniform(shape, stream, -limit, limit)


class Conv(tf.Module):
    """Convolution with bias, padding as TensorFlow's SAME."""

    def __init__(
        self, name: str, channels: tuple[int, int], size: int = 1, stride: int = 1, seed: int = 0
    ) -> None:
        """`channels`: in, out. `size`: side of the square kernel."""
        super().__init__(name=name)
        shape = (size, size, *channels)
        self.kernel = tf.Variable(lambda: glorot_uniform(name, shape, seed), name="kernel")
        self.bias = tf.Variable(lambda: tf.zeros(channels[1]), name="bias")
        self.stride = stride

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """(B, H, W, in) -> (B, ceil(H / stride), ceil(W / stride), out)."""
        return tf.nn.bias_add(tf.nn.conv2d(x, self.kernel, self.stride, "SAME"), self.bias)


class BatchNorm(tf.Module):
    """Batch normalisation over all but the channels, with Keras' defaults.

    The moving variance collects the unbiased batch variance, N / (N - 1), as the reference did. In
    a distributed run every replica moves its own averages, and reading them from outside (as saving
    does) gives their mean over the replicas.
    """

    def __init__(self, name: str, channels: int) -> None:
        super().__init__(name=name)
        self.gamma = tf.Variable(lambda: tf.ones(channels), name="gamma")
        self.beta = tf.Variable(lambda: tf.zeros(channels), name="beta")
        self.moving_mean = self._average("moving_mean", 0.0, channels)
        self.moving_variance = self._average("moving_variance", 1.0, channels)

    @staticmethod
    def _average(name: str, start: float, channels: int) -> tf.Variable:
        return tf.Variable(
            lambda: tf.fill([channels], start),
            trainable=False,
            name=name,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.MEAN,
        )

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """(B, H, W, C) -> the same shape; `training` uses, and averages, the batch's statistics."""
        normalise = tf.compat.v1.nn.fused_batch_norm
        if not training:
            statistics = self.moving_mean, self.moving_variance
            return normalise(
                x, self.gamma, self.beta, *statistics, epsilon=BN_EPSILON, is_training=False
            )[0]
        y, mean, variance = normalise(
            x, self.gamma, self.beta, epsilon=BN_EPSILON, is_training=True
        )
        for average, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign_sub((average - batch) * (1.0 - BN_MOMENTUM))
        return y


class Dense(tf.Module):
    """x W + b."""

    def __init__(self, name: str, channels: tuple[int, int], seed: int = 0) -> None:
        """`channels`: in, out."""
        super().__init__(name=name)
        self.kernel = tf.Variable(lambda: glorot_uniform(name, channels, seed), name="kernel")
        self.bias = tf.Variable(lambda: tf.zeros(channels[1]), name="bias")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """(B, in) -> (B, out)."""
        return tf.matmul(x, self.kernel) + self.bias
