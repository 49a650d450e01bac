"""Seconds per image of feature extraction, pictures in memory."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from delg_training.delf_config import DelfConfig
from delg_training.extraction import Features
from delg_training.extraction_run import Picture
from delg_training.image_loading import LoadedImage, load_image

REPORT_EVERY = 100  # images


def pack_bits(descriptors: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, ceil(D / 8)) uint8: one bit per number, set where it is above 0."""
    return np.packbits(descriptors > 0, axis=1)


def load_all(pictures: Sequence[Picture], config: DelfConfig) -> list[LoadedImage]:
    """All pictures, resized; an error for the first that is missing or damaged."""
    return [load_image(p.path, config, p.box) for p in tqdm(pictures, unit="image", desc="reading")]


def measure_seconds(
    extract: Callable[[LoadedImage], Features],
    images: Sequence[LoadedImage],
    repeat_per_image: int,
    binary_local_features: bool,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds per image of every full 100 images, and of the rest when there are fewer.

    Each image comes `repeat_per_image` times, all of them shuffled by `seed`.
    """
    if repeat_per_image < 1:
        raise ValueError(f"repeat_per_image is {repeat_per_image}, expected 1 or more")
    order = np.repeat(np.arange(len(images)), repeat_per_image)
    np.random.default_rng(seed).shuffle(order)
    found, start = [], clock()
    for count, i in enumerate(tqdm(order, unit="image", desc="extracting"), 1):
        features = extract(images[i])
        if binary_local_features and features.local is not None:
            pack_bits(features.local.descriptors)
        if count % REPORT_EVERY == 0 or count == len(order) < REPORT_EVERY:
            seconds = (clock() - start) / ((count - 1) % REPORT_EVERY + 1)
            found.append(seconds)
            start = clock()
    return found
