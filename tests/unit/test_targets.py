"""Losses of patch sums against their formulas, and what the mean image predicts."""

import math

import pytest
import torch

from jetmae.data.images import ImageMaker
from jetmae.data.normalisation import Normalisation
from jetmae.data.patch_sums import PatchSums
from jetmae.tasks.predictors.spaces import sum_spaces
from jetmae.tasks.targets.sums import SumsTarget
from jetmae.tasks.targets.target import Truth

IMAGES = ImageMaker((2, 15, 15), Normalisation("none", (1.0,) * 2, (0.0,) * 2, (1.0,) * 2), torch.device("cpu"))
ALL = ("log_sums", "tweedie_sums", "occupancy", "raw_sums", "signed_sums")
SCALES = torch.tensor([1.0, 0.02])
SPACES = sum_spaces(("track_pt", "d0"), ("GeV", "cm"), SCALES)


def some_sums(jets: int = 60, seed: int = 0) -> PatchSums:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(jets, 9, 2, generator=generator).exp() * (torch.rand(jets, 9, 2, generator=generator) < 0.5)
    signed = values.clone()
    signed[..., 1] *= torch.where(torch.rand(jets, 9, generator=generator) < 0.5, -1.0, 1.0)
    return PatchSums(values, signed)


def target_of(*names: str) -> SumsTarget:
    target = SumsTarget(
        dict.fromkeys(names, 1.0),
        spaces=SPACES,
        images=IMAGES,
        patch_pixels=25,
        hidden_fraction=1.0,
    )
    target.learn([some_sums(30), some_sums(30, seed=1)])
    return target


def truth_of(sums: PatchSums) -> Truth:
    return Truth(torch.zeros(len(sums.absolute_BLC), 9, 50), sums)


def test_learning_in_parts_is_learning_at_once():
    target, whole = target_of("log_sums"), target_of("log_sums")
    parts = [some_sums(30), some_sums(30, seed=1)]
    whole.learn([PatchSums(*(torch.cat([getattr(p, n) for p in parts]) for n in ("absolute_BLC", "signed_BLC")))])
    for name, value in vars(target.statistics).items():
        if name == "spaces":
            continue
        assert torch.allclose(value.float(), getattr(whole.statistics, name).float(), atol=1e-6), name


@pytest.mark.parametrize("name", ALL)
def test_the_true_answer_has_the_least_loss(name):
    target, sums = target_of(name), some_sums(4, seed=3)
    known, log_sum = target.statistics, torch.log1p(sums.absolute_BLC / SCALES)
    best = {
        "log_sums": (log_sum - known.log_mean_C) / known.log_std_C,
        "tweedie_sums": (sums.absolute_BLC / known.mean_C).clamp(min=1e-9).log(),
        "raw_sums": (sums.absolute_BLC / known.mean_C).clamp(min=1e-9).log(),
        "occupancy": torch.where(sums.absolute_BLC > 0, 9.0, -9.0),
        "signed_sums": known.clipped(sums.signed_BLC) / known.signed_std_C,
    }[name]
    least = target.loss(best, truth_of(sums), None)
    for change in (-0.3, 0.3):
        other = best * (1 - abs(change)) if name == "occupancy" else best + change
        assert target.loss(other, truth_of(sums), None) >= least
    if name in ("log_sums", "occupancy"):
        assert least.item() == pytest.approx(0, abs=1e-3)


def test_the_best_constant_of_tweedie_is_the_mean():
    target, sums = target_of("tweedie_sums"), some_sums()
    mean = (sums.absolute_BLC.mean((0, 1)) / target.statistics.mean_C).log()
    losses = [target.loss((mean + shift).expand(60, 9, 2), truth_of(sums), None).item() for shift in (-0.05, 0, 0.05)]
    assert losses[1] == min(losses)


