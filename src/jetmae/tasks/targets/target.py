"""What a target is to the pretraining: a true answer, a loss, and errors that a report can compare.

Shapes: B jets, M asked patches, C channels, P = p * p * C pixel values of a patch, ordered (p, p, C), V predicted
values of a patch, L patches of an image.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from jetmae.data.patch_sums import PatchSums


@dataclass(frozen=True)
class Truth:
    """Of the asked patches: normalised pixels, and sums over their pixels in source units."""

    pixels_BMP: Float[Tensor, "B M P"]
    sums: PatchSums
    """of shape (B, M, C)"""
    asked_BM: Int[Tensor, "B M"] | None = None
    """which patches these are; None: all of an image"""


class Target(ABC):
    """`space` says in words in which space errors are measured; `values` are predicted of each patch."""

    values: int

    def learn(self, batches: Iterable[PatchSums]) -> None:  # noqa: B027 (pixels need nothing)
        """Take what the loss needs to know of training jets."""

    def offset(self) -> Float[Tensor, "L V"]:
        """The prediction of one who knows the mean training jet and nothing else."""
        raise NotImplementedError(f"{type(self).__name__} has no offset")

    @abstractmethod
    def loss(
        self, prediction_BMV: Float[Tensor, "B M V"], truth: Truth, hidden_BMC: Bool[Tensor, "B M C"] | None
    ) -> Float[Tensor, ""]:
        """A scalar in float32; `hidden_BMC` says what counts, None: all."""

    @abstractmethod
    def loss_per_jet(
        self, prediction_BMV: Float[Tensor, "B M V"], truth: Truth, hidden_BMC: Bool[Tensor, "B M C"] | None
    ) -> Float[Tensor, " B"]:
        """Their mean is the loss."""

    @abstractmethod
    def guess(self, prediction_BMV: Float[Tensor, "B M V"]) -> Float[Tensor, "B M values C"]:
        """What is predicted, in the space of the report."""

    @abstractmethod
    def answer(self, truth: Truth) -> Float[Tensor, "B M values C"]:
        """What that is compared with."""

    @abstractmethod
    def to_pixels(self, prediction_BMV: Tensor, truth: Truth) -> Float[Tensor, "B M P"]:
        """The predicted pixels in source units."""

    @abstractmethod
    def space(self) -> str:
        """In words, for the report."""
