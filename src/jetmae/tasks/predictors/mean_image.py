"""The mean training jet as a prediction for every jet.

A network that has learnt the average jet, and nothing of the single one, does no better than that.

Shapes: B jets, L patches, C channels.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jetmae.tasks.predictors.spaces import SumsBatch, SumSpaces


@dataclass(frozen=True)
class MeanImagePredictor:
    """Fitted with `fit`."""

    spaces: SumSpaces
    mean: Mapping[str, Float[Tensor, "L C"]]
    """of each space; float32"""
    excess: Mapping[str, Float[Tensor, "L C"]]
    """The mean of n jets misses that of all jets by 1/n of their variance. That much of each squared error is no fault
    of a mean image; float64."""
    absolute_LC: Float[Tensor, "L C"]
    """mean sums of absolute values, of signed channels too; float32"""

    @classmethod
    def fit(cls, batches: Iterable[SumsBatch], spaces: SumSpaces) -> Self:
        """From whole training jets, which must not be among those that are predicted; what is hidden does not matter.

        Raises:
            ValueError: there is no jet.
        """
        sums: dict[str, Tensor] = {}
        num_jets = 0
        for absolute_BLC, signed_BLC, _ in batches:
            values = {"absolute": absolute_BLC, **spaces.truths(absolute_BLC, signed_BLC)}
            for name, values_BLC in values.items():
                exact_BLC = values_BLC.double()
                moments_2LC = torch.stack([exact_BLC.sum(dim=0), (exact_BLC**2).sum(dim=0)])
                sums[name] = sums.get(name, 0) + moments_2LC
            num_jets += len(absolute_BLC)
        if not num_jets:
            raise ValueError("no training jets: expected at least one to make a mean image of")
        means = {name: moments_2LC[0] / num_jets for name, moments_2LC in sums.items()}
        squares = {name: moments_2LC[1] / num_jets for name, moments_2LC in sums.items()}
        excess = {
            name: (squares[name] - mean_LC**2).clamp(min=0) / max(1, num_jets - 1) for name, mean_LC in means.items()
        }
        absolute_LC = means.pop("absolute").float()
        excess.pop("absolute")
        return cls(spaces, {name: mean_LC.float() for name, mean_LC in means.items()}, excess, absolute_LC)

    def predict(
        self,
        absolute_BLC: Float[Tensor, "B L C"],
        signed_BLC: Float[Tensor, "B L C"],
        hidden_BLC: Bool[Tensor, "B L C"],
    ) -> dict[str, Float[Tensor, "B L C"]]:
        """The same for every jet, in each space."""
        return {name: mean_LC.expand_as(absolute_BLC) for name, mean_LC in self.mean.items()}
