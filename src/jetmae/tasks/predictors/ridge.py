"""Ridge regression of hidden sums on their visible surroundings: the best simple predictor.

One linear model for each class of distance from the jet's axis and each group of channels that is hidden together. A
mask of another kind shows other surroundings, so each kind has a predictor of its own.

Shapes: B jets, L patches, C channels, V deviations, F features, K classes of distance, G groups of channels, N hidden
patches of a class.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from jetmae.tasks.predictors.mean_image import MeanImagePredictor
from jetmae.tasks.predictors.neighbours import NeighbourFeatures
from jetmae.tasks.predictors.spaces import SumsBatch

RELATIVE_PENALTY = 0.01  # of a feature's own sum of squares: features that say the same share their weight
ABSOLUTE_PENALTY = 3.0  # as three patches with features of size 1: what is almost never there has no weight
JETS_AT_ONCE = 50  # 25 MB of features for 625 patches


@dataclass(frozen=True)
class RidgePredictor:
    """Fitted with `fit`."""

    features: NeighbourFeatures
    weights_KFV: Float[Tensor, "K F V"]

    @classmethod
    def fit(
        cls,
        batches: Iterable[SumsBatch],
        mean_image: MeanImagePredictor,
        grid: tuple[int, int],
        group_of_channel: Sequence[int],
    ) -> Self:
        """From training jets with masks like those that are to be predicted.

        `grid` is (rows, columns) of patches. Channels with the same number in `group_of_channel` are always hidden
        together; fewer groups are faster. Sums are added up in float64, so memory does not grow with the jets.
        """
        features = NeighbourFeatures(mean_image, grid, group_of_channel)
        models = (features.classes, len(features.first_of_group), features.width)
        zero = torch.zeros((), dtype=torch.float64, device=mean_image.absolute_LC.device)
        squares_KGFF = zero.new_zeros((*models, features.width))
        products_KGFV = zero.new_zeros((*models, len(features.channel_V)))
        for batch in batches:
            for jets in _parts(*batch):
                _add(squares_KGFF, products_KGFV, features, *jets)
        weights_KGFV = ridge_weights(squares_KGFF, products_KGFV)
        columns_VKF = [weights_KGFV[:, group, :, column] for column, group in enumerate(features.group_V)]
        return cls(features, torch.stack(columns_VKF, dim=-1).float())

    def predict(
        self,
        absolute_BLC: Float[Tensor, "B L C"],
        signed_BLC: Float[Tensor, "B L C"],
        hidden_BLC: Bool[Tensor, "B L C"],
    ) -> dict[str, Float[Tensor, "B L C"]]:
        """In each space; hidden values are not looked at."""
        parts = [self._predicted_deviations(*jets) for jets in _parts(absolute_BLC, signed_BLC, hidden_BLC)]
        return self.features.sums(torch.cat(parts))

    def _predicted_deviations(self, absolute_BLC: Tensor, signed_BLC: Tensor, hidden_BLC: Tensor) -> Tensor:
        deviations_BLV = self.features.deviations(absolute_BLC, signed_BLC)
        features_BLF = self.features(deviations_BLV, hidden_BLC)
        predicted_BLV = torch.empty_like(deviations_BLV)
        for number, weights_FV in enumerate(self.weights_KFV):
            of_class_L = self.features.class_L == number
            predicted_BLV[:, of_class_L] = features_BLF[:, of_class_L] @ weights_FV
        return predicted_BLV


def ridge_weights(squares_FF: Float64[Tensor, "*models F F"], products_FV: Float64[Tensor, "*models F V"]) -> Tensor:
    """Weights (*models, F, V) from X^T X and X^T Y; 0 where both are 0."""
    penalty_F = RELATIVE_PENALTY * squares_FF.diagonal(dim1=-2, dim2=-1) + ABSOLUTE_PENALTY
    weights_FV: Tensor = torch.linalg.solve(squares_FF + penalty_F.diag_embed(), products_FV)
    return weights_FV


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few jets at a time, whose features fit into memory."""
    return zip(*(tensor_BLC.split(JETS_AT_ONCE) for tensor_BLC in tensors), strict=True)


def _add(
    squares_KGFF: Tensor,
    products_KGFV: Tensor,
    features: NeighbourFeatures,
    absolute_BLC: Tensor,
    signed_BLC: Tensor,
    hidden_BLC: Tensor,
) -> None:
    """The hidden patches of some jets to the normal equations, in place."""
    deviations_BLV = features.deviations(absolute_BLC, signed_BLC)
    features_BLF = features(deviations_BLV, hidden_BLC)
    for number in range(features.classes):
        of_class_L = features.class_L == number
        for group, channel in enumerate(features.first_of_group):
            chosen_BL = hidden_BLC[..., channel] & of_class_L
            features_NF, deviations_NV = features_BLF[chosen_BL].double(), deviations_BLV[chosen_BL].double()
            squares_KGFF[number, group] += features_NF.T @ features_NF
            products_KGFV[number, group] += features_NF.T @ deviations_NV
