"""Simple predictors of hidden patch sums. All expected values are worked out by hand or in another way.

Shapes: B jets, L patches, C channels.
"""

import functools
import math

import numpy as np
import pytest
import sklearn.metrics
import torch

from jetmae import metrics
from jetmae.data.batch import make_batch
from jetmae.data.images import ImageMaker
from jetmae.data.normalisation import Normalisation
from jetmae.data.shards import JetDataset
from jetmae.tasks.predictors import neighbours
from jetmae.tasks.predictors.explained_variance_sums import explained_variance_sums, squared_error
from jetmae.tasks.predictors.mean_image import MeanImagePredictor
from jetmae.tasks.predictors.neighbours import NeighbourFeatures
from jetmae.tasks.predictors.predictors import fit_predictors
from jetmae.tasks.predictors.ridge import (
    ABSOLUTE_PENALTY,
    JETS_AT_ONCE,
    RELATIVE_PENALTY,
    RidgePredictor,
    ridge_weights,
)
from jetmae.tasks.predictors.scaled_mean_image import ScaledMeanImagePredictor
from jetmae.tasks.predictors.spaces import SumSpaces, sum_scales, sum_spaces

CHANNELS, UNITS = ("track_pt", "d0", "ecal"), ("GeV", "cm", "GeV")
GROUPS = (0, 1, 2)
GRID = (6, 7)
PATCHES = GRID[0] * GRID[1]
SPACES = sum_spaces(CHANNELS, UNITS, torch.tensor([1.0, 0.02, 0.3]))


