"""What the numbers say, in sentences: did the pretraining change the AUC, and how sure can one be of that?

Runs are paired with their controls (`controls.py`), pairs of like settings make one mean (`mean_difference.py`) and one
sentence. A change is claimed when zero lies outside the mean's 95 % interval. One control shows no scatter at all: the
sentence then says which of two networks is better on these jets, not what pretraining does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import NormalDist
from typing import Any

from jetmae.metrics import Measurement
from jetmae.report.comparison import compare, format_measurement
from jetmae.report.controls import CONTROL, recipe_of, why_no_control
from jetmae.report.evaluation_results import Predictions
from jetmae.report.explained_variance import hidden_scores, verdict
from jetmae.report.hand_made_physics import mark_sentences, missing_mark
from jetmae.report.mean_difference import MeanDifference, mean_of_pairs
from jetmae.report.pairs import Pair, pairs_of
from jetmae.report.run_reader import RecordedRun, networks

_SUBJECT = {
    "finetune": ("the fine-tuned network", "training from scratch"),
    "probe": ("the linear probe", "the same probe of a random encoder"),
}


@dataclass(frozen=True)
class Group:
    """Pairs of like settings."""

    kind: str  # of the runs that are compared with their controls
    label: str  # the settings that tell it from the other groups of its kind
    mean: MeanDifference


def headline(runs: Sequence[RecordedRun]) -> list[str]:
    """What the numbers say, one sentence each: fine-tuning, observables, probes, reconstruction. The result first."""
    predictions = {run.name: found for run in runs if (found := run.predictions()) is not None}
    groups = [group for kind in CONTROL for group in _groups(runs, predictions, kind)]
    sentences = [
        *(sentence(group.kind, group.mean, group.label) for group in groups if group.kind == "finetune"),
        *mark_sentences(runs, predictions),
        *(sentence(group.kind, group.mean, group.label) for group in groups if group.kind != "finetune"),
        *(text for kind in CONTROL for text in _not_compared(runs, predictions, kind)),
        *_reconstruction_sentences(runs),
        _one_control_note(groups),
        missing_mark(runs),
        _unfinished_note(networks(runs)),
    ]
    return [text for text in sentences if text]


def _groups(runs: Sequence[RecordedRun], predictions: Mapping[str, Predictions], kind: str) -> list[Group]:
    recipes: list[dict[str, Any]] = []
    members: list[list[Pair]] = []
    for pair in pairs_of(runs, predictions, kind):
        recipe = recipe_of(pair.run, pair.control, runs)
        if recipe not in recipes:
            recipes.append(recipe)
            members.append([])
        members[recipes.index(recipe)].append(pair)
    groups = zip(recipes, _labels(recipes), members, strict=True)
    by_labels = sorted(groups, key=lambda group: group[0].get("data.train_jets") or math.inf)
    return [Group(kind, label, mean_of_pairs(pairs)) for _, label, pairs in by_labels]


def _labels(recipes: Sequence[Mapping[str, object]]) -> list[str]:
    """`data.train_jets=100` for each: the settings that are not equal in all."""
    names = dict.fromkeys(chain.from_iterable(recipes))
    varied = [name for name in names if any(recipe.get(name) != recipes[0].get(name) for recipe in recipes)]
    return [", ".join(f"{name}={recipe[name]}" for name in varied if name in recipe) for recipe in recipes]


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


def _reconstruction_sentences(runs: Sequence[RecordedRun]) -> list[str]:
    """For each kind of mask against simple predictors, in its first space; without them, explained variance."""
    for run in runs:
        first = {sums.mask: sums for sums in reversed(run.hidden_sums())} if run.kind == "pretrain" else {}
        if first:
            return [verdict(score) for score in reversed(hidden_scores(list(first.values())))]
    return [_reconstruction_sentence(runs)]


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
