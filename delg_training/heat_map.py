"""Where a model looks: the attention of every cell of block3, laid over the picture."""

from pathlib import Path

import numpy as np
from PIL import Image

from delg_training.image_loading import LoadedImage
from delg_training.saved_models import Model
from utils.paths import atomic_path

ALL_CELLS = 2**20  # more than any level has
COLOURS = "inferno"  # of matplotlib
OPACITY = 0.6  # of the strongest attention; the weakest shows the picture alone


def attention_grid(
    model: Model, pixels: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of one level: (h, w) grid, then (h,) and (w,) pixels of its rows and columns.

    `pixels`: (H, W, 3) uint8. ValueError when the level has no cells.
    """
    outputs = model(pixels, np.array([scale], np.float32), ALL_CELLS, 0.0, np.zeros(1, np.int32))
    if not len(outputs.scores):
        raise ValueError(
            f"a picture of {pixels.shape[0]} x {pixels.shape[1]} pixels has no cells at scale "
            f"{scale}; give a larger picture or scale"
        )
    centres = np.round((outputs.boxes[:, :2] + outputs.boxes[:, 2:]) / 2, 3)
    rows, row_of = np.unique(centres[:, 0], return_inverse=True)
    columns, column_of = np.unique(centres[:, 1], return_inverse=True)
    grid = np.zeros((len(rows), len(columns)), np.float64)
    grid[row_of, column_of] = outputs.scores
    return grid, rows, columns


def spread(
    grid: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """(h, w) at the pixels `rows` and `columns` -> (H, W), linear between, constant beyond."""
    wide = np.stack([np.interp(np.arange(shape[1]), columns, line) for line in grid])
    return np.stack([np.interp(np.arange(shape[0]), rows, line) for line in wide.T], axis=1)


def blend(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (H, W) -> (H, W, 3) uint8; the largest heat gets the last colour."""
    from matplotlib import colormaps

    strength = heat / max(float(heat.max()), 1e-12)
    colours = 255.0 * colormaps[COLOURS](strength)[..., :3]
    opacity = OPACITY * strength[..., None]
    return np.rint((1 - opacity) * pixels + opacity * colours).astype(np.uint8)


def draw_heat_map(
    model: Model, image: LoadedImage, scale: float, output_image: str | Path
) -> dict[str, float]:
    """Write the picture, as the network gets it, under its attention; returns figures of it."""
    grid, rows, columns = attention_grid(model, image.pixels, scale)
    height, width = image.pixels.shape[:2]
    drawn = blend(image.pixels, spread(grid, rows, columns, (height, width)))
    with atomic_path(output_image) as temporary:
        Image.fromarray(drawn).save(temporary)
    return {"largest": float(grid.max()), "mean": float(grid.mean()), "cells": float(grid.size)}
