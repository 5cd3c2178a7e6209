"""The mean difference of AUCs over several pairs of runs, and how sure one can be of it.

A mean over n pairs of runs with their controls (`controls.py`) has the variance s^2 / n + sigma_test^2:

- s is the scatter between the pairs, of n *different* controls: runs that share a control share its luck, so their
  differences are first averaged into one.
- sigma_test is the mean of the pairs' own DeLong uncertainties. All pairs are scored on the same jets, and what these
  happen to be shifts every difference alike: it neither shows in s nor shrinks with n. The standard deviation of a mean
  is at most the mean of the standard deviations, reached when all errors go together, so this is an upper bound.

The 95 % interval is by Student's t with n - 1 degrees of freedom (Student, Biometrika 6 (1908) 1).

Pretrainings of the same settings but other seeds are averaged likewise. Where P pretrainings have met the same
controls, the scatter between the means per pretraining makes a variance of its own. It is added, and so is the square
of its own interval, with P - 1 degrees of freedom. All seeds of a chain start from one pretraining, whose scatter is in
no number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from jetmae.metrics import Measurement
from jetmae.report.pairs import Pair

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; the last stands for more, a little too wide.
STUDENT_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL_95 = 1.960


@dataclass(frozen=True)
class MeanDifference:
    """Mean AUC difference of runs to their controls."""

    delta: Measurement
    num_runs: int
    num_controls: int  # different ones: so many independent differences
    num_pretrainings: int = 1
    pretraining_sigma: float = 0.0  # the part of the uncertainty that several pretrainings show

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval. With one control it covers the test jets alone."""
        others = math.sqrt(max(0.0, self.delta.uncertainty**2 - self.pretraining_sigma**2))
        of_pretrainings = quantile_95(self.num_pretrainings - 1) * self.pretraining_sigma
        return math.hypot(quantile_95(self.num_controls - 1) * others, of_pretrainings)

    @property
    def over(self) -> str:
        """`3 pairs of runs`, `5 runs against 1 control`."""
        if self.num_runs == self.num_controls:
            return f"{self.num_runs} pair{'s' if self.num_runs > 1 else ''} of runs"
        return f"{self.num_runs} runs against {self.num_controls} control{'s' if self.num_controls > 1 else ''}"


def quantile_95(degrees: int) -> float:
    """Of Student's t, two-sided; the normal one without a degree of freedom, where no scatter is known."""
    return STUDENT_95[min(degrees, len(STUDENT_95)) - 1] if degrees else _NORMAL_95


def mean_of_pairs(pairs: Sequence[Pair]) -> MeanDifference:
    """As `mean_difference`, of the pairs of one recipe."""
    per_control: dict[str, list[Measurement]] = {}
    per_pretraining: dict[str, list[float]] = {}
    for pair in pairs:
        per_control.setdefault(pair.control.name, []).append(pair.delta)
        per_pretraining.setdefault(pair.pretraining, []).append(pair.delta.value)
    if len(per_control) == len(per_pretraining) == len(pairs):
        return mean_difference(per_control)  # each pair has labels and a pretraining of its own
    return mean_difference(per_control, [float(np.mean(values)) for values in per_pretraining.values()])


def mean_difference(
    deltas: Mapping[str, Sequence[Measurement]], per_pretraining: Sequence[float] = ()
) -> MeanDifference:
    """Mean over the controls of the differences to each, with the variance written at the top of this file.

    `per_pretraining` are the mean differences of each pretraining, where several have met the same controls.
    """
    # (controls, 2): value and uncertainty, both averaged over the runs that share a control
    per_control = np.array([np.mean(shared, axis=0) for shared in deltas.values()])
    value, test_sigma = per_control.mean(axis=0).tolist()
    scatter, of_pretrainings = _sigma_of_mean(per_control[:, 0]), _sigma_of_mean(per_pretraining)
    delta = Measurement(value, math.hypot(scatter, test_sigma, of_pretrainings))
    num_runs, num_pretrainings = sum(map(len, deltas.values())), max(1, len(per_pretraining))
    return MeanDifference(delta, num_runs, len(per_control), num_pretrainings, of_pretrainings)


def _sigma_of_mean(values: ArrayLike) -> float:
    """By their scatter; 0 for fewer than two, which show none."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.std(ddof=1) / values.size**0.5) if values.size > 1 else 0.0
