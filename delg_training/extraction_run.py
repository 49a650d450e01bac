"""Features of many pictures into files: shared between machines, resumed, failures collected."""

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from delg_training.delf_config import RECORD, DelfConfig
from delg_training.extraction import Extractor, Features
from delg_training.image_loading import Box, ImageError, LoadedImage, load_image
from delg_training.saved_models import fingerprint_model
from utils.descriptors import write_global, write_local
from utils.paths import atomic_write
from utils.text_files import read_json_object

logger = logging.getLogger(__name__)

AHEAD = 3  # pictures that are ready or being read, per thread
SHOWN = 5  # names in an error message
LAUNCHERS = (  # number and count of the processes that run one command: torchrun's, srun's
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)


class IncompleteExtractionError(RuntimeError):
    """All that could be done is done, but some pictures have no features."""


@dataclass(frozen=True)
class Picture:
    """A picture to extract, and the name of its features."""

    stem: str
    path: Path
    box: Box | None = None  # the part that is a query


@dataclass(frozen=True)
class Shard:
    """Which of the pictures are this process' own: every `count`-th, from `index`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """ValueError unless 0 <= index < count."""
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"shard={self.index} num_shards={self.count}: shards count from 0 to num_shards - 1"
            )

    def take(self, pictures: Sequence[Picture]) -> list[Picture]:
        """The own pictures."""
        return list(pictures[self.index :: self.count])

    def list_name(self, name: str) -> str:
        """Name of a list of this shard: `failed.txt`, `failed_2_of_8.txt`."""
        return f"{name}.txt" if self.count == 1 else f"{name}_{self.index}_of_{self.count}.txt"


def make_shard(shard: int | None, num_shards: int | None) -> Shard:
    """The shard of the options; without them the one that a launcher of n processes tells.

    The tasks of a job array may be anything (one script each, say): they give the options.
    """
    if shard is not None or num_shards is not None:
        if shard is None or num_shards is None:
            raise ValueError("give both shard and num_shards, or neither")
        return Shard(shard, num_shards)
    for index, count in LAUNCHERS:
        if index in os.environ and count in os.environ:
            return Shard(int(os.environ[index]), int(os.environ[count]))
    return Shard()


def choose_gpu() -> None:
    """Of several GPUs the one of this process (LOCAL_RANK, as launchers set it); memory as needed.

    Must come before TensorFlow's first operation.
    """
    gpus = tf.config.list_physical_devices("GPU")
    rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    if rank is not None and len(gpus) > 1:
        gpus = [gpus[int(rank) % len(gpus)]]
        tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    logger.info("extracting on %s", ", ".join(gpu.name for gpu in gpus) or "the CPU")


# ---------------------------------------------------------------------------- what goes where


def delg_files(config: DelfConfig, stem: str, folder: Path) -> list[Path]:
    """`<stem>.delg_global` and `<stem>.delg_local`, those that the configuration asks for."""
    kinds = {"delg_global": config.use_global_features, "delg_local": config.use_local_features}
    return [folder / f"{stem}.{kind}" for kind, wanted in kinds.items() if wanted]


def delf_files(config: DelfConfig, stem: str, folder: Path) -> list[Path]:
    """`<stem>.delf`: local features alone. ValueError when the configuration has none."""
    if not config.use_local_features:
        raise ValueError(".delf files hold local features: set use_local_features: true")
    return [folder / f"{stem}.delf"]


Naming = Callable[[DelfConfig, str, Path], list[Path]]


def write_features(files: Sequence[Path], features: Features) -> None:
    """Each file by its suffix."""
    for path in files:
        if path.suffix == ".delg_global":
            assert features.global_descriptor is not None
            write_global(path, features.global_descriptor)
        else:
            assert features.local is not None
            write_local(path, features.local)


def describe(config: DelfConfig) -> dict[str, Any]:
    """What features are made from: the model's hash and all of the configuration but paths."""
    settings = asdict(config)
    settings.pop("model_path")
    return {
        "model": fingerprint_model(config.model_path),
        "config": json.loads(json.dumps(settings)),
    }


def check_record(folder: Path, made_from: dict[str, Any], overwrite: bool = False) -> None:
    """Refuse to add to features of another model or configuration; note what these are made from.

    ValueError unless `overwrite`.
    """
    record = folder / RECORD
    if record.is_file() and not overwrite:
        found = read_json_object(record, "choose another folder or set overwrite=True")
        if found != made_from:
            before, now = _flat(found), _flat(made_from)
            other = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
            text = ", ".join(f"{k} {before.get(k)!r} instead of {now.get(k)!r}" for k in other)
            raise ValueError(
                f"{folder} holds features made with {text}; choose another folder or set "
                "overwrite=True"
            )
    atomic_write(record, (json.dumps(made_from, indent=1) + "\n").encode())


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def check_stems(pictures: Sequence[Picture]) -> None:
    """ValueError when two pictures would write the same files."""
    paths: dict[str, Picture] = {}
    for picture in pictures:
        before = paths.setdefault(picture.stem, picture)
        if before != picture:
            raise ValueError(
                f"{before.path} and {picture.path} share the name {picture.stem}, so that their "
                "features would share a file; extract them into different folders"
            )


