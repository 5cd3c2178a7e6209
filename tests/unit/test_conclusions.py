"""How often noise is called a result, and whether a result is still seen."""

import math

import numpy as np
import pytest
from scipy import stats  # scikit-learn, of the extra `test`, brings it

from jetmae.metrics import Measurement
from jetmae.report.conclusions import sentence
from jetmae.report.mean_difference import STUDENT_95, mean_difference

NUM_EXPERIMENTS = 2000
SCATTER = 0.01  # of a training's AUC
# 5 % and three standard deviations of a rate over so many experiments: 6.5 %
AT_MOST = 0.05 + 3 * math.sqrt(0.05 * 0.95 / NUM_EXPERIMENTS)


def claimed_share(runs_per_control: list[int], *, test_sigma: float, effect: float = 0.0) -> float:
    """Share of simulated experiments whose sentence says that pretraining changed the AUC.

    The test jets shift all differences of an experiment alike; each training has a scatter of its own, and that of a
    control is common to the runs compared with it.
    """
    random = np.random.default_rng(len(runs_per_control))
    claims = sum(
        "retraining raised" in text or "retraining lowered" in text
        for text in (_experiment(random, runs_per_control, test_sigma, effect) for _ in range(NUM_EXPERIMENTS))
    )
    return claims / NUM_EXPERIMENTS


def _experiment(random: np.random.Generator, runs_per_control: list[int], test_sigma: float, effect: float) -> str:
    shift = effect + random.normal(scale=test_sigma)
    deltas = {}
    for number, num_runs in enumerate(runs_per_control):
        values = shift + random.normal(scale=SCATTER, size=num_runs) - random.normal(scale=SCATTER)
        deltas[f"scratch-{number}"] = [Measurement(value, test_sigma) for value in values.tolist()]
    return sentence("finetune", mean_difference(deltas))


@pytest.mark.parametrize("test_sigma", [1e-6, 0.01, 0.03])
@pytest.mark.parametrize("runs_per_control", [[1, 1], [1, 1, 1], [1] * 5, [5], [3, 2], [2] * 5])
def test_noise_is_called_a_result_in_one_of_twenty_experiments_at_most(
    runs_per_control: list[int], test_sigma: float
) -> None:
    assert claimed_share(runs_per_control, test_sigma=test_sigma) <= AT_MOST


def test_the_rate_of_false_claims_is_five_percent_where_the_test_jets_are_many() -> None:
    assert claimed_share([1] * 5, test_sigma=1e-6) == pytest.approx(0.05, abs=0.015)


def test_an_effect_is_seen() -> None:
    assert claimed_share([1] * 5, test_sigma=0.003, effect=0.05) > 0.95


def test_one_control_is_no_verdict_on_pretraining() -> None:
    five = mean_difference({"scratch": [Measurement(0.05 + 0.001 * n, 0.004) for n in range(5)]})
    assert (five.num_runs, five.num_controls) == (5, 1)
    assert five.delta == pytest.approx((0.052, 0.004))
    text = sentence("finetune", five)
    assert text == (
        "The AUC of the fine-tuned network is higher than that of training from scratch by"
        " +0.0520 ± 0.0040 (5 runs against 1 control)."
    )


def test_the_variance_is_that_of_the_scatter_and_of_the_test_jets() -> None:
    mean = mean_difference({"a": [Measurement(0.01, 0.003)], "b": [Measurement(0.03, 0.005)]})
    assert mean.delta.value == pytest.approx(0.02)
    assert mean.delta.uncertainty == pytest.approx(math.sqrt(0.0002 / 2 + 0.004**2))
    assert mean.half_width == pytest.approx(12.706 * mean.delta.uncertainty)


def test_a_difference_without_an_answer_leaves_none() -> None:
    mean = mean_difference({"a": [Measurement(0.01, 0.003)], "b": [Measurement(math.nan, math.nan)]})
    assert "has no answer" in sentence("probe", mean)


def test_quantiles_are_students() -> None:
    assert pytest.approx([stats.t.ppf(0.975, degrees) for degrees in range(1, 31)], abs=6e-4) == list(STUDENT_95)
