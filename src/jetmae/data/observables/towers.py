"""The grid of calorimeter towers that an image is: where each lies, and what is in it.

A tower is 5 x 5 pixels wide, 0.087 in eta and in phi; a pixel is an ECAL crystal, 0.0174 (CMS, JINST 3 (2008) S08004).
The jet's axis is the centre of the image.

Shapes: B jets, C channels, H W image, L towers of a grid or a part of it, row by row.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from jetmae.data.jet_channels import TOWER_PIXELS

TOWER_WIDTH = 0.087
JET_RADIUS_TOWERS = 9.5  # 0.83 in eta and phi: a jet of R = 0.8


@dataclass(frozen=True)
class Towers:
    """Centres of towers, measured from the axis of the jet."""

    eta_L: Float32[Tensor, " L"]
    phi_L: Float32[Tensor, " L"]
    radius_towers_L: Float32[Tensor, " L"]
    """distance from the axis in widths of a tower, so that whole numbers are exact"""

    def in_jet(self) -> Bool[Tensor, " L"]:
        return self.radius_towers_L <= JET_RADIUS_TOWERS

    def of(self, chosen_L: Bool[Tensor, " L"]) -> "Towers":
        """Some of them."""
        return Towers(self.eta_L[chosen_L], self.phi_L[chosen_L], self.radius_towers_L[chosen_L])


@lru_cache(maxsize=4)
def tower_grid_of(height: int, width: int, device: torch.device) -> Towers:
    """All towers of an image of so many pixels."""
    rows, columns = (
        torch.arange(pixels // TOWER_PIXELS, device=device) - (pixels // TOWER_PIXELS - 1) / 2
        for pixels in (height, width)
    )
    row_L, column_L = (side.flatten() for side in torch.meshgrid(rows, columns, indexing="ij"))
    return Towers(row_L * TOWER_WIDTH, column_L * TOWER_WIDTH, (row_L**2 + column_L**2).sqrt())


def tower_sums(images_BCHW: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B C L"]:
    """Sum of abs(value) over the pixels of each tower (B, C, L)."""
    rows_BCHWP = images_BCHW.abs().unflatten(3, (-1, TOWER_PIXELS)).unflatten(2, (-1, TOWER_PIXELS))
    sums_BCL: Tensor = rows_BCHWP.sum(dim=(3, 5)).flatten(2)
    return sums_BCL


def on_pixels(chosen_L: Bool[Tensor, " L"], height: int, width: int) -> Bool[Tensor, "H W"]:
    """Whether a pixel lies in one of the chosen towers (H, W)."""
    grid = chosen_L.view(height // TOWER_PIXELS, width // TOWER_PIXELS)
    return grid.repeat_interleave(TOWER_PIXELS, dim=0).repeat_interleave(TOWER_PIXELS, dim=1)
