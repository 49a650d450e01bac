"""Reading `.delg_local` files: the reader of `utils.descriptors` against a parse per field.

    python -m benchmarks.read_local_files [--files N] [--rounds R]

Straightforward version: protobuf messages (compiled or pure Python, whatever the installed package
runs), one feature and one field at a time into float64 arrays, as the published reader does. The
file set stands for an evaluation set: widths of 128, 50 to 1000 features each, about 525 on
average. Both versions read the same files, in turns; best round each; results are kept, so memory
that has to be fetched from the system is paid for on both sides.
Claim: at least 20 times faster.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import api_implementation

from utils.descriptors import LocalFeatures, read_local, write_local

CLAIM = 20.0
LABELS = {"optional": 1, "repeated": 3}
TYPES = {"float": 2, "int64": 3, "message": 11}
MESSAGES = {
    "DatumShape": [("dim", 1, "repeated", "int64")],
    "FloatList": [("value", 1, "repeated", "float")],
    "DatumProto": [
        ("shape", 1, "optional", "DatumShape"),
        ("float_list", 2, "optional", "FloatList"),
    ],
    "DelfFeature": [
        ("descriptor", 1, "optional", "DatumProto"),
        *[
            (name, number, "optional", "float")
            for number, name in enumerate(("x", "y", "scale", "orientation", "strength"), 2)
        ],
    ],
    "DelfFeatures": [("feature", 1, "repeated", "DelfFeature")],
}


def make_message_class() -> type:
    """The DelfFeatures message, built at run time: no protoc."""
    file = descriptor_pb2.FileDescriptorProto(name="delf.proto", package="delf", syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, label, kind in fields:
            field = message.field.add(name=field_name, number=number, label=LABELS[label])
            field.type = TYPES.get(kind, TYPES["message"])
            if kind in MESSAGES:
                field.type_name = f".delf.{kind}"
            elif label == "repeated":
                field.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("delf.DelfFeatures"))


def read_straightforward(path: Path, message_class: type) -> tuple[np.ndarray, ...]:
    """Locations, scales, descriptors, attention, orientations in float64, field by field."""
    message = message_class()
    message.ParseFromString(path.read_bytes())
    n = len(message.feature)
    width = len(message.feature[0].descriptor.float_list.value)
    locations, descriptors = np.zeros((n, 2)), np.zeros((n, width))
    scales, attention, orientations = np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        feature = message.feature[i]
        locations[i] = feature.y, feature.x
        scales[i] = feature.scale
        shape = tuple(feature.descriptor.shape.dim)
        descriptors[i] = np.array(feature.descriptor.float_list.value, np.float32).reshape(shape)
        attention[i] = feature.strength
        orientations[i] = feature.orientation
    return locations, scales, descriptors, attention, orientations


def write_files(folder: Path, n_files: int) -> list[Path]:
    """A set of local files with unequal numbers of features."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n_files):
        n = int(rng.integers(50, 1001))
        features = LocalFeatures(
            locations=rng.uniform(0, 1024, (n, 2)),
            scales=rng.choice([0.5, 1.0, 2.0, 4.0], n),
            descriptors=rng.standard_normal((n, 128), dtype=np.float32),
            attention=rng.uniform(0, 300, n),
        )
        paths.append(folder / f"{i}.delg_local")
        write_local(paths[-1], features)
    return paths


def seconds(read: Callable[[Path], object], paths: list[Path]) -> float:
    """Time to read all files once and hold the results."""
    start = time.perf_counter()
    held = [read(path) for path in paths]
    elapsed = time.perf_counter() - start
    del held
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    message_class = make_message_class()
    ours_best = theirs_best = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), options.files)
        for ours, theirs in zip(
            (read_local(path) for path in paths[:20]),
            (read_straightforward(path, message_class) for path in paths[:20]),
            strict=True,
        ):
            same = (ours.locations, ours.scales, ours.descriptors, ours.attention)
            for a, b in zip((*same, ours.orientations), theirs, strict=True):
                np.testing.assert_array_equal(a, b)
        for _ in range(options.rounds):
            ours_best = min(ours_best, seconds(read_local, paths))
            theirs_best = min(
                theirs_best, seconds(lambda path: read_straightforward(path, message_class), paths)
            )
    backend = api_implementation.Type()
    print(f"{options.files} files, best of {options.rounds} rounds in turns")
    print(f"protobuf ({backend}), per field   {1e3 * theirs_best / options.files:8.3f} ms per file")
    print(f"utils.descriptors.read_local  {1e3 * ours_best / options.files:8.3f} ms per file")
    print(f"ratio {theirs_best / ours_best:.1f} (claim: at least {CLAIM:.0f})")


if __name__ == "__main__":
    main()
