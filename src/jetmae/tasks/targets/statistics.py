"""What the training jets say of patch sums: scales of the losses, and the mean image as a prediction.

Shapes: B jets, L patches, C channels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jetmae.data.patch_sums import PatchSums
from jetmae.tasks.predictors.spaces import SumSpaces

CLIP = 50.0  # scales: a signed sum beyond counts as this much
LEAST = 1e-6  # of a variance, as a share of the largest


@dataclass(frozen=True)
class SumStatistics:
    """Means over jets where a patch is named (L, C), over jets and patches else (C)."""

    spaces: SumSpaces
    log_mean_C: Float[Tensor, " C"]
    log_std_C: Float[Tensor, " C"]
    mean_C: Float[Tensor, " C"]
    signed_std_C: Float[Tensor, " C"]
    log_mean_LC: Float[Tensor, "L C"]
    mean_LC: Float[Tensor, "L C"]
    std_LC: Float[Tensor, "L C"]
    occupied_LC: Float[Tensor, "L C"]
    """fraction of the jets in which there is something"""

    def clipped(self, signed_BLC: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        """Signed sums, those far out as CLIP scales."""
        limit_C = CLIP * self.spaces.scale_C
        return signed_BLC.clamp(-limit_C, limit_C)


def sum_statistics(batches: Iterable[PatchSums], spaces: SumSpaces) -> SumStatistics:
    """Of all jets in the batches; exact up to float64, in the order of the batches."""
    totals: dict[str, Tensor] = {}
    num_jets = 0
    for sums in batches:
        num_jets += len(sums.absolute_BLC)
        for name, values_BLC in _moments(sums, spaces).items():
            part_LC = values_BLC.double().sum(dim=0)
            totals[name] = totals[name] + part_LC if name in totals else part_LC
    mean = {name: total / max(1, num_jets) for name, total in totals.items()}
    log_mean_C, mean_C = mean["log"].mean(0), mean["absolute"].mean(0)
    variance_LC = (mean["absolute_squared"] - mean["absolute"] ** 2).clamp(min=0)
    return SumStatistics(
        spaces=spaces,
        log_mean_C=log_mean_C.float(),
        log_std_C=_std(mean["log_squared"].mean(0) - log_mean_C**2),
        mean_C=mean_C.clamp(min=LEAST).float(),
        signed_std_C=_std(mean["signed_squared"].mean(0)),
        log_mean_LC=mean["log"].float(),
        mean_LC=mean["absolute"].float(),
        std_LC=variance_LC.sqrt().float(),
        occupied_LC=(totals["occupied"] + 0.5).div(num_jets + 1).float(),
    )


def _moments(sums: PatchSums, spaces: SumSpaces) -> dict[str, Tensor]:
    absolute, log = sums.absolute_BLC, spaces.log_sums(sums.absolute_BLC)
    signed = sums.signed_BLC.clamp(-CLIP * spaces.scale_C, CLIP * spaces.scale_C)
    return {
        "absolute": absolute,
        "absolute_squared": absolute.double() ** 2,
        "log": log,
        "log_squared": log**2,
        "signed_squared": signed**2,
        "occupied": absolute > 0,
    }


def _std(variance_C: Tensor) -> Tensor:
    """1 where nothing varies: such a channel becomes 0, not infinite."""
    return torch.where(variance_C > 0, variance_C.clamp(min=0).sqrt(), 1.0).float()
