"""A value is stored as it is, or refused: which numbers float32 holds is decided without rounding them."""

from fractions import Fraction

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetmae.data.convert.convert import ConvertOptions, convert
from jetmae.data.convert.float32 import as_float32, is_exact
from jetmae.errors import DataError

INTEGERS = {  # a value that float32 rounds, of every type that has one
    "int64 above 2^60": np.int64(2**60 + 1),
    "int64 just above 2^53": np.int64(2**53 + 1),
    "int64 just above 2^24": np.int64(2**24 + 1),
    "the highest int64": np.int64(2**63 - 1),
    "negative int64": np.int64(-(2**62) - 1),
    "the highest uint64": np.uint64(2**64 - 1),
    "int32": np.int32(2**24 + 1),
    "uint32": np.uint32(2**32 - 1),
    "float64 with more digits": np.float64(0.1),
    "float64 of 54 bits": np.float64(2**53 - 1),
    "float128": np.longdouble(1) + np.finfo(np.longdouble).eps,
}


@pytest.mark.parametrize("number", INTEGERS.values(), ids=INTEGERS)
def test_what_float32_rounds_needs_leave(tmp_path, number):
    images = np.zeros((2, 3, 8, 8), dtype=number.dtype)
    images[1, 2, 3, 4] = number
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["jet"] = images
    source = f"train={tmp_path / 'source.h5'}"
    with pytest.raises(DataError, match=r"row 1, channel 2, pixel \(3, 4\) is .*--allow-rounding") as refused:
        convert([source], tmp_path / "out")
    assert "np." not in str(refused.value)
    assert convert([source], tmp_path / "out", options=ConvertOptions(allow_rounding=True), verify=True).jets == 2


@pytest.mark.parametrize(
    "number", [np.int64(2**62), np.int64(-(2**63)), np.uint64(2**63), np.int32(2**24 - 1), np.int64(0xFFFFFF << 39)]
)
def test_large_integers_that_float32_holds_are_stored(tmp_path, number):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["jet"] = np.full((2, 3, 8, 8), number)
    convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out", verify=True)


@given(st.integers(-(2**63), 2**64 - 1))
def test_integers_are_compared_as_fractions_would_be(number):
    value = np.array([number], dtype=np.int64 if number < 2**63 else np.uint64)
    stored = value.astype(np.float32)
    assert is_exact(value, stored)[0] == (Fraction(number) == Fraction(float(stored[0])))


def test_a_mass_too_large_for_float32_is_refused():
    assert as_float32(np.array([1.5, np.nan]), "m").tolist()[0] == 1.5
    with pytest.raises(DataError, match=r"m: row 1 is 1e\+300, too large for float32"):
        as_float32(np.array([1.0, 1e300]), "m")
