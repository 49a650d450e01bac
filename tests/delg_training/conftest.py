"""Settings of TensorFlow that must stand before its first import."""

import os

# The reference answers were made without oneDNN. With it a product is rounded otherwise, and two
# steps of training on batches of four amplify that to two percent of a gradient's norm.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest


@pytest.fixture(scope="session", autouse=True)
def two_devices() -> None:
    """The CPU as two devices, for runs of two replicas; nothing else looks at the second."""
    import tensorflow as tf

    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
