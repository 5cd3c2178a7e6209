"""Stateless randomness: every random number is a function of what it is for, never of what was drawn before.

The counter-based generator Philox (Salmon et al., SC'11, doi:10.1145/2063384.2063405) turns (seed, purpose) as key and
(a, b) as counter into numbers. So a resumed run needs no generator state, and a run on another number of ranks draws
the same numbers for the same jets.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

FLOATS_PER_COUNT = 8  # one step of Philox's counter makes four 64-bit numbers, each of them two float32


class Purpose(IntEnum):
    """Streams of one seed never share numbers. The values are part of what makes a run reproducible: append only."""

    ORDER = 1
    TRAIN_NOISE = 2
    EVALUATION_NOISE = 3
    SUBSET = 4
    FAILURES = 5
    EVALUATION_JETS = 6


def generator(seed: int, purpose: Purpose, a: int = 0, b: int = 0, *, count: int = 0) -> np.random.Generator:
    """A generator at the place (a, b) of a stream, with its counter at `count`; 2**64 counts lie between two places."""
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([count, 0, b, a], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def uniform_rows(seed: int, purpose: Purpose, places: list[tuple[int, int]], columns: int) -> NDArray[np.float32]:
    """Uniform noise in [0, 1), one row (columns,) for each place (a, b): shape (len(places), columns)."""
    rows = np.empty((len(places), columns), dtype=np.float32)
    for row, (a, b) in zip(rows, places, strict=True):
        generator(seed, purpose, a, b).random(dtype=np.float32, out=row)
    return rows


def uniform_block(seed: int, purpose: Purpose, a: int, rows: range, columns: int) -> NDArray[np.float32]:
    """Uniform noise in [0, 1), shape (len(rows), columns): neighbouring rows of the endless table at the place a.

    A row is the same in every block that holds it, for one number of columns. One generator makes them all: each row
    begins at a count of its own, so that nothing before it has to be drawn.
    """
    counts_per_row = -(-columns // FLOATS_PER_COUNT)
    source = generator(seed, purpose, a, count=rows.start * counts_per_row)
    noise = source.random((len(rows), counts_per_row * FLOATS_PER_COUNT), dtype=np.float32)
    return np.ascontiguousarray(noise[:, :columns])
