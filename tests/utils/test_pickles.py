"""Foreign pickles: plain data comes through unchanged, everything else is refused by name."""

import collections
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.damage import mutate
from utils.pickles import load_foreign

PLAIN = {
    "containers": [(1, "a"), {"k": [1, 2], (1, "t"): None}, {1, 2}, frozenset([3]), [], (), {}],
    "ordered": collections.OrderedDict(b=1, a=2),
    "numbers": [0, -1, 255, 65536, 2**31, -(2**40), 10**30, 1.5, float("inf"), 1j, True, False],
    "text": ["", "Köln", "all_souls_000013", b"", b"\x00\xff", bytearray(b"ab")],
    "arrays": [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.zeros((0, 4)),
        np.array(3.5),
        np.array([True, False]),
        np.array([1, 2], dtype=">i4"),
        np.array(["a", "bcd"]),
        np.array([b"x", b"yz"]),
        np.array([[1, 2], [3], None], dtype=object),
        np.array([1, 2], np.float16),
    ],
    "scalars": [np.float32(2), np.int64(-3), np.bool_(True), np.str_("abc")],
}
SHARED = np.arange(4)


class Harmful:
    """Would run a command on loading."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch harmed",)


REFUSED = [  # value, what the message names
    (Harmful(), "system"),
    (Path("a"), "pathlib"),
    (print, "print"),
    (np.dtype("f4"), "numpy.dtype"),
    (np.zeros(2, [("a", "i4")]), "V4"),
    (np.array(["2020-01-01"], dtype="M8[D]"), "M8"),
    (collections.defaultdict(list), "defaultdict"),
    (np.random.default_rng(0), "numpy.random"),
]


def dump(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_data_equals_what_pickle_gives(tmp_path, kind, protocol):
    path = dump(tmp_path / "data.pkl", PLAIN[kind], protocol)
    expected = pickle.loads(path.read_bytes())
    found = load_foreign(path)
    assert_same(found, expected)
    values = zip(found, expected, strict=True) if isinstance(expected, list) else ()
    for value, other in values:
        assert_same(value, other)


def test_arrays_may_be_changed_and_references_are_kept(tmp_path):
    found = load_foreign(dump(tmp_path / "data.pkl", {"a": SHARED, "b": SHARED}))
    found["a"][0] = 7
    assert found["b"][0] == 7


def test_python_2_pickle_of_an_array_is_read(tmp_path):
    # as numpy under Python 2 wrote np.array([1, 2], '<i4') at protocol 2: bytes are old strings
    old = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85"
        b"U\x01b\x87Rq\x03(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02i4K\x00K\x01\x87Rq\x05"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x01\x00\x00\x00\x02\x00\x00\x00tb."
    )
    (tmp_path / "old.pkl").write_bytes(old)
    found = load_foreign(tmp_path / "old.pkl")
    np.testing.assert_array_equal(found, np.array([1, 2], np.int32), strict=True)


@pytest.mark.parametrize("value, named", REFUSED, ids=[named for _, named in REFUSED])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_everything_else_is_refused_by_name(tmp_path, monkeypatch, value, named, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=named) as caught:
        load_foreign(dump(tmp_path / "data.pkl", {"a": [value]}, protocol))
    assert "data.pkl" in str(caught.value)
    assert not (tmp_path / "harmed").exists()


def test_a_call_hidden_behind_an_admitted_name_is_refused(tmp_path):
    path = tmp_path / "data.pkl"
    path.write_bytes(b"\x80\x04(cnumpy\nndarray\nK\x03\x85Rl.")  # numpy.ndarray(3)
    with pytest.raises(ValueError, match=r"numpy\.ndarray"):
        load_foreign(path)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_truncated_file_is_refused_at_every_length(tmp_path, protocol):
    data = pickle.dumps({"a": [1, "b", SHARED]}, protocol)
    path = tmp_path / "data.pkl"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"data\.pkl is not a whole pickle"):
            load_foreign(path)
    path.write_bytes(data + b"x")
    with pytest.raises(ValueError, match="further bytes follow"):
        load_foreign(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.pkl does not exist"):
        load_foreign(tmp_path / "data.pkl")


HOSTILE = {
    "huge bytes": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"a.",
    "huge bytearray": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"a.",
    "huge memo index": b"\x80\x02]r\xff\xff\xff\x7f\x8b\x01\x00\x00\x00\x01.",
    "bytearray of a number": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "huge shape": (
        b"\x80\x04cnumpy.core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\nX\x02\x00\x00\x00i8\x85R"
        b"J\xff\xff\xff\x7f\x85X\x01\x00\x00\x00CtR."
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_announced_sizes_never_reserve_memory(tmp_path, case):
    path = tmp_path / "data.pkl"
    path.write_bytes(HOSTILE[case])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"data\.pkl is not a whole pickle"):
            load_foreign(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("protocol", [0, 2, 3, 5])
def test_damaged_bytes_give_a_value_or_a_value_error(tmp_path, protocol):
    rng = np.random.default_rng(protocol)
    value = {
        "imlist": ["a", "b"],
        "gnd": [{"bbx": [1.5, 2.0, 3.0, 4.0], "easy": [0], "hard": {1}, "junk": ()}],
        "ranks": np.arange(12, dtype=np.int32).reshape(3, 4),
        "names": np.array(["x", None], dtype=object),
        "score": np.float32(3),
    }
    data = pickle.dumps(value, protocol)
    path = tmp_path / "data.pkl"
    messages = []
    for _ in range(600):
        path.write_bytes(mutate(data, rng))
        try:
            load_foreign(path)
        except ValueError as error:
            messages.append(str(error))
    assert all("data.pkl" in message for message in messages)
    assert len(messages) > 200  # the damage is not overlooked by and large