def test_only_what_is_hidden_counts():
    target, sums = target_of(*ALL), some_sums(3, seed=5)
    hidden = torch.zeros(3, 9, 2, dtype=torch.bool)
    hidden[:, :4] = True
    prediction = torch.randn(3, 9, target.values)
    changed = PatchSums(sums.absolute_BLC.clone(), sums.signed_BLC.clone())
    changed.absolute_BLC[:, 4:] += 7
    changed.signed_BLC[:, 4:] += 7
    assert torch.equal(
        target.loss(prediction, truth_of(sums), hidden), target.loss(prediction, truth_of(changed), hidden)
    )
    assert target.loss(prediction, truth_of(sums), torch.zeros_like(hidden)) == 0


def test_the_loss_of_a_batch_is_the_mean_of_its_parts():
    target, sums = target_of(*ALL), some_sums(6, seed=5)
    hidden, prediction = torch.rand(6, 9, 2) < torch.rand(6, 1, 1), torch.randn(6, 9, target.values)
    parts = []
    for two in (slice(0, 2), slice(2, 4), slice(4, 6)):
        truth = truth_of(PatchSums(sums.absolute_BLC[two], sums.signed_BLC[two]))
        parts.append(target.loss(prediction[two], truth, hidden[two]))
    assert target.loss(prediction, truth_of(sums), hidden).item() == pytest.approx(torch.stack(parts).mean().item())


def test_the_offset_is_the_mean_image():
    target, sums = target_of(*ALL), some_sums()
    expected = target.expected(target.offset().expand(2, -1, -1))
    both = [some_sums(30), some_sums(30, seed=1)]
    absolute = torch.cat([part.absolute_BLC for part in both])
    assert torch.allclose(expected["log_sums"][0], torch.log1p(absolute / SCALES).mean(0), atol=1e-5)
    assert torch.allclose(expected["sums"][0, :, 0], absolute.mean(0)[:, 0], rtol=1e-4)
    assert expected["sums"][0, :, 1].abs().max() == 0  # d0 has either sign
    assert (
        target.guess(target.offset().expand(60, -1, -1)).shape == target.answer(truth_of(sums)).shape == (60, 9, 1, 2)
    )


def test_pixels_of_a_patch_share_its_sum():
    target, sums = target_of("log_sums", "tweedie_sums"), some_sums(1)
    prediction = torch.zeros(1, 9, target.values)
    pixels = target.to_pixels(prediction, truth_of(sums)).unflatten(-1, (25, 2))
    assert torch.allclose(pixels.sum(2), target.statistics.mean_C.expand(1, 9, 2), rtol=1e-5)
    assert pixels.std(2).max() < 1e-6


def test_a_channel_without_anything_stays_finite():
    sums = PatchSums(torch.zeros(5, 9, 2), torch.zeros(5, 9, 2))
    target = SumsTarget(dict.fromkeys(ALL, 1.0), spaces=SPACES, images=IMAGES, patch_pixels=25, hidden_fraction=0.5)
    target.learn([sums])
    prediction = target.offset().expand(5, -1, -1)
    loss = target.loss(prediction, truth_of(sums), torch.ones(5, 9, 2, dtype=torch.bool))
    assert math.isfinite(loss)


@pytest.mark.parametrize("name", [*ALL, "pixels"])
def test_each_target_alone_says_sums_and_pixels(name):
    target, sums = target_of(name), some_sums(3)
    prediction = torch.randn(3, 9, target.values)
    assert target.expected(prediction)["sums"].shape == (3, 9, 2)
    assert target.guess(prediction).shape == target.answer(truth_of(sums)).shape == (3, 9, 1, 2)
    assert target.to_pixels(prediction, truth_of(sums)).shape == (3, 9, 50)
    assert math.isfinite(target.loss(prediction, truth_of(sums), None))


def test_pixels_say_their_own_sum():
    target = target_of("pixels")
    prediction = torch.randn(2, 9, 50)
    expected = prediction.unflatten(-1, (25, 2)).sum(2)
    assert torch.allclose(target.expected(prediction)["sums"], expected, atol=1e-5)
