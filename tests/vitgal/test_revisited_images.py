"""Preprocessing and sizes against the reference; pictures that cannot be used."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.golden_recipe import array, load_manifest, load_outputs
from tests.source_tree import ROOT
from vitgal.datasets.revisited_images import (
    Photograph,
    crop,
    global_size,
    group_by_size,
    load_rgb,
    local_size,
    prepare,
    scaled_size,
    stream_batches,
)
from vitgal.datasets.transforms import normalise, resize

SYSTEM, PREFIX = "vitgal", "vitgal/pre"
PREPROCESS = load_manifest(SYSTEM)["files"]["preprocess.npz"]["cases"]
SIZES = load_manifest(SYSTEM, "size_rules.json")


@pytest.fixture(scope="module")
def outputs() -> dict[str, np.ndarray]:
    return load_outputs(SYSTEM, "preprocess.npz")


@pytest.mark.parametrize("case", PREPROCESS)
def test_preprocessing_equals_the_reference(case: str, outputs: dict[str, np.ndarray]) -> None:
    entry = PREPROCESS[case]
    noise = array(f"{PREFIX}/{case}/image", tuple(entry["image"]))
    image = np.clip(128 + 60 * noise, 0, 255).astype(np.uint8)
    if entry["crop_box_x1y1x2y2"] is not None:
        image = np.ascontiguousarray(crop(image, tuple(entry["crop_box_x1y1x2y2"])))
    resized = resize(image, *entry["resize_to"])
    difference = np.abs(resized.astype(int) - outputs[f"{case}/resized"])
    assert difference.max() <= 1
    # the manifest: 0.02 where a grey level differs, else 1e-5
    allowed = np.where(difference > 0, 0.02, 1e-5).transpose(2, 0, 1)
    assert (np.abs(normalise(resized) - outputs[f"{case}/tensor"]) <= allowed).all()


@pytest.mark.parametrize("entry", SIZES, ids=lambda entry: "x".join(map(str, entry["image"])))
def test_sizes_equal_the_reference(entry: dict) -> None:
    height, width = entry["image"]
    assert list(global_size(height, width, keep_aspect=True)) == entry["global_keep_ratio"]
    base = local_size(height, width)
    assert list(base) == entry["local"]
    for scale in entry["scales"]:
        assert list(scaled_size(base, scale["scale"])) == scale["size"]


def test_global_descriptors_are_made_from_squares() -> None:
    assert global_size(300, 1000) == (512, 512)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2), (7, 900), (900, 1)])
def test_tiny_and_elongated_pictures_have_whole_patches(shape: tuple[int, int]) -> None:
    """1:900 is within 1:1024, where the shorter side still has one patch."""
    height, width = local_size(*shape)
    assert height % 16 == width % 16 == 0
    assert min(height, width) >= 16


def write(path: Path, height: int, width: int) -> Path:
    rng = np.random.default_rng(height * width)
    assert cv2.imwrite(str(path), rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
    return path


def test_too_elongated_pictures_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "thread.png", 1, 2000)
    with pytest.raises(ValueError, match=r"thread.png: .*2000 x 1 pixels is too elongated.*crop"):
        prepare(Photograph(path), local_size)
    keep = partial(global_size, keep_aspect=True)
    with pytest.raises(ValueError, match=r"thread.png: .*too elongated.*0 x 512"):
        prepare(Photograph(path), keep)
    assert prepare(Photograph(path), global_size).shape == (3, 512, 512)


def test_box_outside_the_picture_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "small.png", 20, 30)
    with pytest.raises(ValueError, match=r"small.png: box \(40, 2, 50, 9\).*30 x 20 pixels"):
        prepare(Photograph(path, (40, 2, 50, 9)), local_size)


def test_box_is_cut_at_the_border_and_does_not_wrap() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(crop(image, (-3, 1, 2, 9)), image[1:, :2])


def test_unreadable_and_missing_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"page.jpg is not a picture.*fetch it again"):
        load_rgb(tmp_path / "page.jpg")
    with pytest.raises(FileNotFoundError, match=r"gone.jpg does not exist; data/README.md"):
        load_rgb(tmp_path / "gone.jpg")


def test_colours_are_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "blue.png"), np.full((2, 2, 3), (255, 0, 0), np.uint8))  # BGR
    assert load_rgb(tmp_path / "blue.png")[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_equal_sizes_share_batches_and_nothing_is_lost(tmp_path: Path, num_workers: int) -> None:
    shapes = [(30, 40), (40, 30), (30, 40), (30, 40), (40, 30), (50, 50)]
    photographs = [
        Photograph(write(tmp_path / f"{i}.png", *shape)) for i, shape in enumerate(shapes)
    ]
    rule = partial(local_size, image_size=64)
    batches = list(stream_batches(photographs, rule, 2, num_workers))
    assert sorted(i for indices, _ in batches for i in indices) == list(range(6))
    assert sorted(len(indices) for indices, _ in batches) == [1, 1, 2, 2]
    for indices, images in batches:
        for i, image in zip(indices, images, strict=True):
            torch.testing.assert_close(image, prepare(photographs[i], rule), rtol=0, atol=0)


FORKS = """
import os, cv2, numpy as np
from vitgal.datasets.revisited_images import _one_thread
large = np.zeros((600, 2000, 3), np.uint8)
for _ in range(60):
    cv2.GaussianBlur(large, (0, 0), 3)
    child = os.fork()
    if not child:
        _one_thread(0)
        os._exit(0)
    os.waitpid(child, 0)
print("all ended")
"""


def test_readers_forked_after_opencv_had_threads_do_not_wait_for_them() -> None:
    """One in ten did, for ever, when they asked OpenCV for one thread instead of none."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "all ended", done.stderr


def test_few_images_wait_when_no_size_fills_a_batch() -> None:
    held, most = 0, 0

    def items():
        nonlocal held, most
        for i in range(100):
            held, most = held + 1, max(most, held + 1)
            yield i, torch.zeros(3, 1, 1 + i % 50)

    for indices, images in group_by_size(items(), 4):
        assert len(indices) == len(images)
        held -= len(indices)
    assert held == 0
    assert most <= 16


def test_batch_size_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(stream_batches([], local_size, 0, 0))
