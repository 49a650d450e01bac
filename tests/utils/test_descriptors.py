"""DELG feature files: golden bytes, liberties of the format, and damaged files."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.damage import mutate
from tests.golden_recipe import array, cases_of_kind, load_manifest, load_outputs
from utils.descriptors import (
    ARRAYS,
    LocalFeatures,
    count_local,
    read_datum,
    read_datum_pair,
    read_global,
    read_local,
    write_datum,
    write_datum_pair,
    write_global,
    write_local,
)
from utils.wire_format import length_delimited, pack_varints

# where the reference answers lie, the names of their inputs and their sizes
ITEM_CASES = ("rrt_gld", "descriptor files and dataset item")  # system, kind
PYRAMID = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
ITEM_WIDTH, ITEM_GLOBAL_WIDTHS = 128, {"gld/file_long": 32}  # else 2048
SAMPLE, SAMPLE_N, SAMPLE_D, SAMPLE_GLOBAL_D = "golden/io", 5, 16, 64
DELG_FILES = "delg"  # folder of the sample files


def sample_features(orientations: bool = False) -> LocalFeatures:
    """What `sample.delg_local` and `sample_orientations.delf` hold."""
    n = SAMPLE_N
    return LocalFeatures(
        locations=100 * np.abs(array(f"{SAMPLE}/locations", (n, 2))),
        scales=np.abs(array(f"{SAMPLE}/scales", (n,))),
        descriptors=array(f"{SAMPLE}/descriptors", (n, SAMPLE_D)),
        attention=np.abs(array(f"{SAMPLE}/attention", (n,))),
        orientations=array(f"{SAMPLE}/orientations", (n,)) if orientations else np.zeros(n),
    )


def item_features(case: str, n: int) -> LocalFeatures:
    """What the local file of a dataset-item case holds."""
    table = np.float32(1) / np.array(PYRAMID, np.float32)
    index = (np.abs(array(f"{case}/scales", (n,))) * 1000).astype(np.int64) % len(PYRAMID)
    return LocalFeatures(
        locations=300 * np.abs(array(f"{case}/loc", (n, 2))),
        scales=table[index],
        descriptors=array(f"{case}/desc", (n, ITEM_WIDTH)),
        attention=100 * np.abs(array(f"{case}/att", (n,))),
    )


def random_features(n: int, width: int, seed: int = 0) -> LocalFeatures:
    rng = np.random.default_rng(seed)
    shapes = {"locations": (n, 2), "descriptors": (n, width)}
    return LocalFeatures(**{name: rng.standard_normal(shapes.get(name, (n,))) for name in ARRAYS})


def assert_features_equal(found: LocalFeatures, expected: LocalFeatures) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)


# ---------------------------------------------------------------------------- golden files


@pytest.mark.parametrize(
    "name, orientations", [("sample.delg_local", False), ("sample_orientations.delf", True)]
)
def test_local_sample_is_read_and_written_to_the_byte(golden_dir, tmp_path, name, orientations):
    reference = golden_dir / DELG_FILES / name
    assert_features_equal(read_local(reference), sample_features(orientations))
    write_local(tmp_path / name, sample_features(orientations))
    assert (tmp_path / name).read_bytes() == reference.read_bytes()
    assert count_local(reference, dim=SAMPLE_D) == SAMPLE_N


@pytest.mark.parametrize(
    "name, expected",
    [
        ("sample.delg_global", array(f"{SAMPLE}/global", (SAMPLE_GLOBAL_D,))),
        ("matrix.datum", array(f"{SAMPLE}/matrix", (3, 4))),
        ("uint.datum", np.arange(0, 2100, 7, dtype=np.uint32).reshape(2, 3, 50)),
        ("empty.delg_global", np.zeros(0, np.float32)),
    ],
)
def test_arrays_are_read_and_written_to_the_byte(golden_dir, tmp_path, name, expected):
    reference = golden_dir / DELG_FILES / name
    np.testing.assert_array_equal(read_datum(reference), expected, strict=True)
    write_datum(tmp_path / name, expected)
    assert (tmp_path / name).read_bytes() == reference.read_bytes()


def test_pair_is_read_and_written_to_the_byte(golden_dir, tmp_path):
    reference = golden_dir / DELG_FILES / "pair.datum"
    expected = array(f"{SAMPLE}/pair1", (2, 3)), array(f"{SAMPLE}/pair2", (4,))
    for found, wanted in zip(read_datum_pair(reference), expected, strict=True):
        np.testing.assert_array_equal(found, wanted, strict=True)
    write_datum_pair(tmp_path / "pair", *expected)
    assert (tmp_path / "pair").read_bytes() == reference.read_bytes()


def test_empty_files_are_images_without_features(golden_dir, tmp_path):
    folder = golden_dir / DELG_FILES
    assert read_global(folder / "empty.delg_global").shape == (0,)
    for dim, width in ((None, 0), (128, 128)):
        features = read_local(folder / "empty.delg_local", dim=dim)
        assert len(features) == count_local(folder / "empty.delg_local", dim=dim) == 0
        shapes = {name: getattr(features, name).shape for name in ARRAYS}
        one = {"scales": (0,), "attention": (0,), "orientations": (0,)}
        assert shapes == {"locations": (0, 2), "descriptors": (0, width), **one}
    write_local(tmp_path / "empty", features)
    assert (tmp_path / "empty").read_bytes() == b""
    write_global(tmp_path / "empty_global", np.zeros(0))
    expected = (folder / "empty.delg_global").read_bytes()
    assert (tmp_path / "empty_global").read_bytes() == expected


@pytest.mark.parametrize("case", cases_of_kind(*ITEM_CASES))
def test_item_files_are_read_and_written_to_the_byte(golden_dir, tmp_path, case):
    system, _ = ITEM_CASES
    entry, outputs = load_manifest(system)["cases"][case], load_outputs(system)
    global_file, local_file = (golden_dir / system / name for name in entry["files"])
    features = read_local(local_file, dim=ITEM_WIDTH)
    for name in ("locations", "scales", "attention", "orientations"):
        np.testing.assert_array_equal(getattr(features, name), outputs[f"{case}/read_{name}"])
    first = outputs[f"{case}/read_desc_first3"]
    np.testing.assert_array_equal(features.descriptors[: len(first)], first)
    np.testing.assert_array_equal(read_global(global_file), outputs[f"{case}/read_global"])

    expected = item_features(case, entry["n_features"])
    assert_features_equal(features, expected)
    write_local(tmp_path / "local", expected)
    assert (tmp_path / "local").read_bytes() == local_file.read_bytes()
    width = ITEM_GLOBAL_WIDTHS.get(case, 2048)
    write_global(tmp_path / "global", array(f"{case}/global", (width,)))
    assert (tmp_path / "global").read_bytes() == global_file.read_bytes()


def test_file_of_128_numbers_has_records_of_555_bytes(tmp_path):
    write_local(tmp_path / "local", random_features(3, 128))
    assert (tmp_path / "local").stat().st_size == 3 * 555
    write_global(tmp_path / "global", np.ones(2048, np.float32))
    start = bytes.fromhex("0a 04 0a 02 80 10 12 83 40 0a 80 40")
    assert (tmp_path / "global").read_bytes()[:12] == start
    assert (tmp_path / "global").stat().st_size == 8204


# ---------------------------------------------------------------------------- liberties


def encode_float(number: int, value: float) -> bytes:
    return bytes([number << 3 | 5]) + struct.pack("<f", value)


def encode_feature(
    descriptor: np.ndarray,
    floats: dict[int, float],
    packed: bool = True,
    reverse: bool = False,
    unknown: bool = False,
) -> bytes:
    """One DelfFeature as another writer could have written it; `floats` by field number."""
    if packed:
        dims = length_delimited(1, pack_varints([len(descriptor)]))
        values = length_delimited(1, descriptor.astype("<f4").tobytes())
    else:
        dims = b"\x08" + pack_varints([len(descriptor)])
        values = b"".join(encode_float(1, value) for value in descriptor)
    shape, floats_list = length_delimited(1, dims), length_delimited(2, values)
    datum = floats_list + shape if reverse else shape + floats_list
    fields = [length_delimited(1, datum), *(encode_float(k, v) for k, v in floats.items())]
    if unknown:  # a varint, bytes, a 64-bit and a 32-bit field that nobody knows
        extra = [b"\x98\x06\x96\x01", length_delimited(40, b"abc"), b"\xa1\x06" + bytes(8)]
        fields = [extra[0], *fields, *extra[1:], b"\xad\x06" + bytes(4)]
    return length_delimited(1, b"".join(reversed(fields) if reverse else fields))


@pytest.mark.parametrize("width", [1, 3, 40])
@pytest.mark.parametrize(
    "liberty", [{}, {"packed": False}, {"reverse": True}, {"unknown": True}], ids=str
)
def test_liberties_of_the_format_change_nothing(tmp_path, liberty, width):
    features = random_features(4, width)
    path = tmp_path / "local"
    records = []
    for i in range(len(features)):
        y, x = features.locations[i]
        values = (x, y, features.scales[i], features.orientations[i], features.attention[i])
        floats = dict(zip(range(2, 7), map(float, values), strict=True))
        records.append(encode_feature(features.descriptors[i], floats, **liberty))
    path.write_bytes(b"".join(records))
    assert_features_equal(read_local(path), features)
    assert count_local(path) == 4
    assert_features_equal(read_local(path, max_features=2), head(features, 2))


def head(features: LocalFeatures, n: int) -> LocalFeatures:
    return LocalFeatures(**{name: getattr(features, name)[:n] for name in ARRAYS})


def test_absent_floats_are_zero_and_records_may_differ(tmp_path):
    full = encode_feature(np.ones(3), {2: 1.0, 3: 2.0, 4: 3.0, 5: 4.0, 6: 5.0})
    path = tmp_path / "local"
    path.write_bytes(full + encode_feature(np.ones(3), {6: 9.0}) + full)
    features = read_local(path)
    np.testing.assert_array_equal(features.attention, [5, 9, 5])
    np.testing.assert_array_equal(features.locations, [[2, 1], [0, 0], [2, 1]])
    np.testing.assert_array_equal(features.scales, [3, 0, 3])
    assert count_local(path) == 3


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 127, 128, 1024, 5000])
def test_any_width_goes_there_and_back(tmp_path, width):
    features = random_features(3, width, seed=width)
    write_local(tmp_path / "local", features)
    assert_features_equal(read_local(tmp_path / "local", dim=width), features)
    write_global(tmp_path / "global", features.descriptors[0].astype(np.float64))
    np.testing.assert_array_equal(
        read_global(tmp_path / "global", dim=width), features.descriptors[0], strict=True
    )


def test_features_without_descriptor_numbers_go_there_and_back(tmp_path):
    write_local(tmp_path / "local", random_features(3, 0))
    assert_features_equal(read_local(tmp_path / "local"), random_features(3, 0))


@pytest.mark.parametrize("n", [0, 1, 7, 50, 51, 1000])
def test_max_features_reads_the_first_ones(tmp_path, n):
    features = random_features(50, 128)
    write_local(tmp_path / "local", features)
    assert_features_equal(read_local(tmp_path / "local", max_features=n), head(features, n))


def test_unsigned_integers_go_there_and_back(tmp_path):
    values = np.array([0, 1, 127, 128, 2**14 - 1, 2**14, 2**32 - 1])
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        fitting = values[values <= np.iinfo(dtype).max].astype(dtype)
        write_datum(tmp_path / "datum", fitting)
        found = read_datum(tmp_path / "datum")
        np.testing.assert_array_equal(found, fitting.astype(np.uint32), strict=True)


# ---------------------------------------------------------------------------- bad input

REMEDY = "extract it again"


def test_truncated_local_file_is_refused_at_every_length(tmp_path):
    path = tmp_path / "image.delg_local"
    write_local(path, random_features(2, 4))
    data = path.read_bytes()
    record = len(data) // 2
    for length in set(range(1, len(data))) - {record}:  # a whole record is a whole file
        path.write_bytes(data[:length])
        for n in (None, 1):
            with pytest.raises(ValueError, match=rf"image\.delg_local.*byte \d+.*{REMEDY}"):
                read_local(path, max_features=n)


def test_truncated_global_file_is_refused_at_every_length(tmp_path):
    path = tmp_path / "image.delg_global"
    write_global(path, np.ones(5))
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=rf"image\.delg_global.*{REMEDY}"):
            read_global(path)


@pytest.mark.parametrize("extra", [b"\x00", b"\x0a", b"\xff" * 20, bytes(554)])
def test_oversized_files_are_refused(tmp_path, extra):
    write_local(tmp_path / "local", random_features(2, 128))
    write_global(tmp_path / "global", np.ones(2048))
    for name, read in (("local", read_local), ("global", read_global)):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + extra)
        with pytest.raises(ValueError, match=rf"{name}.*{REMEDY}"):
            read(tmp_path / name)


def test_wrong_width_names_both(tmp_path):
    write_local(tmp_path / "local", random_features(2, 64))
    write_global(tmp_path / "global", np.ones(64))
    with pytest.raises(ValueError, match=rf"local holds.*width 64, expected 128; .*{REMEDY}"):
        read_local(tmp_path / "local", dim=128)
    with pytest.raises(ValueError, match=r"local holds.*width 64, expected 128"):
        count_local(tmp_path / "local", dim=128)
    with pytest.raises(ValueError, match=rf"global holds.*64 numbers, expected 2048; .*{REMEDY}"):
        read_global(tmp_path / "global", dim=2048)
    write_datum(tmp_path / "global", np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"shape \(2, 3\) instead of a float vector"):
        read_global(tmp_path / "global")
    with pytest.raises(ValueError, match="max_features is -1"):
        read_local(tmp_path / "local", max_features=-1)


def test_descriptors_of_unequal_width_are_refused(tmp_path):
    path = tmp_path / "local"
    path.write_bytes(encode_feature(np.ones(3), {}) + encode_feature(np.ones(4), {}))
    with pytest.raises(ValueError, match="4 numbers after one of 3 at byte"):
        read_local(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ARRAYS)
def test_numbers_that_are_none_are_neither_written_nor_read(tmp_path, name, bad):
    features = random_features(3, 4)
    path = tmp_path / "local"
    write_local(path, features)
    stored, number = getattr(features, name).reshape(-1)[0], struct.pack("<f", bad)
    path.write_bytes(path.read_bytes().replace(struct.pack("<f", stored), number))
    with pytest.raises(ValueError, match=f"local holds NaN or infinity among its {name}"):
        read_local(path)
    getattr(features, name).reshape(-1)[0] = bad
    with pytest.raises(ValueError, match=f"local is not written: .* {name}"):
        write_local(path, features)
    path.unlink()
    with pytest.raises(ValueError, match="global is not written"):
        write_global(tmp_path / "global", np.array([1.0, bad]))
    assert not list(tmp_path.iterdir())


def test_large_numbers_are_not_taken_for_infinity(tmp_path):
    one = np.ones(1)
    features = LocalFeatures(np.ones((1, 2)), one, np.full((1, 4), 3e38), one)  # squares overflow
    write_local(tmp_path / "local", features)
    assert_features_equal(read_local(tmp_path / "local"), features)
    with pytest.raises(ValueError, match="beyond float32"):
        write_global(tmp_path / "global", np.array([1e39]))


def test_only_floats_and_unsigned_integers_are_written(tmp_path):
    for wrong in (np.arange(3), np.array([True]), np.array(["a"]), np.ones(2, complex)):
        with pytest.raises(ValueError, match="expected floats or unsigned integers"):
            write_datum(tmp_path / "datum", wrong)
    with pytest.raises(ValueError, match="beyond 32 bits"):
        write_datum(tmp_path / "datum", np.array([2**32], np.uint64))
    for wrong in (np.ones((2, 2)), np.arange(3, dtype=np.uint8)):
        with pytest.raises(ValueError, match="is a vector of floats"):
            write_global(tmp_path / "global", wrong)


def test_arrays_that_do_not_belong_together_are_refused():
    ones = np.ones(3)
    with pytest.raises(ValueError, match=r"locations .* shape \(2, 2\), expected \(3, 2\)"):
        LocalFeatures(np.ones((2, 2)), ones, np.ones((3, 4)), ones)
    with pytest.raises(ValueError, match=r"descriptors .* shape \(2, 4\), expected \(3, 4\)"):
        LocalFeatures(np.ones((3, 2)), ones, np.ones((2, 4)), ones)
    with pytest.raises(ValueError, match="attention"):
        LocalFeatures(np.ones((3, 2)), ones, np.ones((3, 4)), np.ones((3, 1)))


def test_missing_file(tmp_path):
    for read in (read_local, read_global, count_local, read_datum, read_datum_pair):
        with pytest.raises(FileNotFoundError, match=r"absent does not exist; extract"):
            read(tmp_path / "absent")


HOSTILE = {  # name: (bytes, what the message says)
    "feature longer than the file": (b"\x0a\xff\xff\xff\xff\x07", "announces"),
    "endless number": (b"\x0a" + b"\xff" * 12, "longer than 10 bytes"),
    "group": (b"\x0b\x0c", "wire type 3"),
    "field number 0": (b"\x02\x00", "field 0"),
    "feature that is a number": (b"\x08\x05", "varint field, expected bytes"),
    "no descriptor": (length_delimited(1, encode_float(2, 1.0)), "without descriptor"),
    "float of wrong type": (length_delimited(1, b"\x0a\x00\x10\x01"), "varint field, expected 32"),
    "huge shape": (
        length_delimited(
            1, length_delimited(1, b"\x0a\x07\x0a\x05" + pack_varints([2**34]) + b"\x12\x00")
        ),
        "impossible shape",
    ),
    "shape unlike values": (
        length_delimited(1, length_delimited(1, b"\x0a\x03\x0a\x01\x05\x12\x00")),
        r"0 values for an array of shape \(5,\)",
    ),
    "half a float": (
        length_delimited(1, length_delimited(1, b"\x0a\x03\x0a\x01\x01\x12\x04\x0a\x02ab")),
        "list of floats of 2 bytes",
    ),
    "no values": (
        length_delimited(1, length_delimited(1, b"\x0a\x03\x0a\x01\x00")),
        "without values",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_refused_without_reserving_memory(tmp_path, case):
    data, message = HOSTILE[case]
    path = tmp_path / "image.delg_local"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"image\.delg_local.*{message}.*byte \d+"):
            read_local(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def refusals(path: Path, data: bytes, read, n: int = 400) -> list[str]:
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(n):
        path.write_bytes(mutate(data, rng, head=24))  # tags, lengths and first numbers
        try:
            read(path)
        except ValueError as error:
            messages.append(str(error))
    return messages


@pytest.mark.parametrize("width", [4, 128])
def test_damaged_bytes_give_features_or_a_value_error(tmp_path, width):
    path = tmp_path / "image.delg_local"
    write_local(path, random_features(3, width))
    for read in (read_local, count_local, lambda path: read_local(path, width, 1)):
        write_local(path, random_features(3, width))
        messages = refusals(path, path.read_bytes(), read)
        assert all("image.delg_local" in message for message in messages)
        assert len(messages) > 100  # the damage is not overlooked by and large


def test_damaged_bytes_give_an_array_or_a_value_error(tmp_path):
    path = tmp_path / "image.datum"
    for content in (np.ones(6), np.arange(9, dtype=np.uint16).reshape(3, 3)):
        write_datum(path, content)
        messages = refusals(path, path.read_bytes(), read_datum)
        assert all("image.datum" in message for message in messages)
        assert len(messages) > 100
