"""How much of what was hidden is explained, by the network and by simple predictors that know no single jet, or little.

For each kind of mask, each space and each channel: 1 - squared error / squared deviation from the channel's mean over
hidden values. The uncertainty is a bootstrap over jets, since values of one jet are not independent. All predictors
meet the same drawn jets, so a difference is known better than either of its sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jetmae.metrics import Floats, Measurement, explained_variance
from jetmae.report.bootstrap import drawn_jets
from jetmae.report.evaluation_results import HiddenSums

CLEAR = 3.0  # standard deviations, from which on the network counts as better

MASK_WORDS = {
    "patches": "Patches hidden",
    "patch_groups": "Channel groups of patches hidden",
    "groups": "Whole channel groups hidden",
}
SPACE_WORDS = {"log_sums": "log patch sums", "sums": "patch sums", "pixels": "pixels"}


@dataclass(frozen=True)
class HiddenScore:
    """The result for one kind of mask in one space."""

    mask: str
    space: str
    explained: dict[str, dict[str, Measurement]]  # predictor -> channel; the network is the first
    gain: dict[str, dict[str, Measurement]]  # simple predictor -> channel -> network minus predictor

    @property
    def title(self) -> str:
        return f"{MASK_WORDS[self.mask]}, {SPACE_WORDS[self.space]}"

    def beaten(self, predictor: str) -> list[str]:
        """Channels in which the network is clearly better than a constant and than this predictor."""
        return [
            channel
            for channel, gain in self.gain[predictor].items()
            if _is_clear(gain) and _is_clear(self.explained["network"][channel])
        ]


def hidden_scores(found: Sequence[HiddenSums]) -> list[HiddenScore]:
    return [_score(sums) for sums in found]


def _score(found: HiddenSums) -> HiddenScore:
    totals = {name: _explained(found, sse) for name, sse in found.sse.items()}
    gains = {name: (totals["network"][0] - value, totals["network"][1] - replicates)
             for name, (value, replicates) in totals.items() if name != "network"}  # fmt: skip
    explained, gain = (
        {name: _per_channel(found.channels, *pair) for name, pair in pairs.items()} for pairs in (totals, gains)
    )
    return HiddenScore(found.mask, found.space, explained, gain)


def _explained(found: HiddenSums, sse_NC: Floats) -> tuple[Floats, Floats]:
    """Explained variance (C,), and that of each replicate (R, C)."""
    sums = np.stack([sse_NC, found.sum, found.sum_of_squares, found.count])  # (4, n, C)
    num_jets = sums.shape[1]
    replicates = []
    for drawn in drawn_jets(num_jets):
        times_drawn = np.bincount(drawn, minlength=num_jets).astype(np.float64)
        replicates.append(_of_totals(times_drawn @ sums))
    return _of_totals(sums.sum(axis=1)), np.array(replicates)


def _of_totals(totals_4C: Floats) -> Floats:
    return explained_variance(*totals_4C[:, None]).value_C


def _per_channel(channels: Sequence[str], value_C: Floats, replicates_RC: Floats) -> dict[str, Measurement]:
    sigma_C = replicates_RC.std(axis=0, ddof=1)
    pairs = zip(value_C.tolist(), sigma_C.tolist(), strict=True)
    return dict(zip(channels, (Measurement(*pair) for pair in pairs), strict=True))


def _is_clear(measured: Measurement) -> bool:
    return measured.value >= CLEAR * measured.uncertainty and measured.value > 0


def verdict(score: HiddenScore) -> str:
    """In how many channels the network is better than each simple predictor."""
    channels = [name for name, measured in score.explained["network"].items() if not np.isnan(measured.value)]
    parts = [f"than the {predictor} in {_counted(score.beaten(predictor), channels)}" for predictor in score.gain]
    if not parts or not channels:
        return ""
    return f"{score.title}: by {CLEAR:.0f} standard deviations or more, the network is better {', '.join(parts)}."


def _counted(beaten: Sequence[str], channels: Sequence[str]) -> str:
    """`6 of 8 channels (not d0, dz)`, or the names of those that are beaten where they are fewer."""
    others = [channel for channel in channels if channel not in beaten]
    few = f"not {', '.join(others)}" if len(others) <= len(beaten) else ", ".join(beaten)
    return f"{len(beaten)} of {len(channels)} channels" + (f" ({few})" if beaten and others else "")
