"""Random changes of training jets that leave the physics alone: mirrors, and shifts by whole patches.

They move the stored values and never see a dense image. What happens to a jet depends on its noise alone, so that a
resumed run and a run on another number of ranks do the same.

Shapes: B jets, C channels, H rows (eta) and W columns (phi), P places, n stored values, N noise columns. A: the two
axes, rows and columns. M: mirrored or not. S: what can happen along one axis, mirrored or not and then shifted.
"""

from dataclasses import replace
from itertools import product

import torch
from jaxtyping import Float32
from torch import Tensor

from jetmae.data.pixels import SparsePixels
from jetmae.errors import JetmaeError

AXES = (0, 1)
MIRROR_SIGNS = {"d0": (1, -1), "dz": (-1, 1)}
"""By channel name: the factors of its values when the rows and when the columns are mirrored. The others keep theirs.

A mirror in phi turns round the sense in which tracks pass the beam, a mirror in eta the direction of the beam.
"""


class Augmentation:
    """Mirrors jets in eta and in phi, each for half of the jets, and shifts them by up to `shift_patches` each way.

    A call needs `noise_columns` columns of uniform noise in [0, 1): two for mirrors, two for shifts.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: tuple[str, ...],
        device: torch.device,
        *,
        flips: bool,
        shift_patches: int,
        patch_size: int,
        tower_size: int = 0,
    ):
        """`patch_size` and `tower_size` are in pixels; `tower_size` is 0 where no channel is stored per tower.

        Raises:
            JetmaeError: a shift by one patch would cut towers.
        """
        if shift_patches and tower_size and patch_size % tower_size:
            raise JetmaeError(
                f"a shift by whole patches of {patch_size} pixels cuts the data's towers of {tower_size} pixels:"
                f" expected a model.patch_size that divides by {tower_size}; change it, or set augment.shift_patches=0"
            )
        _, height, width = image_shape
        self.flips, self.shift_patches = flips, shift_patches
        self.noise_columns = 2 * flips + 2 * (shift_patches > 0)
        grids = [(height, width, patch_size)]
        if tower_size:
            grids.append((height // tower_size, width // tower_size, patch_size // tower_size))
        self.places = sum(rows * columns for rows, columns, _ in grids)
        self.destination_ASP = torch.stack([_destinations(grids, axis, shift_patches) for axis in AXES]).to(device)
        signs_CA = torch.tensor([MIRROR_SIGNS.get(name, (1, 1)) for name in channels], dtype=torch.float32)
        self.sign_AMC = torch.stack([torch.ones_like(signs_CA.T), signs_CA.T], dim=1).to(device)

    def __call__(self, pixels: SparsePixels, noise_BN: Float32[Tensor, "B N"]) -> SparsePixels:
        """The same jets changed; what a shift moves over the border is gone."""
        if not self.noise_columns:
            return pixels
        mirror_BA, shift_BA = self._mirrors(noise_BN), self._shifts(noise_BN)
        choice_BA = mirror_BA * (2 * self.shift_patches + 1) + shift_BA
        value_n, place_n = pixels.value_n, pixels.place_n
        for axis in AXES:
            place_n = self.destination_ASP[axis, choice_BA[pixels.jet_n, axis], place_n]
            value_n = value_n * self.sign_AMC[axis, mirror_BA[pixels.jet_n, axis], pixels.channel_n]
        moved = replace(pixels, value_n=value_n, place_n=place_n)
        return _where(moved, place_n < self.places) if self.shift_patches else moved

    def _mirrors(self, noise_BN: Tensor) -> Tensor:
        """(B, 2) int64, 1 where a jet is mirrored along an axis."""
        if self.flips:
            return (noise_BN[:, :2] < 0.5).long()
        return torch.zeros((len(noise_BN), 2), dtype=torch.int64, device=noise_BN.device)

    def _shifts(self, noise_BN: Tensor) -> Tensor:
        """(B, 2) int64: 0 to 2 * shift_patches, the middle being no shift."""
        steps = 2 * self.shift_patches + 1
        return (noise_BN[:, -2:] * steps).long().clamp(max=steps - 1)  # float32 may round the product up to `steps`


def _destinations(grids: list[tuple[int, int, int]], axis: int, shift_patches: int) -> Tensor:
    """Where each place goes along one axis, (S, P + 1) int64. Place P is for what has left the image.

    `grids` are pixels and towers: how many rows and columns of them there are, and how many make up a patch's side.
    """
    gone = sum(rows * columns for rows, columns, _ in grids)
    choices = list(product((False, True), range(-shift_patches, shift_patches + 1)))
    parts, first = [], 0
    for rows, columns, patch in grids:
        length, stride = (rows, columns)[axis], (columns, 1)[axis]
        place_P = torch.arange(rows * columns)
        index_P = place_P // stride % length
        moved_SP = torch.stack([(length - 1 - index_P if m else index_P) + s * patch for m, s in choices])
        place_SP = first + place_P + (moved_SP - index_P) * stride
        parts.append(torch.where((moved_SP >= 0) & (moved_SP < length), place_SP, gone))
        first += rows * columns
    return torch.cat([*parts, torch.full((len(choices), 1), gone)], dim=1)


def _where(pixels: SparsePixels, kept_n: Tensor) -> SparsePixels:
    """The stored values for which `kept_n` (n,) is true."""
    return SparsePixels(
        pixels.value_n[kept_n], pixels.jet_n[kept_n], pixels.channel_n[kept_n], pixels.place_n[kept_n], pixels.jets
    )
