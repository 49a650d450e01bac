"""Global descriptors: the reference, several scales, extraction of files."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden_recipe import array, load_manifest, load_outputs
from tests.vitgal.reference_model import reference_model
from vitgal.datasets.revisited_images import Photograph
from vitgal.descriptor_files import load_or_extract
from vitgal.global_features import (
    GlobalSettings,
    Loading,
    describe_images,
    extract_global,
)

SYSTEM, PREFIX, FILE = "vitgal", "vitgal/s12", "global_multiscale.npz"
ENTRY = load_manifest(SYSTEM)["files"][FILE]


@pytest.mark.parametrize("case", ENTRY["cases"])
@pytest.mark.parametrize(("name", "multiscale"), [("single_l2", False), ("multi_l2", True)])
def test_descriptors_equal_the_reference(case: str, name: str, multiscale: bool) -> None:
    image = torch.from_numpy(array(f"{PREFIX}/{case}/image", tuple(ENTRY["cases"][case])))
    network = reference_model().retrieval_back_bone
    found = describe_images(lambda images: network(images)["global"], image, multiscale)
    expected = torch.from_numpy(load_outputs(SYSTEM, FILE)[f"{case}/{name}"])
    tolerance = ENTRY["tolerance"]
    torch.testing.assert_close(found, expected, rtol=tolerance["rtol"], atol=tolerance["atol"])


def mean_colours(images: Tensor) -> Tensor:
    """Stand-in for the network: 12 numbers that depend on the image's content."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) + 0.1


def test_scales_of_a_batch_are_normalised_image_by_image() -> None:
    images = torch.from_numpy(array("vitgal/test/global", (3, 3, 64, 48)))
    images = images * torch.tensor([1.0, 10.0, 100.0])[:, None, None, None]
    together = describe_images(mean_colours, images, True)
    alone = torch.cat([describe_images(mean_colours, image[None], True) for image in images])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))


def test_descriptors_that_are_no_numbers_are_an_error() -> None:
    for value in (torch.nan, 0.0):
        with pytest.raises(ValueError, match="zero or not finite"):
            describe_images(lambda images: torch.full((1, 4), value), torch.ones(1, 3, 8, 8))  # noqa: B023


def test_images_that_vanish_at_the_smallest_scale_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"512 x 3 pixels vanish at scale 0.25"):
        describe_images(mean_colours, torch.ones(1, 3, 3, 512), True)


@pytest.fixture
def photographs(tmp_path: Path) -> list[Photograph]:
    rng = np.random.default_rng(0)
    made = []
    for i, (height, width) in enumerate([(20, 30), (30, 20), (25, 25), (20, 30), (60, 20)]):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        made.append(Photograph(path, (2, 3, 18, 19) if i == 1 else None))
    return made


@pytest.mark.parametrize("keep_aspect", [False, True])
def test_rows_stand_in_the_order_of_the_files(photographs, keep_aspect: bool) -> None:
    settings = GlobalSettings(32, keep_aspect)
    loading = Loading(batch_size=2, num_workers=0)
    found = extract_global(
        mean_colours, photographs, np.zeros((5, 12), np.float32), settings, loading, progress=False
    )
    for row, photograph in zip(found, photographs, strict=True):
        alone = np.zeros((1, 12), np.float32)
        extract_global(mean_colours, [photograph], alone, settings, loading, progress=False)
        np.testing.assert_allclose(row, alone[0], atol=1e-6)


class Filler:
    """Stand-in for extraction: each file's number; fails when told to."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.asked: list[str] = []
        self.fail_at = fail_at

    def __call__(self, photographs: list[Photograph], out: np.ndarray) -> None:
        if self.fail_at is not None and len(self.asked) >= self.fail_at:
            raise KeyboardInterrupt
        self.asked += [photograph.path.stem for photograph in photographs]
        out[:] = np.array([[float(p.path.stem)] * 3 for p in photographs])


def test_interrupted_extraction_goes_on_after_the_last_shard(photographs, tmp_path: Path) -> None:
    folder, origin = tmp_path / "descriptors", {"weights": "w"}
    first, second, third = Filler(fail_at=4), Filler(), Filler()
    with pytest.raises(KeyboardInterrupt):
        load_or_extract(folder, "set", photographs, 3, origin, first, shard=2)
    assert first.asked == ["0", "1", "2", "3"]
    found = load_or_extract(folder, "set", photographs, 3, origin, second, shard=2)
    assert second.asked == ["4"]
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found[:, 0], np.arange(5))
    load_or_extract(folder, "set", photographs, 3, origin, third, shard=2)
    assert third.asked == []
    load_or_extract(folder, "set", photographs, 3, origin, third, overwrite=True)
    assert len(third.asked) == 5


def test_descriptors_of_other_weights_or_pictures_are_not_reused(photographs, tmp_path) -> None:
    folder = tmp_path / "descriptors"
    load_or_extract(folder, "set", photographs, 3, {"weights": "w"}, Filler())
    again = Filler()
    load_or_extract(folder, "set", photographs, 3, {"weights": "v"}, again)
    assert len(again.asked) == 5
    photographs[2].path.write_bytes(photographs[0].path.read_bytes())
    changed = Filler()
    load_or_extract(folder, "set", photographs, 3, {"weights": "w"}, changed)
    assert len(changed.asked) == 5


def test_damaged_descriptor_file_is_named(photographs, tmp_path: Path) -> None:
    folder = tmp_path / "descriptors"
    load_or_extract(folder, "set", photographs, 3, {}, Filler())
    (path,) = folder.glob("*.npy")
    np.save(path, np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"set_\w+.npy is float32 \(2, 3\).*overwrite=True"):
        load_or_extract(folder, "set", photographs, 3, {}, Filler())
