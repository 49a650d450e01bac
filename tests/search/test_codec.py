"""Kinds of numbers: what is lost, what is not, and one bit by hand."""

import numpy as np
import pytest

from search.codec import KINDS, RowCodec, check_kind, learn_levels, normalise_rows


def make_rows(n: int = 200, width: int = 128) -> np.ndarray:
    rng = np.random.default_rng(0)
    return normalise_rows(rng.gamma(0.5, size=(n, width)).astype(np.float32))  # as RootSIFT: >= 0


def codec_of(kind: str, rows: np.ndarray) -> RowCodec:
    return RowCodec(kind, rows.shape[1], learn_levels(rows))


@pytest.mark.parametrize(
    ("kind", "cosine", "size"),
    [("float32", 1, 512), ("float16", 0.999999, 256), ("int8", 0.9998, 128), ("1bit", 0.7, 16)],
)
def test_kinds_keep_the_direction_and_shrink_the_row(kind, cosine, size):
    rows = make_rows()
    codec = codec_of(kind, rows)
    stored = codec.encode(rows)
    assert np.dtype([codec.field]).itemsize == stored[0].nbytes == size
    read = codec.decode(stored)
    np.testing.assert_allclose(np.linalg.norm(read, axis=1), 1, atol=1e-6)
    assert ((read * rows).sum(axis=1) >= cosine - 1e-6).all()


def test_float32_is_exact_and_not_normalised():
    rows = 7 * make_rows()
    codec = RowCodec("float32", 128)
    np.testing.assert_array_equal(codec.decode(codec.encode(rows)), rows)


def test_one_bit_by_hand():
    """Column 0: mean 2, mean distance 1; column 1: mean 0, mean distance 3."""
    rows = np.array([[1, 3], [3, -3]], np.float32)
    levels = learn_levels(rows)
    np.testing.assert_array_equal(levels, [[2, 0], [1, 3]])
    codec = RowCodec("1bit", 2, levels)
    stored = codec.encode(normalise_rows(np.array([[0, 9]], np.float32)))
    assert stored.tolist() == [[0b01000000]]  # 0 < 2, 1 > 0; the first number in the highest bit
    np.testing.assert_allclose(codec.decode(stored), [[1 / 10**0.5, 3 / 10**0.5]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_zero_rows_stay_zero(kind):
    codec = RowCodec(kind, 5)
    assert (codec.decode(codec.encode(np.zeros((2, 5), np.float32))) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_are_no_rows(kind):
    codec = codec_of(kind, make_rows(4, 9))
    nothing = np.zeros((0, 9), np.float32)
    assert codec.decode(codec.encode(nothing)).shape == (0, 9)


def test_unknown_kind_lists_the_choices():
    with pytest.raises(ValueError, match="'int4', expected one of float32, float16, int8, 1bit"):
        check_kind("int4")
