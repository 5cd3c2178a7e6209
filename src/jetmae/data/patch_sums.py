"""Sums over the pixels of each patch, straight from the stored values.

Shapes: B jets, C channels, H x W image, L patches (row by row), P places, K patches that one place reaches into,
n stored values.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from jetmae.data.pixels import SparsePixels
from jetmae.data.sparse import tower_grid


@dataclass(frozen=True)
class PatchSums:
    """In the source's units. A tower's value counts for each of its pixels."""

    absolute_BLC: Float32[Tensor, "B L C"]
    """sum of abs(value)"""
    signed_BLC: Float32[Tensor, "B L C"]
    """sum of the values"""

    def of(self, rows: Int64[Tensor, " W"] | Bool[Tensor, " B"]) -> "PatchSums":
        """Of some of the jets, by number or by a mask."""
        return PatchSums(self.absolute_BLC[rows], self.signed_BLC[rows])


def patch_sums(pixels: SparsePixels, image_shape: tuple[int, int, int], patch_size: int, tower_size: int) -> PatchSums:
    """Sums of all patches (B, L, C); `tower_size` is 0 where no channel is stored per tower.

    They are added up in double precision. There the sum of a few float32 values of like size is exact, so it does not
    depend on their order, which on a GPU is another one each time.
    """
    channels, height, width = image_shape
    patch_PK, count_PK = _patches_of_places(height, width, patch_size, tower_size, pixels.place_n.device)
    shape_BLC = (pixels.jets, (height // patch_size) * (width // patch_size), channels)
    patch_nK = pixels.jet_n[:, None] * shape_BLC[1] + patch_PK[pixels.place_n]
    slot_n = (patch_nK * channels + pixels.channel_n[:, None]).flatten()
    value_n = (pixels.value_n.double()[:, None] * count_PK[pixels.place_n]).flatten()
    return PatchSums(_added_up(slot_n, value_n.abs(), shape_BLC), _added_up(slot_n, value_n, shape_BLC))


def _added_up(slot_n: Tensor, value_n: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The values of each slot added up, in `shape`, float32."""
    sums = torch.zeros(math.prod(shape), dtype=torch.float64, device=value_n.device)
    return sums.scatter_add_(0, slot_n, value_n).view(shape).float()


@lru_cache(maxsize=4)
def _patches_of_places(
    height: int, width: int, patch_size: int, tower_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The patches that each place reaches into (P, K) int64, and with how many pixels (P, K) float64, maybe 0.

    K is 1 where no tower is cut by the border of a patch.
    """
    patch_P1 = tower_grid(height, width, patch_size).tower_of_pixel[:, None]
    count_P1 = np.ones_like(patch_P1)
    if tower_size:
        patch_TK = patch_P1[tower_grid(height, width, tower_size).pixels_of_tower, 0]
        count_TK = np.ones_like(patch_TK)
        if (patch_TK == patch_TK[:, :1]).all():
            patch_TK, count_TK = patch_TK[:, :1], count_TK.sum(axis=1, keepdims=True)
        padding = ((0, 0), (0, patch_TK.shape[1] - 1))
        patch_P1 = np.concatenate([np.pad(patch_P1, padding), patch_TK])
        count_P1 = np.concatenate([np.pad(count_P1, padding), count_TK])
    return torch.from_numpy(patch_P1).to(device), torch.from_numpy(count_P1).double().to(device)
