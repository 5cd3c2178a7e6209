"""The mean image of the training jets, as a prediction for every jet: what a network has to beat.

A network that has learnt the average jet, and nothing of the single one, does no better than that.

Shapes: B jets, L patches, M masked patches, P values of a patch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from jetmae.data.batch import Batch
from jetmae.runtime.world import World


@dataclass(frozen=True)
class MeanImage:
    """`mean_LP` is the mean image cut into targets, `variance_LP` the variance of each of its values."""

    mean_LP: Tensor
    variance_LP: Tensor

    def squared_error(self, target_BMP: Tensor, masked_BM: Tensor) -> Tensor:
        """Of the mean image as the prediction (B, M, P) of the masked patches.

        The mean of n jets misses that of all by 1/n of their variance, which is no fault of a mean image: it is
        subtracted.
        """
        return (self.mean_LP[masked_BM] - target_BMP) ** 2 - self.variance_LP[masked_BM]


def mean_image_of(
    batches: Iterable[Batch], targets_of: Callable[[Batch], Tensor], size: tuple[int, int], world: World
) -> MeanImage:
    """From the jets of all ranks that count; `targets_of` gives all patches (B, L, P), `size` is (L, P). Collective."""
    sums_2LP = torch.zeros((2, *size), dtype=torch.float64, device=world.device)  # of the values and of their squares
    num_jets = torch.zeros((), dtype=torch.int64, device=world.device)
    for batch in batches:
        moved = batch.to(world.device)
        targets_BLP = targets_of(moved)[moved.counts_B].double()
        sums_2LP += torch.stack([targets_BLP.sum(dim=0), (targets_BLP**2).sum(dim=0)])
        num_jets += moved.counts_B.sum()
    num_jets = world.sum(num_jets)
    mean_LP, mean_square_LP = world.sum(sums_2LP) / num_jets
    return MeanImage(mean_LP, (mean_square_LP - mean_LP**2).clamp(min=0) / (num_jets - 1).clamp(min=1))
