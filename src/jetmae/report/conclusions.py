"""What the numbers say, in sentences: did the pretraining change the AUC, and how sure can one be of that?

Runs are paired with their controls (`controls.py`), pairs of like settings make one mean and one sentence. A mean over
n pairs has the variance s^2 / n + sigma_test^2:

- s is the scatter between the pairs, of n *different* controls: runs that share a control share its luck, so their
  differences are first averaged into one.
  Pretrainings of the same settings but other seeds are averaged likewise. Where all labels meet all pretrainings, the
  scatter between the means per pretraining is added to that between the controls.
- sigma_test is the mean of the pairs' own DeLong uncertainties. All pairs are scored on the same jets, and what these
  happen to be shifts every difference alike: it neither shows in s nor shrinks with n. The standard deviation of a mean
  is at most the mean of the standard deviations, reached when all errors go together, so this is an upper bound.

A change is claimed when zero lies outside the 95 % interval by Student's t with n - 1 degrees of freedom (Student,
Biometrika 6 (1908) 1). One control shows no scatter at all: the sentence then says which of two networks is better on
these jets, not what pretraining does. All seeds of a chain start from one pretraining: its scatter is in a number only
where several pretrainings are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from jetmae.metrics import Measurement
from jetmae.report.comparison import compare, format_measurement
from jetmae.report.controls import CONTROL, recipe_of, why_no_control
from jetmae.report.evaluation_results import Predictions
from jetmae.report.pairs import Pair, pairs_of
from jetmae.report.run_reader import RecordedRun

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; the last stands for more, a little too wide.
STUDENT_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL_95 = 1.960
_SUBJECT = {
    "finetune": ("the fine-tuned network", "training from scratch"),
    "probe": ("the linear probe", "the same probe of a random encoder"),
}


@dataclass(frozen=True)
class MeanDifference:
    """Mean AUC difference of runs to their controls."""

    delta: Measurement
    num_runs: int
    num_controls: int  # different ones: so many independent differences
    num_pretrainings: int = 1  # whose scatter is in the uncertainty

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval. With one control it covers the test jets alone."""
        several = [number for number in (self.num_controls, self.num_pretrainings) if number > 1]
        return quantile_95(min(several, default=1) - 1) * self.delta.uncertainty

    @property
    def over(self) -> str:
        """`3 pairs of runs`, `5 runs against 1 control`."""
        if self.num_runs == self.num_controls:
            return f"{self.num_runs} pair{'s' if self.num_runs > 1 else ''} of runs"
        return f"{self.num_runs} runs against {self.num_controls} control{'s' if self.num_controls > 1 else ''}"


@dataclass(frozen=True)
class Group:
    """Pairs of like settings."""

    kind: str  # of the runs that are compared with their controls
    label: str  # the settings that tell it from the other groups of its kind
    mean: MeanDifference


def quantile_95(degrees: int) -> float:
    """Of Student's t, two-sided; the normal one without a degree of freedom, where no scatter is known."""
    return STUDENT_95[min(degrees, len(STUDENT_95)) - 1] if degrees else _NORMAL_95


def headline(runs: Sequence[RecordedRun]) -> list[str]:
    """What the numbers say, one sentence each: fine-tuning, probes, reconstruction. The first is the result."""
    predictions = {run.name: found for run in runs if (found := run.predictions()) is not None}
    groups = [group for kind in CONTROL for group in _groups(runs, predictions, kind)]
    sentences = [
        *(sentence(group.kind, group.mean, group.label) for group in groups),
        *(text for kind in CONTROL for text in _not_compared(runs, predictions, kind)),
        _reconstruction_sentence(runs),
        _one_control_note(groups),
        _unfinished_note(runs),
    ]
    return [text for text in sentences if text]


def _groups(runs: Sequence[RecordedRun], predictions: Mapping[str, Predictions], kind: str) -> list[Group]:
    recipes: list[dict[str, object]] = []
    members: list[list[Pair]] = []
    for pair in pairs_of(runs, predictions, kind):
        recipe = recipe_of(pair.run, pair.control, runs)
        if recipe not in recipes:
            recipes.append(recipe)
            members.append([])
        members[recipes.index(recipe)].append(pair)
    return [Group(kind, label, mean_of_pairs(pairs)) for label, pairs in zip(_labels(recipes), members, strict=True)]


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


def _labels(recipes: Sequence[Mapping[str, object]]) -> list[str]:
    """`data.train_jets=100` for each: the settings that are not equal in all."""
    names = dict.fromkeys(chain.from_iterable(recipes))
    varied = [name for name in names if any(recipe.get(name) != recipes[0].get(name) for recipe in recipes)]
    return [", ".join(f"{name}={recipe[name]}" for name in varied if name in recipe) for recipe in recipes]


def mean_difference(
    deltas: Mapping[str, Sequence[Measurement]], per_pretraining: Sequence[float] = ()
) -> MeanDifference:
    """Mean over the controls of the differences to each, with the variance written at the top of this file.

    `per_pretraining` are the mean differences of each pretraining, where several have met the same controls.
    """
    # (controls, 2): value and uncertainty, both averaged over the runs that share a control
    per_control = np.array([np.mean(shared, axis=0) for shared in deltas.values()])
    value, test_sigma = per_control.mean(axis=0).tolist()
    scatter = math.hypot(_sigma_of_mean(per_control[:, 0]), _sigma_of_mean(per_pretraining))
    delta = Measurement(value, math.hypot(scatter, test_sigma))
    return MeanDifference(delta, sum(map(len, deltas.values())), len(per_control), max(1, len(per_pretraining)))


