"""What a source says of each jet besides its image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.labels import Labels


@dataclass(frozen=True)
class Columns:
    """Labels, and mass and pT in GeV (N,), as far as the file has them; `found` says where they stand."""

    found: str
    labels: Labels | None = None
    mass_N: NDArray[np.float32] | None = None
    pt_N: NDArray[np.float32] | None = None
