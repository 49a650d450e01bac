"""The picture of matched images: both side by side, a line for every inlier."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from utils.paths import atomic_write, require_file

TITLE = "DELF correspondences"
DPI = 150
FORMATS = (".png", ".jpg", ".jpeg", ".pdf", ".svg")


def load_rgb(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB; ValueError names a file that is no picture."""
    path = require_file(path, "give the picture that the features were extracted from")
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error


def draw_correspondences(
    path: str | Path,
    image_1: np.ndarray,
    image_2: np.ndarray,
    locations_1: np.ndarray,
    locations_2: np.ndarray,
) -> None:
    """Save both images (H, W, 3) with blue lines between `locations` (M, 2), pixels, (y, x).

    The kind of file follows the name's ending. ValueError for an ending that is not of FORMATS.
    """
    # a drawing of its own: no display is asked for, no state of pyplot is touched
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"output_image is {path}, expected a name that ends in {FORMATS}")
    height = max(image_1.shape[0], image_2.shape[0])
    offset = image_1.shape[1]
    canvas = np.full((height, offset + image_2.shape[1], 3), 255, np.uint8)
    canvas[: image_1.shape[0], :offset] = image_1
    canvas[: image_2.shape[0], offset:] = image_2

    figure = Figure(figsize=(10, 10 * height / canvas.shape[1] + 0.5), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(canvas)
    axes.set_title(TITLE)
    axes.set_axis_off()
    starts, ends = locations_1[:, ::-1], locations_2[:, ::-1] + np.array([offset, 0])
    axes.add_collection(
        LineCollection(list(np.stack([starts, ends], axis=1)), colors="b", linewidths=1)
    )
    for points in (starts, ends):
        axes.plot(points[:, 0], points[:, 1], "o", color="b", markersize=2)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format=path.suffix[1:].lower())
    atomic_write(path, drawn.getvalue())
