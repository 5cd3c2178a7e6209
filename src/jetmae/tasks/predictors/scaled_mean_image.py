"""The mean training jet, made as large as the visible part of a jet says.

Where three quarters of the patches are hidden it is worse than the mean image as it is: a few patches hold most of a
jet, and how large the jet seems depends on whether these are visible (benchmarks/predictors.py).

Shapes: B jets, L patches, C channels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jetmae.tasks.predictors.mean_image import MeanImagePredictor


@dataclass(frozen=True)
class ScaledMeanImagePredictor:
    """The mean image times (visible sum of the jet) / (visible sum of the mean image), channel by channel.

    A channel of which nothing is visible takes the ratio of the visible energy of all channels in GeV; if there is
    none either, the ratio is 1. Signed sums take the ratio of the absolute ones.
    """

    mean_image: MeanImagePredictor

    def predict(
        self,
        absolute_BLC: Float[Tensor, "B L C"],
        signed_BLC: Float[Tensor, "B L C"],
        hidden_BLC: Bool[Tensor, "B L C"],
    ) -> dict[str, Float[Tensor, "B L C"]]:
        """In each space; hidden values are not looked at."""
        mean, log_sums_BLC = self.mean_image.mean, self.mean_image.spaces.log_sums(absolute_BLC)
        ratio_BC = {
            "log_sums": self._ratio(log_sums_BLC, mean["log_sums"], hidden_BLC),
            "sums": self._ratio(absolute_BLC, self.mean_image.absolute_LC, hidden_BLC),
        }
        return {name: ratio_BC[name][:, None] * mean_LC for name, mean_LC in mean.items()}

    def _ratio(self, values_BLC: Tensor, mean_LC: Tensor, hidden_BLC: Tensor) -> Tensor:
        """(B, C)."""
        of_jet_BC = torch.where(hidden_BLC, 0.0, values_BLC).sum(dim=1)
        of_mean_BC = torch.where(hidden_BLC, 0.0, mean_LC).sum(dim=1)
        is_energy_C = self.mean_image.spaces.is_energy_C
        energy_B1, mean_energy_B1 = (x[:, is_energy_C].sum(dim=1, keepdim=True) for x in (of_jet_BC, of_mean_BC))
        by_energy_B1 = _quotient(energy_B1, mean_energy_B1, otherwise=torch.ones_like(energy_B1))
        return _quotient(of_jet_BC, of_mean_BC, otherwise=by_energy_B1)


def _quotient(numerator: Tensor, denominator: Tensor, otherwise: Tensor) -> Tensor:
    """`otherwise` where the denominator is 0."""
    known = denominator > 0
    return torch.where(known, numerator / torch.where(known, denominator, 1.0), otherwise)
