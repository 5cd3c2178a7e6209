"""Metrics against scikit-learn, against brute force, and against the scatter of repeated experiments."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jetmae import metrics

# Few distinct values, so that ties are the rule; without `fill`, which would make most arrays nearly constant.
TIED_SCORES = arrays.arrays(np.float64, 30, elements=st.integers(0, 20).map(lambda n: n / 20), fill=st.nothing())
LABELS = arrays.arrays(np.int8, 30, elements=st.integers(0, 1), fill=st.nothing())


def toy(num_jets: int, seed: int = 0, separation: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian classes of equal share."""
    random = np.random.default_rng(seed)
    labels = np.arange(num_jets) % 2
    return random.normal(size=num_jets) + separation * labels, labels


def has_both(labels: np.ndarray, at_least: int = 1) -> bool:
    return at_least <= labels.sum() <= labels.size - at_least


# --- AUC -------------------------------------------------------------------------------------------------------------


@given(TIED_SCORES, LABELS)
def test_auc_is_the_share_of_pairs_in_the_right_order(scores: np.ndarray, labels: np.ndarray) -> None:
    if not has_both(labels):
        assert np.isnan(metrics.auc(scores, labels))
        return
    pairs = np.subtract.outer(scores[labels == 1], scores[labels == 0])
    assert metrics.auc(scores, labels) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert metrics.auc(scores, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))