def some_jets(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (B, L, C) with neighbours and channels that resemble each other, a quarter of them 0."""
    generator = torch.Generator().manual_seed(seed)
    level_of_jet_B11 = torch.randn((count, 1, 1), generator=generator)
    level_BLC = level_of_jet_B11 + 0.5 * torch.randn((count, PATCHES, 3), generator=generator)
    signed_BLC = torch.randn((count, PATCHES, 3), generator=generator).sign() * level_BLC.exp() * SPACES.scale_C
    signed_BLC *= torch.rand((count, PATCHES, 3), generator=generator) > 0.25
    return signed_BLC.abs(), signed_BLC


def some_mask(count: int, hidden: float = 0.75, seed: int = 1) -> torch.Tensor:
    return torch.rand((count, PATCHES, 3), generator=torch.Generator().manual_seed(seed)) < hidden


@functools.cache
def fitted() -> dict:
    batch = (*some_jets(200), some_mask(200))
    return fit_predictors(lambda: [batch], SPACES, GRID, GROUPS)


# --- spaces and sums -------------------------------------------------------------------------------------------------


def test_log_sums_are_of_absolute_values_and_sums_keep_the_sign_of_channels_that_have_one():
    absolute_BLC, signed_BLC = torch.tensor([[[2.0, 0.04, 0.9]]]), torch.tensor([[[-2.0, -0.02, -0.9]]])
    truths = SPACES.truths(absolute_BLC, signed_BLC)
    torch.testing.assert_close(truths["log_sums"], torch.tensor([[[math.log(3), math.log(3), math.log(4)]]]))
    torch.testing.assert_close(truths["sums"], torch.tensor([[[2.0, -0.02, 0.9]]]))


def test_a_channel_without_a_known_scale_gets_the_median_of_its_nonzero_sums():
    sums_BLC = torch.tensor([[[0.0, 7.0, 0.0], [0.0, 8.0, 0.0]], [[5.0, 9.0, 0.0], [0.0, 0.0, 0.0]]])
    assert sum_scales(("other", "hcal", "empty"), sums_BLC).tolist() == [5.0, 2.0, 1.0]
    assert sum_scales(("a", "b", "c"), sums_BLC).tolist() == [5.0, 8.0, 1.0]


def test_sums_over_hidden_values_give_the_r2_of_these_values():
    (truth_BLC, _), hidden_BLC = some_jets(30), some_mask(30)[..., :1].expand(-1, -1, 3)
    prediction_BLC = 0.5 * truth_BLC
    sums = explained_variance_sums(truth_BLC, prediction_BLC, hidden_BLC)
    assert torch.equal(sums.count, hidden_BLC.sum(1))
    result = metrics.explained_variance(sums.sse, sums.sum, sums.sum_of_squares, sums.count[:, 0])
    for channel in range(3):
        truth, prediction = (x[..., channel][hidden_BLC[..., channel]] for x in (truth_BLC, prediction_BLC))
        assert result.value_C[channel] == pytest.approx(sklearn.metrics.r2_score(truth, prediction))


# --- mean image ------------------------------------------------------------------------------------------------------


def test_mean_image_is_the_mean_over_all_jets_whatever_the_batches():
    absolute_BLC, signed_BLC = some_jets(9)
    batches = zip(*(x.split(4) for x in (absolute_BLC, signed_BLC, some_mask(9))), strict=True)
    predictor = MeanImagePredictor.fit(batches, SPACES)
    predicted = predictor.predict(*some_jets(2, seed=5), some_mask(2))
    for name, truth_BLC in SPACES.truths(absolute_BLC, signed_BLC).items():
        torch.testing.assert_close(predicted[name], truth_BLC.mean(0).expand(2, -1, -1))
        torch.testing.assert_close(predictor.excess[name], truth_BLC.double().var(0) / 9)


def test_the_mean_of_few_jets_is_scored_as_if_it_were_the_mean_of_all():
    """Its squared error is that of all jets' mean, which is their variance; without the correction 1/5 more."""
    generator = torch.Generator().manual_seed(0)
    jets_BLC = torch.rand((6, 100_000, 3), generator=generator)
    predictor = MeanImagePredictor.fit([(jets_BLC[:5], jets_BLC[:5], jets_BLC[:5] < 0)], SPACES)
    all_hidden_BLC = torch.ones((1, 100_000, 3), dtype=torch.bool)
    errors_BC = [
        squared_error(jets_BLC[5:], predictor.mean["sums"][None], all_hidden_BLC, excess_LC)[:, [0, 2]] / 100_000
        for excess_LC in (predictor.excess["sums"], None)
    ]
    torch.testing.assert_close(errors_BC[0], torch.full((1, 2), 1 / 12).double(), rtol=0.02, atol=0)
    torch.testing.assert_close(errors_BC[1], torch.full((1, 2), 1.2 / 12).double(), rtol=0.02, atol=0)


def test_a_mean_of_no_jets_is_refused():
    with pytest.raises(ValueError, match="no training jets"):
        MeanImagePredictor.fit([], SPACES)


def test_scaled_mean_image_finds_how_large_a_jet_is_from_what_is_visible():
    absolute_BLC, signed_BLC = some_jets(20)
    predictor = ScaledMeanImagePredictor(MeanImagePredictor.fit([(absolute_BLC, signed_BLC, some_mask(20))], SPACES))
    mean_1LC = predictor.mean_image.absolute_LC[None]
    predicted = predictor.predict(3 * mean_1LC, mean_1LC, some_mask(1))
    torch.testing.assert_close(predicted["sums"], 3 * predictor.mean_image.mean["sums"][None])


def test_scaled_mean_image_of_a_channel_that_is_hidden_altogether_goes_by_the_visible_energy():
    absolute_BLC, signed_BLC = some_jets(20)
    mean_image = MeanImagePredictor.fit([(absolute_BLC, signed_BLC, some_mask(20))], SPACES)
    jet_1LC = mean_image.absolute_LC[None] * torch.tensor([2.0, 5.0, 3.0])
    hidden_1LC = torch.zeros((1, PATCHES, 3), dtype=torch.bool)
    hidden_1LC[..., 2] = True

    def ratio_of_ecal() -> torch.Tensor:
        predicted = ScaledMeanImagePredictor(mean_image).predict(jet_1LC, jet_1LC, hidden_1LC)["sums"]
        return (predicted[0] / mean_image.mean["sums"])[:, 2]

    torch.testing.assert_close(ratio_of_ecal(), torch.full((PATCHES,), 2.0))  # as the tracks' energy, d0 is none
    hidden_1LC[..., 0] = True
    torch.testing.assert_close(ratio_of_ecal(), torch.ones(PATCHES))


# --- ridge regression ------------------------------------------------------------------------------------------------


def test_ridge_weights_are_those_of_least_squares_with_the_penalty_as_further_rows():
    generator = torch.Generator().manual_seed(0)
    x_NF, y_NV = (torch.randn((20, columns), generator=generator, dtype=torch.float64) for columns in (4, 2))
    penalty_F = RELATIVE_PENALTY * (x_NF**2).sum(0) + ABSOLUTE_PENALTY
    rows_NF = torch.cat([x_NF, penalty_F.sqrt().diag()])
    expected_FV = torch.linalg.lstsq(rows_NF, torch.cat([y_NV, torch.zeros(4, 2)])).solution
    torch.testing.assert_close(ridge_weights(x_NF.T @ x_NF, x_NF.T @ y_NV), expected_FV)


def test_ridge_learns_for_each_distance_from_the_axis_what_the_other_channel_says():
    """The hidden channel is as large as the visible one on the axis, and 1 minus that elsewhere."""
    visible_BL = torch.rand((400, 7), generator=torch.Generator().manual_seed(0))
    on_axis_L = torch.arange(7) == 3
    sums_BLC = torch.stack([visible_BL, torch.where(on_axis_L, visible_BL, 1 - visible_BL)], dim=-1)
    hidden_BLC = torch.tensor([False, True]).expand(400, 7, 2)
    spaces = SumSpaces(torch.ones(2), torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool))
    batches = [(sums_BLC, sums_BLC, hidden_BLC)]
    mean_image = MeanImagePredictor.fit(batches, spaces)
    predicted = RidgePredictor.fit(batches, mean_image, (1, 7), (0, 1)).predict(*batches[0])
    torch.testing.assert_close(predicted["sums"][..., 1], sums_BLC[..., 1], atol=0.1, rtol=0)


