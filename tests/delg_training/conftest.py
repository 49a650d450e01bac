"""Settings of TensorFlow that must stand before its first import."""

import os

# The reference answers were made without oneDNN. With it a product is rounded otherwise, and two
# steps of training on batches of four amplify that to two percent of a gradient's norm.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
