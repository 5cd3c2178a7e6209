"""How good is a classifier, how good is a reconstruction, and how sure are we? Pure numpy.

Legend: N jets, C channels. `scores_N` is the predicted probability (any monotonic score) of class 1, the signal;
`labels_N` is 0 (background) or 1 (signal). Efficiencies are fractions, never percent. Uncertainties are one standard
deviation and cover the finite number of test jets only: not the spread over training seeds.

Degenerate input (one class only, no jets, a score that is not a number, a channel without variance) has no answer:
the functions return nan and never warn, so that one empty corner of a report cannot stop the rest of it.
Arrays that do not belong together (different lengths, labels other than 0 and 1) are a mistake: ValueError.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# A channel's spread below this fraction of its sum of squares is rounding noise of float64, not variance.
_RELATIVE_VARIANCE_FLOOR = 1e-12


class Measurement(NamedTuple):
    """A number and its standard deviation; both nan where the input was degenerate."""

    value: float
    uncertainty: float


UNKNOWN = Measurement(float("nan"), float("nan"))


class RocCurve(NamedTuple):
    """Points of the receiver operating characteristic, from the tightest cut (0, 0) to the loosest (1, 1)."""

    signal_efficiency: Floats
    background_efficiency: Floats
    threshold: Floats  # a jet is accepted when its score is >= threshold; the first one is +inf


class CalibrationBins(NamedTuple):
    """Equal-width bins of the score; nan in bins without jets."""

    edges: Floats  # (bins + 1,)
    mean_score: Floats
    signal_fraction: Floats
    uncertainty: Floats  # of the signal fraction, half the width of its Wilson interval
    num_jets: NDArray[np.int64]


class ChannelMeasurement(NamedTuple):
    """One number with its standard deviation per channel, each (C,)."""

    value_C: Floats
    uncertainty_C: Floats


def auc(scores_N: ArrayLike, labels_N: ArrayLike) -> float:
    """Probability that a random signal jet scores above a random background jet, ties counting one half."""
    signal, background = _split(scores_N, labels_N)
    if not _usable(signal, background):
        return float("nan")
    return float(_placements(signal, background)[0].mean())


def auc_uncertainty(scores_N: ArrayLike, labels_N: ArrayLike) -> float:
    """Standard deviation of the AUC; nan with fewer than two jets of a class, 0 when the classes separate fully.

    DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837, through the mid-ranks of Sun and Xu, IEEE Signal
    Processing Letters 21 (2014) 1389, which need N log N instead of N^2 operations.
    """
    signal, background = _split(scores_N, labels_N)
    if not _usable(signal, background, at_least=2):
        return float("nan")
    return _standard_deviation(*_placements(signal, background))


def measure_auc(scores_N: ArrayLike, labels_N: ArrayLike) -> Measurement:
    """AUC with its DeLong standard deviation."""
    return Measurement(auc(scores_N, labels_N), auc_uncertainty(scores_N, labels_N))


def paired_auc_difference(first_scores_N: ArrayLike, second_scores_N: ArrayLike, labels_N: ArrayLike) -> Measurement:
    """AUC of the first classifier minus AUC of the second, scored on the same jets in the same order.

    Both see the same easy and hard jets, so their AUCs are correlated and the difference is known better than either;
    the DeLong covariance takes that into account: the variance of the difference of the placements.
    """
    first = _split(first_scores_N, labels_N)
    second = _split(second_scores_N, labels_N)
    if not (_usable(*first) and _usable(*second)):
        return UNKNOWN
    signal, background = (a - b for a, b in zip(_placements(*first), _placements(*second), strict=True))
    enough = _usable(*first, at_least=2)
    return Measurement(float(signal.mean()), _standard_deviation(signal, background) if enough else float("nan"))


def accuracy(scores_N: ArrayLike, labels_N: ArrayLike, threshold: float = 0.5) -> Measurement:
    """Fraction of jets on the right side of the threshold, with half the width of its Wilson interval."""
    (true_negative, false_positive), (false_negative, true_positive) = confusion_counts(scores_N, labels_N, threshold)
    correct = int(true_negative + true_positive)
    total = correct + int(false_positive + false_negative)
    if total == 0 or np.isnan(np.asarray(scores_N, dtype=np.float64)).any():
        return UNKNOWN
    low, high = wilson_interval(correct, total)
    return Measurement(correct / total, (high - low) / 2)


def wilson_interval(successes: int, trials: int, num_standard_deviations: float = 1.0) -> tuple[float, float]:
    """Interval of a fraction that keeps its meaning, and a width, at 0 % and 100 %; nan without trials.

    Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if trials == 0:
        return float("nan"), float("nan")
    z_squared = num_standard_deviations**2
    centre = (successes + z_squared / 2) / (trials + z_squared)
    spread = successes * (trials - successes) / trials + z_squared / 4
    half_width = num_standard_deviations * spread**0.5 / (trials + z_squared)
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def confusion_counts(scores_N: ArrayLike, labels_N: ArrayLike, threshold: float = 0.5) -> NDArray[np.int64]:
    """Numbers of jets, (2, 2): row = true class, column = predicted class (1 where score >= threshold)."""
    scores, labels = _checked(scores_N, labels_N)
    predicted = (scores >= threshold).astype(np.int64)
    return np.bincount(2 * labels.astype(np.int64) + predicted, minlength=4).reshape(2, 2)


