"""Arithmetic of the image pyramid within an exported graph: levels, boxes of cells, selection."""

import tensorflow as tf

RECEPTIVE_FIELD = 291  # pixels of block3's cells (DELF)
PADDING = 145


def normalise_image(image: tf.Tensor) -> tf.Tensor:
    """uint8 (H, W, 3) -> float32 in [-1, 1)."""
    return (tf.cast(image, tf.float32) - 128.0) / 128.0


def level_sizes(image: tf.Tensor, scales: tf.Tensor) -> tf.Tensor:
    """(H, W, 3), (S,) float32 -> (S, 2) int32 (height, width), halves rounded to even."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    return tf.cast(tf.round(sides * scales[:, None]), tf.int32)


def resize_level(normalised: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """(H, W, 3), (2,) -> (1, h, w, 3): bilinear, half-pixel centres, no antialiasing."""
    return tf.image.resize(normalised[None], size, tf.image.ResizeMethod.BILINEAR)


def receptive_boxes(
    height: tf.Tensor,
    width: tf.Tensor,
    stride: float,
    receptive_field: float = RECEPTIVE_FIELD,
    padding: float = PADDING,
) -> tf.Tensor:
    """(height * width, 4): what each cell of a map sees, row by row; (ymin, xmin, ymax, xmax).

    Pixels of the level; boxes reach beyond the picture.
    """
    rows, columns = tf.meshgrid(tf.range(height), tf.range(width), indexing="ij")
    corners = tf.reshape(tf.stack([rows, columns, rows, columns], axis=-1), [-1, 4])
    far = receptive_field - 1 - padding
    offset = tf.constant([-padding, -padding, far, far], tf.float32)
    return tf.cast(corners, tf.float32) * stride + offset


def box_centres(boxes: tf.Tensor) -> tf.Tensor:
    """(N, 4) -> (N, 2) centres (y, x)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2.0


def select(
    boxes: tf.Tensor, scores: tf.Tensor, max_feature_num: tf.Tensor, iou: float
) -> tf.Tensor:
    """(N, 4), (N,) -> (K,) rows of the best cells, best first, equal ones in their order.

    A box that overlaps a better one by more than `iou` (intersection over union) is left out; no
    two overlap by more than 1.
    """
    count = tf.clip_by_value(max_feature_num, 0, tf.shape(scores)[0])
    if iou >= 1.0:
        return tf.math.top_k(scores, count).indices
    return tf.image.non_max_suppression(boxes, scores, count, iou)
