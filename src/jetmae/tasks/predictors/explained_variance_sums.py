"""Sums over the hidden values of each jet, from which explained variances are made (metrics.py).

Sums, not ratios: they can be added over jets, and the scatter between jets gives the uncertainty.

Shapes: B jets, L patches, C channels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor


@dataclass(frozen=True)
class ExplainedVarianceSums:
    """Per jet and channel, over what is hidden."""

    sse: Float64[Tensor, "B C"]
    """squared error"""
    sum: Float64[Tensor, "B C"]
    """of the truth"""
    sum_of_squares: Float64[Tensor, "B C"]
    """of the truth"""
    count: Int64[Tensor, "B C"]
    """hidden values"""


def explained_variance_sums(
    truth_BLC: Float[Tensor, "B L C"], prediction_BLC: Float[Tensor, "B L C"], hidden_BLC: Bool[Tensor, "B L C"]
) -> ExplainedVarianceSums:
    """All that an explained variance needs of these jets, in float64."""
    hidden_truth_BLC = _where_hidden(truth_BLC.double(), hidden_BLC)
    return ExplainedVarianceSums(
        sse=squared_error(truth_BLC, prediction_BLC, hidden_BLC),
        sum=hidden_truth_BLC.sum(dim=1),
        sum_of_squares=(hidden_truth_BLC**2).sum(dim=1),
        count=hidden_BLC.sum(dim=1),
    )


def squared_error(
    truth_BLC: Float[Tensor, "B L C"],
    prediction_BLC: Float[Tensor, "B L C"],
    hidden_BLC: Bool[Tensor, "B L C"],
    excess_LC: Float[Tensor, "L C"] | None = None,
) -> Float64[Tensor, "B C"]:
    """Summed over what is hidden of each jet, in float64.

    `excess_LC` is subtracted: squared error that is no fault of the prediction (`MeanImagePredictor.excess`).
    """
    error_BLC = (prediction_BLC.double() - truth_BLC.double()) ** 2
    if excess_LC is not None:
        error_BLC = error_BLC - excess_LC
    return _where_hidden(error_BLC, hidden_BLC).sum(dim=1)


def _where_hidden(values_BLC: Tensor, hidden_BLC: Tensor) -> Tensor:
    return torch.where(hidden_BLC, values_BLC, 0.0)