def roc_curve(scores_N: ArrayLike, labels_N: ArrayLike) -> RocCurve:
    """Signal and background efficiency at every distinct score; all nan (one point) without both classes."""
    signal, background = _split(scores_N, labels_N)
    if not _usable(signal, background):
        return RocCurve(*(np.full(1, np.nan) for _ in range(3)))
    threshold = np.unique(np.concatenate([signal, background]))[::-1]
    threshold = np.concatenate([[np.inf], threshold])
    return RocCurve(_efficiency(signal, threshold), _efficiency(background, threshold), threshold)


def background_rejection(scores_N: ArrayLike, labels_N: ArrayLike, signal_efficiency: float) -> Measurement:
    """1 / eps_B at the loosest cut that is needed to keep at least this fraction of the signal.

    The variance of eps_B has two parts: its own binomial one, and that of the cut, which floats with the signal jets
    (Hsieh and Turnbull, Ann. Statist. 24 (1996) 25); for the second the curve's slope is read off over one standard
    deviation of eps_S to either side. No background jet left: (inf, nan); see `background_rejection_limit`.
    """
    signal, background = _split(scores_N, labels_N)
    if not _usable(signal, background):
        return UNKNOWN
    eps_B = _background_efficiency(signal, background, signal_efficiency)
    if eps_B == 0:
        return Measurement(float("inf"), float("nan"))
    eps_S_sigma = (signal_efficiency * (1 - signal_efficiency) / signal.size) ** 0.5
    looser = _background_efficiency(signal, background, min(1.0, signal_efficiency + eps_S_sigma))
    tighter = _background_efficiency(signal, background, max(0.0, signal_efficiency - eps_S_sigma))
    variance = eps_B * (1 - eps_B) / background.size + ((looser - tighter) / 2) ** 2
    return Measurement(1 / eps_B, variance**0.5 / eps_B**2)


def background_rejection_limit(labels_N: ArrayLike) -> float:
    """Lower limit (95 %) on 1 / eps_B where no background jet passed: number of background jets / -ln(0.05)."""
    num_background = int(np.count_nonzero(np.asarray(labels_N) == 0))
    return num_background / -float(np.log(0.05))


def calibration_bins(scores_N: ArrayLike, labels_N: ArrayLike, num_bins: int = 10) -> CalibrationBins:
    """Does a score of 0.8 mean 80 % signal? Scores are probabilities in [0, 1]; jets with a nan score are left out."""
    scores, labels = _checked(scores_N, labels_N)
    scores, labels = scores[~np.isnan(scores)], labels[~np.isnan(scores)]
    index = np.clip((scores * num_bins).astype(np.int64), 0, num_bins - 1)
    count = np.bincount(index, minlength=num_bins)
    num_signal = np.bincount(index, weights=labels, minlength=num_bins)
    intervals = np.array([wilson_interval(s, n) for s, n in zip(num_signal.tolist(), count.tolist(), strict=True)])
    return CalibrationBins(
        edges=np.linspace(0, 1, num_bins + 1),
        mean_score=_ratio(np.bincount(index, weights=scores, minlength=num_bins), count),
        signal_fraction=_ratio(num_signal, count),
        uncertainty=(intervals[:, 1] - intervals[:, 0]) / 2,
        num_jets=count,
    )


def expected_calibration_error(scores_N: ArrayLike, labels_N: ArrayLike) -> Measurement:
    """Mean distance of the bins of `calibration_bins` to the diagonal, each bin by its number of jets.

    Naeini, Cooper and Hauskrecht, AAAI (2015) 2901. 0: every score is the probability of a signal. The uncertainty
    takes the bins' fractions as independent. Finite bins miss the diagonal by chance: the error is biased upwards.
    """
    bins = calibration_bins(scores_N, labels_N)
    some = bins.num_jets > 0
    if not some.any():
        return UNKNOWN
    share = bins.num_jets[some] / bins.num_jets.sum()
    distance = np.abs(bins.mean_score[some] - bins.signal_fraction[some])
    return Measurement(float(share @ distance), float(np.sqrt(((share * bins.uncertainty[some]) ** 2).sum())))