def test_ring_features_are_means_of_the_visible_deviations_around_a_patch():
    absolute_BLC, signed_BLC = some_jets(2)
    hidden_BLC = some_mask(2)
    mean_image = MeanImagePredictor.fit([(absolute_BLC, signed_BLC, hidden_BLC)], SPACES)
    features = NeighbourFeatures(mean_image, GRID, GROUPS)
    deviations_BLV = features.deviations(absolute_BLC, signed_BLC)
    found_BLF = features(deviations_BLV, hidden_BLC)
    assert found_BLF.shape == (2, PATCHES, features.width)
    rings = len(neighbours.RING_EDGES) - 1
    found_BLVR = found_BLF[..., : 7 * rings].view(2, PATCHES, 7, rings)
    for jet, patch, column, ring in np.ndindex(2, PATCHES, 7, rings):
        channel = (0, 1, 2, 0, 1, 2, 1)[column]
        low, high = neighbours.RING_EDGES[ring : ring + 2]
        around = [
            float(deviations_BLV[jet, other, column])
            for other in range(PATCHES)
            if not hidden_BLC[jet, other, channel]
            and low <= math.dist(divmod(patch, GRID[1]), divmod(other, GRID[1])) < high
        ]
        assert float(found_BLVR[jet, patch, column, ring]) == pytest.approx(sum(around) / max(1, len(around)), abs=1e-4)


def test_deviations_can_be_undone():
    absolute_BLC, signed_BLC = some_jets(5)
    mean_image = MeanImagePredictor.fit([(absolute_BLC, signed_BLC, some_mask(5))], SPACES)
    features = NeighbourFeatures(mean_image, GRID, GROUPS)
    signed_BLC = signed_BLC.clamp(-0.1, 0.1)
    again = features.sums(features.deviations(absolute_BLC, signed_BLC))
    for name, truth_BLC in SPACES.truths(absolute_BLC, signed_BLC).items():
        torch.testing.assert_close(again[name], truth_BLC, atol=1e-4, rtol=1e-4)


def test_ridge_beats_the_mean_image_where_neighbours_resemble_each_other():
    predictors = fitted()
    absolute_BLC, signed_BLC = some_jets(100, seed=7)
    hidden_BLC = some_mask(100, seed=8)
    truth_BLC = SPACES.log_sums(absolute_BLC)
    error = {
        name: squared_error(truth_BLC, p.predict(absolute_BLC, signed_BLC, hidden_BLC)["log_sums"], hidden_BLC).sum()
        for name, p in predictors.items()
    }
    assert error["ridge"] < 0.75 * error["mean_image"]
    assert error["ridge"] < error["scaled_mean_image"] < error["mean_image"]


def test_ridge_does_not_depend_on_how_the_jets_come_in_batches():
    count = JETS_AT_ONCE + 30
    batch = (*some_jets(count), some_mask(count))
    mean_image = MeanImagePredictor.fit([batch], SPACES)
    whole = RidgePredictor.fit([batch], mean_image, GRID, GROUPS)
    parts = RidgePredictor.fit(zip(*(x.split(17) for x in batch), strict=True), mean_image, GRID, GROUPS)
    again = RidgePredictor.fit([batch], mean_image, GRID, GROUPS)
    assert torch.equal(whole.weights_KFV, again.weights_KFV)
    torch.testing.assert_close(whole.weights_KFV, parts.weights_KFV, atol=1e-4, rtol=1e-3)
    predicted = whole.predict(*batch)
    for name, one_by_one in whole.predict(*(x[-7:] for x in batch)).items():
        torch.testing.assert_close(predicted[name][-7:], one_by_one, atol=1e-4, rtol=1e-4)


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mean_image", "scaled_mean_image", "ridge"])
@pytest.mark.parametrize("instead", [1e6, math.inf, math.nan])
def test_hidden_values_change_no_prediction(name, instead):
    predictor = fitted()[name]
    jets, hidden_BLC = some_jets(10, seed=3), some_mask(10, seed=4)
    before = predictor.predict(*jets, hidden_BLC)
    after = predictor.predict(*(torch.where(hidden_BLC, instead, x) for x in jets), hidden_BLC)
    for space, predicted_BLC in before.items():
        assert predicted_BLC.shape == (10, PATCHES, 3)
        assert torch.equal(predicted_BLC, after[space])


