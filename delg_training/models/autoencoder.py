"""The autoencoder that shortens local features (DELG, section 3.2)."""

import tensorflow as tf

from delg_training.models.layers import Conv


class Autoencoder(tf.Module):
    """1x1 convolutions: `channels` -> `dimensions` (linear) -> `channels` (ReLU)."""

    def __init__(self, channels: int, dimensions: int, seed: int = 0) -> None:
        super().__init__(name="autoencoder")
        if dimensions < 1:
            raise ValueError(f"autoencoder_dimensions is {dimensions}, expected 1 or more")
        self.conv1 = Conv("autoenc_conv1", (channels, dimensions), seed=seed)
        self.conv2 = Conv("autoenc_conv2", (dimensions, channels), seed=seed)

    def reduce(self, block3: tf.Tensor) -> tf.Tensor:
        """(B, h, w, channels) -> the local features (B, h, w, dimensions)."""
        return self.conv1(block3)

    def expand(self, reduced: tf.Tensor) -> tf.Tensor:
        """(B, h, w, dimensions) -> the reconstruction (B, h, w, channels)."""
        return tf.nn.relu(self.conv2(reduced))