# ---------------------------------------------------------------------------- the run


@dataclass
class Outcome:
    """What became of the pictures."""

    extracted: int
    kept: int  # had all files already
    empty: list[str]  # too small for features
    missing: list[str]  # no such file
    failed: list[tuple[str, str]]  # not decodable, or too large for the memory; with the reason

    def counts(self) -> dict[str, int]:
        """For the log and the run's result."""
        return {
            "extracted": self.extracted,
            "kept": self.kept,
            "empty": len(self.empty),
            "missing": len(self.missing),
            "failed": len(self.failed),
        }


def read_ahead(
    pictures: Sequence[Picture], config: DelfConfig, num_workers: int
) -> Iterator[tuple[Picture, LoadedImage | Exception]]:
    """Every picture in turn with its pixels, or why there are none; threads read the next ones."""

    def load(picture: Picture) -> LoadedImage | Exception:
        try:
            return load_image(picture.path, config, picture.box)
        except (FileNotFoundError, ImageError) as error:
            return error

    waiting: deque[tuple[Picture, Future[LoadedImage | Exception]]] = deque()
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        try:
            for picture in pictures:
                waiting.append((picture, pool.submit(load, picture)))
                if len(waiting) > AHEAD * max(1, num_workers):
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def extract_pictures(
    pictures: Sequence[Picture],
    config: DelfConfig,
    folder: str | Path,
    naming: Naming = delg_files,
    shard: Shard | None = None,
    num_workers: int = 2,
    overwrite: bool = False,
    extractor: Extractor | None = None,
) -> Outcome:
    """Extract the own pictures that have no files yet (`overwrite`: all), files written whole.

    A picture that is missing or cannot be decoded is noted and the rest goes on; `finish` says
    so in the end. The extractor is loaded when there is something to do.
    """
    folder, shard = Path(folder), shard or Shard()
    check_stems(pictures)
    naming(config, "", folder)
    check_record(folder, describe(config), overwrite)
    own = shard.take(pictures)
    logger.info("shard %d of %d: %d pictures", shard.index, shard.count, len(own))
    files = {picture.stem: naming(config, picture.stem, folder) for picture in own}
    todo = [p for p in own if overwrite or not all(file.is_file() for file in files[p.stem])]
    outcome = Outcome(0, len(own) - len(todo), [], [], [])
    if not todo:
        return outcome
    extract = Extractor(config) if extractor is None else extractor
    images = read_ahead(todo, config, num_workers)
    for picture, image in tqdm(images, total=len(todo), unit="image", desc="features"):
        if isinstance(image, FileNotFoundError):
            outcome.missing.append(str(picture.path))
        elif isinstance(image, Exception):
            outcome.failed.append((str(picture.path), str(image)))
        else:
            _extract_one(picture, image, extract, files[picture.stem], outcome)
    return outcome


def _extract_one(
    picture: Picture,
    image: LoadedImage,
    extract: Extractor,
    files: Sequence[Path],
    outcome: Outcome,
) -> None:
    try:
        features = extract(image)
    except tf.errors.ResourceExhaustedError:
        height, width = image.pixels.shape[:2]
        reason = f"{picture.path}: no memory for {height} x {width} pixels, lower max_image_size"
        outcome.failed.append((str(picture.path), reason))
        return
    write_features(files, features)
    outcome.extracted += 1
    if features.global_descriptor is not None and not len(features.global_descriptor):
        outcome.empty.append(str(picture.path))


def finish(
    outcome: Outcome, folder: str | Path, shard: Shard | None = None, allow_missing: bool = False
) -> dict[str, int]:
    """Write the lists `missing.txt` and `failed.txt` into `folder`, if any; returns the counts.

    IncompleteExtractionError for failed pictures, and for missing ones unless `allow_missing`.
    """
    folder, shard = Path(folder), shard or Shard()
    failed = [name for name, _ in outcome.failed]
    for name, paths in (("missing", outcome.missing), ("failed", failed)):
        listing = folder / shard.list_name(name)
        if paths:
            atomic_write(listing, "".join(f"{path}\n" for path in paths).encode())
        else:
            listing.unlink(missing_ok=True)
    logger.info("%s: %s", folder, outcome.counts())
    if outcome.empty:
        logger.warning(
            "%d pictures are too small for features: %s", len(outcome.empty), _some(outcome.empty)
        )
    if outcome.missing:
        logger.warning(
            "%d pictures are not there, see %s: %s", len(outcome.missing),
            folder / shard.list_name("missing"), _some(outcome.missing),
        )  # fmt: skip
    problems = len(failed) + (0 if allow_missing else len(outcome.missing))
    if problems:
        reasons = [reason for _, reason in outcome.failed] or outcome.missing
        raise IncompleteExtractionError(
            f"{problems} pictures have no features (missing.txt and failed.txt in {folder} list "
            f"them), all others do: {_some(reasons)}; bring the files and run the command again"
        )
    return outcome.counts()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