def brute_force_delong(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> float:
    """Variance of the difference from the pair matrix, as the paper writes it."""
    kernels = []
    for scores in (first, second):
        pairs = np.subtract.outer(scores[labels == 1], scores[labels == 0])
        kernels.append((pairs > 0) + 0.5 * (pairs == 0))
    variance = 0.0
    for axis in (1, 0):
        placements = np.stack([kernel.mean(axis=axis) for kernel in kernels])
        covariance = np.cov(placements) / placements.shape[1]
        variance += covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return variance


@given(TIED_SCORES, TIED_SCORES, LABELS)
def test_delong_agrees_with_the_pair_matrix(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> None:
    if not has_both(labels, at_least=2):
        return
    difference = metrics.paired_auc_difference(first, second, labels)
    assert difference.value == pytest.approx(metrics.auc(first, labels) - metrics.auc(second, labels), abs=1e-12)
    assert difference.uncertainty**2 == pytest.approx(brute_force_delong(first, second, labels), abs=1e-12)
    constant = np.zeros(labels.size)
    assert metrics.auc_uncertainty(first, labels) ** 2 == pytest.approx(
        brute_force_delong(first, constant, labels), abs=1e-12
    )


def test_auc_uncertainty_is_the_scatter_of_repeated_experiments() -> None:
    experiments = [toy(400, seed) for seed in range(400)]
    scatter = np.std([metrics.auc(*experiment) for experiment in experiments])
    claimed = np.mean([metrics.auc_uncertainty(*experiment) for experiment in experiments])
    assert claimed == pytest.approx(scatter, rel=0.12)


def test_the_same_classifier_twice_differs_by_nothing_and_an_opposite_one_by_more_than_unpaired() -> None:
    scores, labels = toy(300)
    assert metrics.paired_auc_difference(scores, scores, labels) == (0.0, 0.0)
    opposite = metrics.paired_auc_difference(scores, -scores, labels).uncertainty
    assert opposite == pytest.approx(2 * metrics.auc_uncertainty(scores, labels))


# --- accuracy and counts ---------------------------------------------------------------------------------------------


def test_accuracy_and_confusion_agree_with_sklearn() -> None:
    scores, labels = toy(501)
    predicted = scores >= 0.5
    assert metrics.accuracy(scores, labels).value == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert np.array_equal(
        metrics.confusion_counts(scores, labels), sklearn.metrics.confusion_matrix(labels, predicted, labels=[0, 1])
    )


def test_wilson_interval_solves_its_own_equation_and_never_shrinks_to_a_point() -> None:
    for successes, trials in ((0, 20), (7, 20), (20, 20)):
        for bound in metrics.wilson_interval(successes, trials, 1.96):
            distance = abs(successes / trials - bound)
            assert distance == pytest.approx(1.96 * (bound * (1 - bound) / trials) ** 0.5, abs=1e-9)
    assert metrics.accuracy([0.9, 0.1], [1, 0]).uncertainty > 0.1


# --- efficiencies ----------------------------------------------------------------------------------------------------


@given(TIED_SCORES, LABELS)
def test_roc_curve_agrees_with_sklearn(scores: np.ndarray, labels: np.ndarray) -> None:
    if not has_both(labels):
        return
    eps_B, eps_S, threshold = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    curve = metrics.roc_curve(scores, labels)
    np.testing.assert_allclose(curve.signal_efficiency, eps_S, atol=1e-12)
    np.testing.assert_allclose(curve.background_efficiency, eps_B, atol=1e-12)
    np.testing.assert_array_equal(curve.threshold, threshold)


@given(TIED_SCORES, LABELS, st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_background_rejection_is_at_the_tightest_cut_that_keeps_the_signal(
    scores: np.ndarray, labels: np.ndarray, efficiency: float
) -> None:
    if not has_both(labels):
        return
    cuts = [cut for cut in scores if (scores[labels == 1] >= cut).mean() >= efficiency - 1e-9]
    eps_B = (scores[labels == 0] >= max(cuts)).mean()
    expected = 1 / eps_B if eps_B else float("inf")
    assert metrics.background_rejection(scores, labels, efficiency).value == pytest.approx(expected)


@pytest.mark.parametrize("efficiency", [0.3, 0.5])
@pytest.mark.parametrize("signal_share", [0.03, 0.5], ids=["few signal jets: the cut floats", "as many as background"])
def test_rejection_uncertainty_is_the_scatter_of_repeated_experiments(efficiency: float, signal_share: float) -> None:
    labels = (np.arange(5000) < 5000 * signal_share).astype(int)
    scores = np.random.default_rng(0).normal(size=(300, labels.size)) + 1.2 * labels
    values, claimed = np.array([metrics.background_rejection(s, labels, efficiency) for s in scores]).T
    low, high = np.quantile(values, [0.1587, 0.8413])  # a reciprocal has a long tail: its central 68 %
    assert np.median(claimed) == pytest.approx((high - low) / 2, rel=0.2)


def test_rejection_without_background_left_is_infinite_and_has_a_limit() -> None:
    labels = np.array([0] * 300 + [1] * 10)
    rejection = metrics.background_rejection(labels.astype(float), labels, 0.5)
    assert rejection.value == float("inf")
    assert np.isnan(rejection.uncertainty)
    limit = metrics.background_rejection_limit(labels)
    assert (1 - 1 / limit) ** 300 == pytest.approx(0.05, rel=0.02)


def test_calibration_bins_hold_every_jet_once() -> None:
    random = np.random.default_rng(1)
    scores = random.random(20_000)
    scores[:2] = 0.0, 1.0
    labels = (random.random(scores.size) < scores).astype(int)
    bins = metrics.calibration_bins(scores, labels, num_bins=7)
    assert bins.num_jets.sum() == scores.size
    pulls = (bins.signal_fraction - bins.mean_score) / bins.uncertainty
    assert np.abs(pulls).max() < 4
    assert np.all((bins.edges[:-1] <= bins.mean_score) & (bins.mean_score <= bins.edges[1:]))


# --- explained variance ----------------------------------------------------------------------------------------------


def pixel_sums(truth_NCP: np.ndarray, guess_NCP: np.ndarray, mask_NP: np.ndarray) -> tuple[np.ndarray, ...]:
    hidden = mask_NP[:, None]
    squared_error = ((truth_NCP - guess_NCP) ** 2 * hidden).sum(-1)
    return squared_error, (truth_NCP * hidden).sum(-1), (truth_NCP**2 * hidden).sum(-1), mask_NP.sum(-1)


def masked_jets(num_jets: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two channels; the guess knows the jet's own level, the masks differ in size."""
    random = np.random.default_rng(seed)
    level = random.normal(size=(num_jets, 2, 1))
    truth = level + random.normal(size=(num_jets, 2, 40)) * [[0.5], [2.0]] + 5.0
    return truth, level + 5.0 + np.zeros_like(truth), random.random((num_jets, 40)) < random.random((num_jets, 1))


def test_explained_variance_is_the_r2_of_the_masked_pixels() -> None:
    truth, guess, mask = masked_jets(50)
    result = metrics.explained_variance(*pixel_sums(truth, guess, mask))
    for channel in range(2):
        expected = sklearn.metrics.r2_score(truth[:, channel][mask], guess[:, channel][mask])
        assert result.value_C[channel] == pytest.approx(expected)


def test_explained_variance_jackknife_agrees_with_leaving_out_by_hand_and_with_repetition() -> None:
    truth, guess, mask = masked_jets(40)
    sums = pixel_sums(truth, guess, mask)
    left_out = [metrics.explained_variance(*(np.delete(a, i, axis=0) for a in sums)).value_C for i in range(40)]
    by_hand = np.sqrt(39 / 40 * ((left_out - np.mean(left_out, axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(metrics.explained_variance(*sums).uncertainty_C, by_hand)
    repeated = [metrics.explained_variance(*pixel_sums(*masked_jets(100, seed))) for seed in range(150)]
    scatter = np.std([result.value_C for result in repeated], axis=0)
    claimed = np.mean([result.uncertainty_C for result in repeated], axis=0)
    np.testing.assert_allclose(claimed, scatter, rtol=0.2)


def test_a_constant_channel_has_no_explained_variance_whatever_its_offset() -> None:
    truth, guess, mask = masked_jets(20)
    truth[:, 1] = 1234.567
    result = metrics.explained_variance(*pixel_sums(truth, guess, mask))
    assert np.isnan([result.value_C[1], result.uncertainty_C[1]]).all()
    assert np.isfinite([result.value_C[0], result.uncertainty_C[0]]).all()


def test_gain_over_a_reference_is_the_difference_and_knows_that_both_met_the_same_jets() -> None:
    def gain(num_jets: int, seed: int = 0) -> metrics.ChannelMeasurement:
        truth, guess, mask = masked_jets(num_jets, seed)
        sse, *sums = pixel_sums(truth, guess, mask)
        return metrics.explained_variance_gain(sse, pixel_sums(truth, 0.8 * guess + 1.0, mask)[0], *sums)

    truth, guess, mask = masked_jets(50)
    sse, *sums = pixel_sums(truth, guess, mask)
    reference = metrics.explained_variance(*pixel_sums(truth, 0.8 * guess + 1.0, mask))
    separate = metrics.explained_variance(sse, *sums)
    np.testing.assert_allclose(gain(50).value_C, separate.value_C - reference.value_C)
    assert (gain(50).uncertainty_C < 0.5 * separate.uncertainty_C).all()
    repeated = [gain(100, seed) for seed in range(150)]
    scatter = np.std([result.value_C for result in repeated], axis=0)
    np.testing.assert_allclose(np.mean([result.uncertainty_C for result in repeated], axis=0), scatter, rtol=0.2)
    nothing = metrics.explained_variance_gain(sse, sse, *sums)
    assert np.abs([nothing.value_C, nothing.uncertainty_C]).max() < 1e-12


# --- degenerate and wrong input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "labels"),
    [([], []), ([0.2, 0.3], [1, 1]), ([0.2, 0.3], [0, 0]), ([np.nan, 0.3], [0, 1])],
    ids=["empty", "signal only", "background only", "not a number"],
)
def test_degenerate_input_gives_nan_and_no_warning(scores: list, labels: list) -> None:
    labels = np.array(labels, dtype=int)
    assert np.isnan(metrics.auc(scores, labels))
    assert np.isnan(metrics.measure_auc(scores, labels)).all()
    assert np.isnan(metrics.paired_auc_difference(scores, scores, labels)).all()
    assert np.isnan(metrics.background_rejection(scores, labels, 0.3)).all()
    assert np.isnan(metrics.roc_curve(scores, labels).signal_efficiency).all()
    assert np.isnan(metrics.calibration_bins(scores, labels).signal_fraction).any()


def test_no_jets_and_one_jet_have_no_explained_variance_uncertainty() -> None:
    none = metrics.explained_variance(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))
    assert np.isnan(none.value_C).all()
    truth, guess, mask = masked_jets(1)
    one = metrics.explained_variance(*(a[:1] for a in pixel_sums(truth, guess, np.ones_like(mask))))
    assert np.isfinite(one.value_C).all()
    assert np.isnan(one.uncertainty_C).all()
    assert np.isnan(metrics.accuracy([], np.array([], dtype=int))).all()


@pytest.mark.parametrize(("scores", "labels"), [([0.1, 0.2], [1]), ([0.1, 0.2], [1, 2])])
def test_arrays_that_do_not_belong_together_are_refused(scores: list, labels: list) -> None:
    with pytest.raises(ValueError, match="labels"):
        metrics.auc(scores, labels)
