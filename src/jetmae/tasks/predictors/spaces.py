"""The spaces in which predictions of patch sums are compared.

    log_sums   log(1 + S / scale), S the sum of absolute values: every energy counts
    sums       S itself, the hardest patches count; the signed sum for channels that have a sign

Shapes: B jets, L patches (row by row), C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SumsBatch = tuple[Tensor, Tensor, Tensor]
"""Of some jets, each (B, L, C): sums of absolute values and of values in source units, and what is hidden (bool)."""

SIGNED = ("d0", "dz")
SCALES = {"track_pt": 1.0, "d0": 0.02, "dz": 1.0, "ecal": 0.3, "hcal": 2.0, "bpix1": 1.0, "bpix2": 1.0, "bpix3": 1.0}
"""Of sums, in source units (GeV, cm, hits): about one deposit, that of a hadron calorimeter one tower."""


@dataclass(frozen=True)
class SumSpaces:
    """What the spaces need to know of each channel."""

    scale_C: Float[Tensor, " C"]
    """where log_sums turn from linear to logarithmic, in source units"""
    is_signed_C: Bool[Tensor, " C"]
    is_energy_C: Bool[Tensor, " C"]
    """channels in GeV; their sums may be added"""

    def log_sums(self, absolute_BLC: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        """log(1 + S / scale)."""
        return torch.log1p(absolute_BLC / self.scale_C)

    def truths(
        self, absolute_BLC: Float[Tensor, "B L C"], signed_BLC: Float[Tensor, "B L C"]
    ) -> dict[str, Float[Tensor, "B L C"]]:
        """The sums in each space, by its name."""
        sums_BLC = torch.where(self.is_signed_C, signed_BLC, absolute_BLC)
        return {"log_sums": self.log_sums(absolute_BLC), "sums": sums_BLC}


def sum_spaces(channels: Sequence[str], units: Sequence[str], scale_C: Float[Tensor, " C"]) -> SumSpaces:
    """For channels of these names and units, on the device of `scale_C`."""
    device = scale_C.device
    return SumSpaces(
        scale_C=scale_C,
        is_signed_C=torch.tensor([name in SIGNED for name in channels], device=device),
        is_energy_C=torch.tensor([unit == "GeV" for unit in units], device=device),
    )


def sum_scales(channels: Sequence[str], absolute_BLC: Float[Tensor, "B L C"]) -> Float[Tensor, " C"]:
    """The scale of each channel: that of its name, else the median of the non-zero sums of these jets, or 1."""
    return torch.stack(
        [
            absolute_BLC.new_tensor(SCALES[name]) if name in SCALES else _median(absolute_BLC[..., channel])
            for channel, name in enumerate(channels)
        ]
    )


def _median(sums_BL: Tensor) -> Tensor:
    nonzero = sums_BL[sums_BL > 0]
    return nonzero.median() if len(nonzero) else sums_BL.new_ones(())
