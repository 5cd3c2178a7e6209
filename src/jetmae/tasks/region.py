"""Which part of a jet a classifier looks at: the patches near the axis, and of these, if so asked, the occupied ones.

Shapes: B jets, L patches, C channels.
"""

import torch
from torch import Tensor

from jetmae.config import Experiment
from jetmae.data.patch_sums import PatchSums
from jetmae.model.tokens import Tokens, distance_from_centre, tokens_of
from jetmae.tasks.task import Jets, TaskContext

ENERGY_UNIT = "GeV"


class Region:
    """Calling it gives what a `Classifier` is called with: images, tokens, and the energy of each patch."""

    def __init__(self, experiment: Experiment, context: TaskContext):
        distance_L = distance_from_centre(*context.grid)
        self.num_patches, radius = len(distance_L), experiment.data.crop_patches
        self.near_L = None if radius is None else (distance_L <= radius).to(context.world.device)
        self.occupied_alone = experiment.model.tokens == "occupied"
        self.drop = experiment.augment.drop_tokens
        self.has_energy_C = torch.tensor([unit == ENERGY_UNIT for unit in context.units], device=context.world.device)

    def __call__(self, jets: Jets, drop_noise_BL: Tensor | None = None) -> tuple[Tensor, Tokens | None, Tensor]:
        """`drop_noise_BL` is uniform; without it no patch is left out at random."""
        energy_BL = (jets.sums.absolute_BLC * self.has_energy_C).sum(dim=2)
        return jets.images_BCHW, self.tokens(jets.sums, drop_noise_BL), energy_BL

    def tokens(self, sums: PatchSums, drop_noise_BL: Tensor | None = None) -> Tokens | None:
        """None: all patches."""
        if self.near_L is None and not self.occupied_alone and drop_noise_BL is None:
            return None
        occupied_BL = (sums.absolute_BLC > 0).any(dim=2)
        wanted_BL = occupied_BL if self.occupied_alone else torch.ones_like(occupied_BL)
        if self.near_L is not None:
            wanted_BL = wanted_BL & self.near_L
        if drop_noise_BL is not None:
            wanted_BL = wanted_BL & (drop_noise_BL >= self.drop)
        return tokens_of(wanted_BL)
