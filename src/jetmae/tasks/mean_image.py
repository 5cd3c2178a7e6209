"""The mean image of the training jets, as a prediction for every jet: what a network has to beat.

A network that has learnt the average jet, and nothing of the single one, does no better than that.

Shapes: B jets, L patches, M asked patches, C channels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from jetmae.data.batch import Batch
from jetmae.runtime.world import World


@dataclass(frozen=True)
class MeanImage:
    """`mean_LVC` is the mean of the targets' values of each patch and channel, `variance_LVC` their variance."""

    mean_LVC: Tensor
    variance_LVC: Tensor

    def squared_error(self, target_BMVC: Tensor, asked_BM: Tensor | None) -> Tensor:
        """Of the mean image as the prediction (B, M, values, C) of the asked patches; None: of all.

        The mean of n jets misses that of all by 1/n of their variance, which is no fault of a mean image: it is
        subtracted.
        """
        if asked_BM is None:
            return (self.mean_LVC - target_BMVC) ** 2 - self.variance_LVC
        return (self.mean_LVC[asked_BM] - target_BMVC) ** 2 - self.variance_LVC[asked_BM]


def mean_image_of(batches: Iterable[Batch], targets_of: Callable[[Batch], Tensor], world: World) -> MeanImage:
    """From the jets of all ranks that count; `targets_of` gives all patches (B, L, values, C). Collective."""
    sums: Tensor | None = None  # of the values and of their squares
    num_jets = torch.zeros((), dtype=torch.int64, device=world.device)
    for batch in batches:
        targets_BLVC = targets_of(batch)[batch.counts_B.to(world.device)].double()
        part = torch.stack([targets_BLVC.sum(dim=0), (targets_BLVC**2).sum(dim=0)])
        sums = part if sums is None else sums + part
        num_jets += batch.counts_B.sum().to(world.device)
    if sums is None:
        raise ValueError("no training jets: there is no mean image")
    num_jets = world.sum(num_jets)
    mean_LVC, mean_square_LVC = world.sum(sums) / num_jets
    return MeanImage(mean_LVC, (mean_square_LVC - mean_LVC**2).clamp(min=0) / (num_jets - 1).clamp(min=1))
