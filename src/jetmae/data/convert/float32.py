"""Numbers of any type as float32, and which of them it cannot hold."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmae.errors import DataError

SIGNIFICANT_BITS = 24  # of a float32


def is_exact(value: NDArray[Any], stored: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the values are exactly what `stored`, the same as float32, says; integers of any size included."""
    if value.dtype.kind in "iu":
        return _has_few_bits(value)
    exact: NDArray[np.bool_] = stored == value  # in the wider of the two types, which holds both
    return exact


def _has_few_bits(value: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether at most 24 bits lie between the highest and the lowest bit that is set.

    Comparing an integer with a float would first round the integer, to a float64, and find them equal.
    """
    magnitude = value.astype(np.uint64)
    if value.dtype.kind == "i":
        magnitude = np.where(value < 0, ~magnitude + np.uint64(1), magnitude)  # right for the lowest integer too
    lowest_bit = np.maximum(magnitude & (~magnitude + np.uint64(1)), np.uint64(1))
    few: NDArray[np.bool_] = magnitude // lowest_bit < np.uint64(1 << SIGNIFICANT_BITS)
    return few


def as_float32(values_N: NDArray[Any], where: str) -> NDArray[np.float32]:
    """A column of masses or momenta, rounded to float32: a relative change of 6e-8 at most.

    Raises:
        DataError: it holds no numbers, or names the first row that is too large for float32.
    """
    if values_N.dtype.kind not in "fiu":
        raise DataError(f"{where} holds {values_N.dtype} values, expected numbers in GeV; correct or rename it")
    with np.errstate(over="ignore"):
        rounded = values_N.astype(np.float32)
    lost = np.flatnonzero(np.isinf(rounded) & np.isfinite(values_N))
    if len(lost):
        raise DataError(
            f"{where}: row {lost[0]} is {values_N[lost[0]]}, too large for float32; expected GeV; correct the source"
        )
    return rounded
