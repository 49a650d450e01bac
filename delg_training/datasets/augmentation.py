"""From JPEG bytes to network input: normalisation, random crop, resizing."""

import tensorflow as tf

ASPECT_RATIOS = (3.0 / 4.0, 4.0 / 3.0)  # width : height of the window
MIN_CROP_AREA = 0.08  # of the image; at most all of it
MIN_OBJECT_COVERED = 0.1
MAX_ATTEMPTS = 100


def normalise(image: tf.Tensor) -> tf.Tensor:
    """uint8 pixels -> float32 in [-1, 0.9922], RGB also with ImageNet weights (trained on BGR)."""
    return (tf.cast(image, tf.float32) - 128.0) / 128.0


def denormalise(images: tf.Tensor) -> tf.Tensor:
    """[-1, 1) -> [0, 1), for pictures in a summary."""
    return (images + 1.0) / 2.0


def resize_area(image: tf.Tensor, size: int) -> tf.Tensor:
    """(H, W, 3) -> (size, size, 3) by averaging boxes, also where that enlarges."""
    return tf.image.resize(image, (size, size), method="area")


def resize_bilinear(image: tf.Tensor, size: int) -> tf.Tensor:
    """(H, W, 3) -> (size, size, 3): half-pixel centres, no antialiasing, aspect ratio not kept."""
    return tf.image.resize(image, (size, size), method="bilinear")


def random_window(
    shape: tf.Tensor, seed: tf.Tensor, min_area: float = MIN_CROP_AREA
) -> tuple[tf.Tensor, tf.Tensor]:
    """Corner and size, (3,) int32 each, of a random window of an image of that (3,) shape.

    `seed`: (2,) integers; the same seed gives the same window. The whole image after 100 attempts.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed,
        min_object_covered=MIN_OBJECT_COVERED,
        aspect_ratio_range=ASPECT_RATIOS,
        area_range=(min_area, 1.0),
        max_attempts=MAX_ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, size


def prepare_for_training(
    encoded: tf.Tensor, size: int, seed: tf.Tensor, min_area: float = MIN_CROP_AREA
) -> tf.Tensor:
    """JPEG -> (size, size, 3): a random window, resized by area; no flip, no change of colour."""
    begin, window = random_window(tf.image.extract_jpeg_shape(encoded), seed, min_area)
    # decodes the window alone: the same pixels as a crop of the whole image
    corner = tf.stack([begin[0], begin[1], window[0], window[1]])
    crop = tf.image.decode_and_crop_jpeg(encoded, corner, channels=3)
    return resize_area(normalise(crop), size)


def prepare_for_validation(encoded: tf.Tensor, size: int) -> tf.Tensor:
    """JPEG -> (size, size, 3): the whole image, resized bilinearly."""
    return resize_bilinear(normalise(tf.io.decode_jpeg(encoded, channels=3)), size)