def explained_variance(
    sse_NC: ArrayLike, sum_NC: ArrayLike, sum_of_squares_NC: ArrayLike, count_N: ArrayLike
) -> ChannelMeasurement:
    """1 - squared error / squared deviation from the channel's mean, over all masked pixels of all jets.

    0: no better than the mean of the channel; 1: perfect; negative: worse than the mean.
    Input per jet, summed over its masked pixels: squared error, value, value squared; and the number of those pixels,
    (N, C), or (N,) if every channel has the same. The uncertainty is the delete-one jackknife over jets (pixels of one
    jet are not independent): Efron and Stein, Ann. Statist. 9 (1981) 586. nan for a channel without variance.
    """
    sums = [np.asarray(a, dtype=np.float64) for a in (sse_NC, sum_NC, sum_of_squares_NC)]
    count = np.asarray(count_N, dtype=np.float64)
    sums.append(count if count.ndim == 2 else count[:, None])
    totals = [a.sum(axis=0) for a in sums]
    num_jets = len(sums[0])
    value_C = _explained(*totals)
    without_one_NC = _explained(*(total - a for total, a in zip(totals, sums, strict=True)))
    if num_jets < 2:
        return ChannelMeasurement(value_C, np.full_like(value_C, np.nan))
    # Jets that were never masked carry no pixels: leaving one out changes nothing, and that is right.
    variance_C = (num_jets - 1) * without_one_NC.var(axis=0)
    return ChannelMeasurement(value_C, np.sqrt(variance_C))


def explained_variance_gain(
    sse_NC: ArrayLike, reference_sse_NC: ArrayLike, sum_NC: ArrayLike, sum_of_squares_NC: ArrayLike, count_N: ArrayLike
) -> ChannelMeasurement:
    """Explained variance of one prediction minus that of a reference for the same pixels.

    Both meet the same easy and hard jets, so the difference is known better than either; input and jackknife as in
    `explained_variance`.
    """
    difference_NC = np.asarray(sse_NC, dtype=np.float64) - np.asarray(reference_sse_NC, dtype=np.float64)
    one_more = explained_variance(difference_NC, sum_NC, sum_of_squares_NC, count_N)
    return ChannelMeasurement(one_more.value_C - 1, one_more.uncertainty_C)


def _explained(sse: Floats, total: Floats, sum_of_squares: Floats, count: Floats) -> Floats:
    squared_deviation = sum_of_squares - _ratio(total**2, count)
    has_variance = squared_deviation > _RELATIVE_VARIANCE_FLOOR * sum_of_squares
    explained: Floats = 1 - _ratio(sse, np.where(has_variance, squared_deviation, 0.0))
    return explained


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Quotient, nan where the denominator is 0 or nan, without numpy's warning."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _checked(scores_N: ArrayLike, labels_N: ArrayLike) -> tuple[Floats, NDArray[Any]]:
    scores, labels = np.asarray(scores_N, dtype=np.float64), np.asarray(labels_N)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be two equally long lists of jets")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, found {np.unique(labels)[:5]}")
    return scores, labels


def _split(scores_N: ArrayLike, labels_N: ArrayLike) -> tuple[Floats, Floats]:
    """Scores of signal, scores of background."""
    scores, labels = _checked(scores_N, labels_N)
    return scores[labels == 1], scores[labels == 0]


def _usable(signal: Floats, background: Floats, at_least: int = 1) -> bool:
    enough = min(signal.size, background.size) >= at_least
    return enough and not (np.isnan(signal).any() or np.isnan(background).any())


def _placements(signal: Floats, background: Floats) -> tuple[Floats, Floats]:
    """For each signal jet the share of background below it; for each background jet the share of signal above it."""
    return _share_below(signal, background), 1 - _share_below(background, signal)


def _share_below(scores: Floats, others: Floats) -> Floats:
    """For each score the share of the others below it; equal ones count one half."""
    ordered = np.sort(others)
    num_below = np.searchsorted(ordered, scores, "left")
    num_not_above = np.searchsorted(ordered, scores, "right")
    return (num_below + num_not_above) / (2 * others.size)


def _standard_deviation(signal_placements: Floats, background_placements: Floats) -> float:
    parts = (p.var(ddof=1) / p.size for p in (signal_placements, background_placements))
    return float(np.sqrt(sum(parts)))


def _efficiency(scores: Floats, threshold: Floats) -> Floats:
    """Fraction of the scores >= threshold."""
    return 1 - np.searchsorted(np.sort(scores), threshold, "left") / scores.size


def _background_efficiency(signal: Floats, background: Floats, signal_efficiency: float) -> float:
    # Rounding first: 0.3 * 10 is 3.0000000000000004 in some orders, and must ask for 3 jets, not 4.
    num_kept = max(1, int(np.ceil(round(signal_efficiency * signal.size, 9))))
    cut = np.sort(signal)[-num_kept]
    return float(np.count_nonzero(background >= cut) / background.size)
