"""Explained variance by kind of mask and by space, beside what simple predictors reach: the columns of a report.

Shapes: B jets, L patches, C channels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from jetmae.data.patch_sums import PatchSums
from jetmae.tasks.masking import Masking
from jetmae.tasks.predictors.explained_variance_sums import explained_variance_sums, squared_error
from jetmae.tasks.predictors.mean_image import MeanImagePredictor
from jetmae.tasks.predictors.predictors import Predictor, fit_predictors
from jetmae.tasks.predictors.spaces import SumsBatch, SumSpaces

MaskedSums = Iterable[tuple[PatchSums, Tensor]]
"""Jets and the noise of their masks, batch by batch."""
BySpace = Mapping[str, Tensor]


@dataclass(frozen=True)
class MaskTables:
    """Simple predictors by kind of mask and by name, fitted to training jets."""

    spaces: SumSpaces
    maskings: dict[str, Masking]
    group_of_channel: list[int]
    predictors: dict[str, dict[str, Predictor]]

    def hidden(self, kind: str, noise_BN: Tensor) -> Tensor:
        """What a mask hides (B, L, C)."""
        return self.maskings[kind](noise_BN)[..., self.group_of_channel]

    def columns(
        self, kind: str, sums: PatchSums, hidden_BLC: Tensor, predicted: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Per jet and channel (B, C), named `<kind>/<space>/<what>`, for each space in which a network predicts."""
        truths = self.spaces.truths(sums.absolute_BLC, sums.signed_BLC)
        columns: dict[str, Tensor] = {}
        simple = self._simple(kind, sums, hidden_BLC)
        for space, predicted_BLC in predicted.items():
            truth_BLC = truths[space]
            found = vars(explained_variance_sums(truth_BLC, predicted_BLC, hidden_BLC))
            for name, (guess, excess) in simple.items():
                found[f"sse_of_{name}"] = squared_error(truth_BLC, guess[space], hidden_BLC, excess.get(space))
            columns |= {f"{kind}/{space}/{name}": values_BC for name, values_BC in found.items()}
        return columns

    def _simple(self, kind: str, sums: PatchSums, hidden_BLC: Tensor) -> dict[str, tuple[BySpace, BySpace]]:
        """What each simple predictor predicts, and the part of its squared error that is no fault of it."""
        given = (sums.absolute_BLC, sums.signed_BLC, hidden_BLC)
        return {
            name: (predictor.predict(*given), predictor.excess if isinstance(predictor, MeanImagePredictor) else {})
            for name, predictor in self.predictors[kind].items()
        }


def fit_mask_tables(
    jets: Callable[[], MaskedSums],
    spaces: SumSpaces,
    masking: Masking,
    group_of_channel: list[int],
    grid: tuple[int, int],
) -> MaskTables:
    """From training jets, which are read twice for each kind of mask. The first mask of a kind stands for it."""
    maskings: dict[str, Masking] = {}
    for mask in masking.masks:
        maskings.setdefault(mask.kind, masking.only(mask))

    def masked(one: Masking) -> Iterator[SumsBatch]:
        for sums, noise_BN in jets():
            yield sums.absolute_BLC, sums.signed_BLC, one(noise_BN)[..., group_of_channel]

    # Whole patches hide all channels alike: one model for all of them is the same, and faster.
    groups = {kind: [0] * len(group_of_channel) if kind == "patches" else group_of_channel for kind in maskings}
    predictors = {
        kind: fit_predictors(partial(masked, one), spaces, grid, groups[kind]) for kind, one in maskings.items()
    }
    return MaskTables(spaces, maskings, group_of_channel, predictors)
