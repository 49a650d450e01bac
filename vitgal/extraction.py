"""Local features of a list of images, batch after batch, into a store."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.paths import atomic_write
from utils.text_files import read_json_object
from vitgal.datasets.revisited_images import (
    PATCH,
    Photograph,
    Size,
    local_size,
    stream_batches,
)
from vitgal.local_features import LocalSettings, Model, extract_local, join_scales
from vitgal.rank_files import ListedImage, read_rerank_list
from vitgal.stores import FeatureStore

RECORD = "extracted.json"  # beside the features
REMEDY = "extract the features again with overwrite=True, or into another folder"
PUBLISHED_SIZE = 512
SUFFIXES = (".jpg", ".jpeg", ".png")


def is_picture(path: Path) -> bool:
    """Whether the name is that of a picture; a hidden one is not, it may be cut off."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def list_images(
    list_extract_paths: str | None, image_folders: str | Sequence[str], use_crop: bool
) -> list[ListedImage]:
    """The images of the list, or all pictures below the folder(s); sorted by path."""
    if list_extract_paths is not None:
        listed = read_rerank_list(Path(list_extract_paths))
        return listed if use_crop else [ListedImage(image.path, None) for image in listed]
    folders = [image_folders] if isinstance(image_folders, str) else list(image_folders)
    paths = [p for folder in folders for p in Path(folder).rglob("*")]
    names = sorted({p.as_posix() for p in paths if is_picture(p)})
    if not names:
        raise FileNotFoundError(f"no picture ({', '.join(SUFFIXES)}) below {', '.join(folders)}")
    return [ListedImage(name, None) for name in names]


def describe_settings(
    settings: LocalSettings,
    image_size: int,
    keep_aspect: bool,
    use_crop: bool,
    amp: bool,
    weights: str,
) -> dict[str, Any]:
    """What features are made from: the record beside them."""
    return {
        "weights": weights,
        "image_size": image_size,
        "keep_aspec_ratio": keep_aspect,
        "use_crop": use_crop,
        "amp": amp,
        "scales": join_scales(settings.scales),
        "attn_threshold": settings.attn_threshold,
        "min_attn_threshold": settings.min_attn_threshold,
        "max_keypoint": settings.max_keypoint,
        "overlap": settings.overlap,
        "num_points": settings.num_points,
    }


def check_record(folder: Path, made_from: dict[str, Any], overwrite: bool) -> None:
    """Refuse to add to features of other weights or settings; write down what these are made from.

    ValueError unless `overwrite`. The record is `extracted.json` in `folder`.
    """
    record = folder / RECORD
    if record.is_file() and not overwrite:
        found = read_json_object(record, REMEDY)
        other = {k: (found.get(k), v) for k, v in made_from.items() if found.get(k) != v}
        if other:
            text = ", ".join(f"{k} {old!r} instead of {new!r}" for k, (old, new) in other.items())
            raise ValueError(
                f"{folder} holds features made with {text}; choose another folder or set "
                "overwrite=True"
            )
    atomic_write(record, (json.dumps(made_from, indent=1) + "\n").encode())


def recorded_image_size(folder: Path) -> int:
    """The image_size that the features in `folder` were extracted at; 512 without a record."""
    record = folder / RECORD
    if not record.is_file():
        return PUBLISHED_SIZE
    size = read_json_object(record, REMEDY).get("image_size")
    if type(size) is not int or size < 1:
        raise ValueError(f"{record} says image_size {size!r}, expected pixels; {REMEDY}")
    return size


def input_size(height: int, width: int, image_size: int, keep_aspect: bool) -> Size:
    """Base size of an image: `local_size`, or a square of whole patches."""
    if keep_aspect:
        return local_size(height, width, image_size)
    side = image_size - image_size % PATCH
    if side < PATCH:
        raise ValueError(f"image_size is {image_size}, expected at least {PATCH}")
    return side, side


def extract_images(
    model: nn.Module,
    images: Sequence[ListedImage],
    store: FeatureStore,
    folder: Path,
    settings: LocalSettings,
    made_from: dict[str, Any],
    device: torch.device,
    batch_size: int,
    num_workers: int,
    overwrite: bool = False,
    progress: bool = True,
) -> int:
    """Extract and save the images that have no features yet (`overwrite`: all); returns how many.

    Images of equal size share a batch, the next ones are read meanwhile. `made_from`: of
    `describe_settings`; features of others in `folder` are refused.
    """
    check_record(folder, made_from, overwrite)
    todo = [image for image in images if overwrite or not store.has(image.path)]
    photographs = [Photograph(Path(image.path), image.box) for image in todo]
    size_rule = partial(
        input_size,
        image_size=made_from["image_size"],
        keep_aspect=made_from["keep_aspec_ratio"],
    )
    run = _with_autocast(model.to(device).eval(), device, made_from["amp"])
    batches = stream_batches(photographs, size_rule, batch_size, num_workers, device.type == "cuda")
    with tqdm(total=len(todo), desc="local", unit="image", disable=not progress) as bar:
        for indices, inputs in batches:
            try:
                found = extract_local(run, inputs.to(device, non_blocking=True), settings)
            except ValueError as error:
                names = ", ".join(todo[i].path for i in indices)
                raise ValueError(f"{names}: {error}") from error
            for i, features in zip(indices, found, strict=True):
                store.save(todo[i].path, features)
            bar.update(len(indices))
    return len(todo)


def _with_autocast(model: nn.Module, device: torch.device, amp: bool) -> Model:
    def run(images: Tensor) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            return model(images)

    return run
