"""The attention over a picture, and the clock of extraction."""

import numpy as np
import pytest

from delg_training.extraction import Features
from delg_training.heat_map import attention_grid, blend, spread
from delg_training.image_loading import LoadedImage
from delg_training.latency import measure_seconds, pack_bits
from delg_training.saved_models import ModelOutputs


def test_heat_map_shows_each_cell_at_its_place() -> None:
    """Cells of a 2 x 3 grid, in no order, at pixels 0, 16 and 0, 16, 32 of a level at scale 1."""
    places = np.array([[16, 0], [0, 32], [0, 0], [16, 32], [16, 16], [0, 16]], np.float32)
    scores = np.array([4, 3, 1, 6, 5, 2], np.float32)

    def model(*_: object) -> ModelOutputs:
        boxes = np.concatenate([places - 145, places + 145], axis=1)
        return ModelOutputs(boxes, np.zeros((6, 2)), scores, scores, np.zeros((0, 0)))

    grid, rows, columns = attention_grid(model, np.zeros((20, 40, 3), np.uint8), 1.0)
    assert grid.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (rows.tolist(), columns.tolist()) == ([0, 16], [0, 16, 32])
    heat = spread(grid, rows, columns, (20, 40))
    assert heat[0, 0] == 1
    assert heat[8, 8] == pytest.approx(3.0)  # (1 + 2 + 4 + 5) / 4
    assert heat[19, 39] == 6
    drawn = blend(np.full((20, 40, 3), 100, np.uint8), heat)
    assert drawn.shape == (20, 40, 3)
    assert np.abs(drawn[19, 39].astype(int) - 100).sum() > np.abs(drawn[0, 0] - 100.0).sum()


def test_latency_is_told_for_every_hundred_images() -> None:
    """A clock that moves half a second per image: 250 images are two full hundreds."""
    now = [0.0]

    def extract(_: LoadedImage) -> Features:
        now[0] += 0.5
        return Features(None, None)

    images = [LoadedImage(np.zeros((1, 1, 3), np.uint8), (1.0, 1.0))] * 25
    assert measure_seconds(extract, images, 10, False, 0, lambda: now[0]) == [0.5, 0.5]
    assert measure_seconds(extract, images, 1, True, 0, lambda: now[0]) == [0.5]
    with pytest.raises(ValueError, match="repeat_per_image is 0"):
        measure_seconds(extract, images, 0, False, 0)


def test_signs_are_packed_into_bits() -> None:
    packed = pack_bits(np.array([[1, -1, 0, 2, -3, 4, 5, 6, 7]], np.float32))
    assert packed.tolist() == [[0b10010111, 0b10000000]]