def _sigma_of_mean(values: ArrayLike) -> float:
    """By their scatter; 0 for fewer than two, which show none."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.std(ddof=1) / values.size**0.5) if values.size > 1 else 0.0


def sentence(kind: str, mean: MeanDifference, label: str = "") -> str:
    """The verdict on one group; a change of pretraining is claimed from two controls on."""
    subject, control = _SUBJECT[kind]
    say = _say_one if mean.num_controls == 1 else _say_several
    if math.isnan(mean.delta.value) or math.isnan(mean.delta.uncertainty):
        say = _say_unknown
    text = (f"with {label}, " if label else "") + say(subject, control, mean)
    return text[0].upper() + text[1:]


def _say_unknown(subject: str, control: str, mean: MeanDifference) -> str:  # noqa: ARG001  all of a table
    return f"the AUC of {subject} against {control} has no answer: the test jets are too few or of one class only."


def _say_one(subject: str, control: str, mean: MeanDifference) -> str:
    amount = f"{format_measurement(mean.delta, signed=True)} ({mean.over})"
    if abs(mean.delta.value) <= mean.half_width:
        return f"the AUC of {subject} is compatible with that of {control}: it differs by {amount}."
    side = "higher" if mean.delta.value > 0 else "lower"
    return f"the AUC of {subject} is {side} than that of {control} by {amount}."


def _say_several(subject: str, control: str, mean: MeanDifference) -> str:
    ends = (Measurement(mean.delta.value + side * mean.half_width, math.nan) for side in (-1, 1))
    interval = " to ".join(format_measurement(end, signed=True) for end in ends)
    amount = f"{format_measurement(mean.delta, signed=True)} (mean over {mean.over}; 95 % interval {interval})"
    if abs(mean.delta.value) <= mean.half_width:
        return f"the AUC of {subject} is compatible with that of {control}: pretraining changed it by {amount}."
    verb = "raised" if mean.delta.value > 0 else "lowered"
    return f"pretraining {verb} the AUC of {subject} against {control} by {amount}."


def _not_compared(runs: Sequence[RecordedRun], predictions: Mapping[str, Predictions], kind: str) -> list[str]:
    """Why runs of a kind, or all of them, have no verdict."""
    subject, control = _SUBJECT[kind]
    evaluated = {run.kind for run in runs if run.name in predictions}
    both = {kind, CONTROL[kind]}
    if not both & {run.kind for run in runs}:
        return []
    if not both <= evaluated:
        return [f"{subject.capitalize()} cannot be compared with {control}: no test scores of both yet."]
    members = [run for run in runs if run.kind == kind and run.name in predictions]
    return [why_no_control(run, CONTROL[kind], runs, predictions) for run in members]


def _one_control_note(groups: Sequence[Group]) -> str:
    if all(group.mean.num_controls > 1 for group in groups):
        return ""
    return (
        "One control is no verdict on pretraining: the scatter between trainings is not in the uncertainty of such a"
        " difference. Several seeds (--array seed=0..4) bring it in."
    )


def _unfinished_note(runs: Sequence[RecordedRun]) -> str:
    names = [run.name for run in runs if not run.completed]
    verb = "has" if len(names) == 1 else "have"
    return f"Not final: {', '.join(names)} {verb} not finished." if names else ""


def _reconstruction_sentence(runs: Sequence[RecordedRun]) -> str:
    for run, row in zip(runs, compare(runs), strict=True):
        values = {name: m for name, m in row.explained_variance.get("test", {}).items() if not math.isnan(m.value)}
        if run.kind == "pretrain" and values:
            ordered = sorted(values, key=lambda name: -values[name].value)
            best, worst = (f"{format_measurement(values[n], percent=True)} in {n}" for n in (ordered[0], ordered[-1]))
            explained = f"Of the variance of masked test pixels, pretraining explains between {worst} and {best}."
            return f"{explained} {_mean_image_sentence(values, row.over_mean_image)}".rstrip()
    return ""


def _mean_image_sentence(explained: Mapping[str, Measurement], gains: Mapping[str, Measurement]) -> str:
    """In which channels the network is better than the mean image. With a chance of 5 % one is named wrongly.

    Where the mean image is mostly noise one constant may be better, so the network has to beat both.
    """
    if not gains:
        return ""
    num_deviations = NormalDist().inv_cdf(1 - 0.05 / len(explained))  # Bonferroni: one look at each channel

    def is_above_zero(measured: Measurement) -> bool:
        return measured.value > num_deviations * measured.uncertainty

    better = [name for name in explained if is_above_zero(explained[name]) and is_above_zero(gains[name])]
    names = f": {', '.join(better)}" if better else ""
    beaten = f"{len(better)} of {len(explained)} channels{names}"
    return f"It explains more than both a constant and the mean image of the training jets in {beaten}."
