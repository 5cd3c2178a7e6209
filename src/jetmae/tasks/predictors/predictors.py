"""All simple predictors at once, for masks of one kind.

Shapes: B jets, L patches, C channels.
"""

from collections.abc import Callable, Iterable, Sequence

from jetmae.tasks.predictors.mean_image import MeanImagePredictor
from jetmae.tasks.predictors.ridge import RidgePredictor
from jetmae.tasks.predictors.scaled_mean_image import ScaledMeanImagePredictor
from jetmae.tasks.predictors.spaces import SumsBatch, SumSpaces

Predictor = MeanImagePredictor | ScaledMeanImagePredictor | RidgePredictor


def fit_predictors(
    batches: Callable[[], Iterable[SumsBatch]],
    spaces: SumSpaces,
    grid: tuple[int, int],
    group_of_channel: Sequence[int],
) -> dict[str, Predictor]:
    """By the names they have in results. `batches` gives the same training jets, twice; see `RidgePredictor.fit`."""
    mean_image = MeanImagePredictor.fit(batches(), spaces)
    return {
        "mean_image": mean_image,
        "scaled_mean_image": ScaledMeanImagePredictor(mean_image),
        "ridge": RidgePredictor.fit(batches(), mean_image, grid, group_of_channel),
    }
