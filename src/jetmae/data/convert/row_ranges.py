"""Row numbers for a message: 8-23 instead of sixteen numbers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_RANGES = 3


def row_ranges(rows: Sequence[int] | NDArray[np.int64]) -> str:
    """`0, 8-23, 40 and 1,204 more`: ascending row numbers, as the first few ranges and how many there are besides."""
    rows = np.asarray(rows)
    borders = np.flatnonzero(np.diff(rows) != 1) + 1
    runs = [(int(run[0]), int(run[-1])) for run in np.split(rows, borders)]
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs[:MOST_RANGES])
    rest = sum(last - first + 1 for first, last in runs[MOST_RANGES:])
    return f"{shown} and {rest:,} more" if rest else shown
