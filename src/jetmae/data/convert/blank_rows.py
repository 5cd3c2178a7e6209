"""Rows of images that read as if nobody had written them, where HDF5 does not record who wrote what.

One jet without a single hit may be real. Several in a row, in an array that was made whole before it was filled, are
the part that was never filled; and so is even one that holds the array's own fill value, if that is not 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.row_ranges import row_ranges
from jetmae.errors import DataError

FEWEST_ROWS = 2  # without a hit, next to each other: by chance once in thousands of files with one such jet in 10,000
COMPARED_AT_ONCE = 4096  # pixels: most rows show something else in their first few


class BlankRows:
    """Watches the blocks of an array as they stream by."""

    def __init__(self, fills: frozenset[float], where: str):
        self.fills, self.where = fills, where
        self.rows: dict[float, list[int]] = {fill: [] for fill in fills}

    def look(self, first: int, block: NDArray[Any]) -> None:
        """Look at the next rows.

        Raises:
            DataError: rows that nobody wrote have ended; names them.
        """
        for fill in self.fills:
            blank = rows_of(fill, block)
            if not blank.any() and not self.rows[fill]:
                continue
            for offset, is_blank in enumerate(blank):
                if is_blank:
                    self.rows[fill].append(first + offset)
                else:
                    self._end(fill)

    def finish(self) -> None:
        """The last row was looked at.

        Raises:
            DataError: it, and others before it, were never written.
        """
        for fill in self.fills:
            self._end(fill)

    def _end(self, fill: float) -> None:
        rows = self.rows[fill]
        if len(rows) >= (FEWEST_ROWS if fill == 0 else 1):
            raise DataError(
                f"{self.where}: rows {row_ranges(rows)} read as {fill:g} in every pixel, as rows that nobody wrote do;"
                " if they are jets, or to take them all the same, add --allow-unwritten"
            )
        rows.clear()


def rows_of(fill: float, block: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of a block hold that value everywhere (B,)."""
    flat = block.reshape(len(block), -1)
    blank = np.arange(len(block))
    for start in range(0, flat.shape[1], COMPARED_AT_ONCE):
        part = flat[blank, start : start + COMPARED_AT_ONCE]
        blank = blank[(np.isnan(part) if np.isnan(fill) else part == fill).all(axis=1)]
        if not len(blank):
            break
    found = np.zeros(len(block), dtype=bool)
    found[blank] = True
    return found