@pytest.mark.parametrize("name", ["mean_image", "scaled_mean_image", "ridge"])
@pytest.mark.parametrize("hidden", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("trained_hidden", [0.0, 1.0])
def test_empty_jets_and_masks_that_hide_all_or_nothing_have_finite_predictions(name, hidden, trained_hidden):
    batch = (*some_jets(8), some_mask(8, hidden=trained_hidden))
    empty_BLC = torch.zeros(3, PATCHES, 3)
    for training in (batch, (empty_BLC, empty_BLC, some_mask(3))):
        predictor = fit_predictors(lambda jets=training: [jets], SPACES, GRID, GROUPS)[name]
        for absolute_BLC, signed_BLC in (some_jets(3, seed=3), (empty_BLC, empty_BLC)):
            for predicted_BLC in predictor.predict(absolute_BLC, signed_BLC, some_mask(3, hidden)).values():
                assert predicted_BLC.isfinite().all()


# --- real jets -------------------------------------------------------------------------------------------------------


def sums_of_jets(folder, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the first jets of a split, from dense images in source units."""
    dataset = JetDataset(folder, split)
    manifest = dataset.manifest
    channels = len(manifest.channels)
    nothing = Normalisation("none", (1.0,) * channels, (0.0,) * channels, (1.0,) * channels)
    towers = manifest.splits[split][0].tower_channels
    images = ImageMaker(
        manifest.image_shape, nothing, torch.device("cpu"), tower_size=manifest.tower_size, tower_channels=towers
    )
    absolute, signed = [], []
    for ids in np.array_split(np.arange(count), max(1, count // 50)):
        noise = np.zeros((len(ids), 0), dtype=np.float32)
        patches_BCHW = images(make_batch(split, dataset.gather(ids), ids, noise)).unfold(2, 5, 5).unfold(3, 5, 5)
        for sums, values_BCHW in ((absolute, patches_BCHW.abs()), (signed, patches_BCHW)):
            sums.append(values_BCHW.sum((-1, -2)).flatten(2).transpose(1, 2))
    return torch.cat(absolute), torch.cat(signed)


def hidden_in_jets(kind: str, count: int, seed: int) -> torch.Tensor:
    """Three quarters of the patches: whole, or group by group."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "patches":
        order_BL = torch.rand((count, 625), generator=generator).argsort(1).argsort(1)
        return (order_BL >= 156)[..., None].expand(-1, -1, 8)
    return (torch.rand((count, 625, 5), generator=generator) < 0.75)[..., [0, 1, 1, 2, 3, 4, 4, 4]]


@pytest.mark.parametrize(
    ("kind", "training_jets", "mean_image", "ridge"),
    [
        ("patches", 1850, (19, 18, 30, 4), (24, 26, 34, 7)),
        ("patch_groups", 400, (19, 18, 30, 4), (37, 31, 38.5, 10)),
    ],
)
def test_real_jets_are_explained_as_well_as_ridge_regression_has_been_seen_to(
    sample, kind, training_jets, mean_image, ridge
):
    """Percent of the variance of log sums: tracks, ECAL, HCAL, BPIX1; with 3,000 other jets to learn from."""
    train, test = sums_of_jets(sample, "unlabelled_train", training_jets), sums_of_jets(sample, "test", 700)
    manifest = JetDataset(sample, "test").manifest
    spaces = sum_spaces(manifest.channels, manifest.units, sum_scales(manifest.channels, train[0]))
    batch = (*train, hidden_in_jets(kind, training_jets, seed=1))
    groups = [0] * 8 if kind == "patches" else [0, 1, 1, 2, 3, 4, 4, 4]
    predictors = fit_predictors(lambda: [batch], spaces, (25, 25), groups)
    hidden_BLC = hidden_in_jets(kind, 700, seed=2)
    truth_BLC = spaces.log_sums(test[0])
    for name, expected in {"mean_image": mean_image, "ridge": ridge}.items():
        sums = explained_variance_sums(truth_BLC, predictors[name].predict(*test, hidden_BLC)["log_sums"], hidden_BLC)
        total = {key: value.double().sum(0) for key, value in vars(sums).items()}
        explained_C = 1 - total["sse"] / (total["sum_of_squares"] - total["sum"] ** 2 / total["count"])
        np.testing.assert_allclose(100 * explained_C[[0, 3, 4, 5]], expected, atol=2)
