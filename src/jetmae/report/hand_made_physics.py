"""The mark that a network has to reach: simple classifiers on hand-made observables, in sentences."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from jetmae import metrics
from jetmae.metrics import Measurement
from jetmae.report.comparison import auc_difference, format_measurement
from jetmae.report.evaluation_results import Predictions
from jetmae.report.label_efficiency import num_labels
from jetmae.report.mean_difference import MeanDifference, mean_difference
from jetmae.report.run_reader import LOGISTIC, OBSERVABLES, TREES, RecordedRun

_MISSING = (
    "Warning: no run on observables is among these, so nothing tells how far hand-made physics comes without a network."
    " Add one: task probe with init_from=observables."
)
_NETWORKS = {
    "finetune": "the fine-tuned network",
    "scratch": "training from scratch",
    "probe": "the linear probe",
}
_WORDS = {LOGISTIC: f"{LOGISTIC} has", TREES: f"{TREES} have"}


def missing_mark(runs: Sequence[RecordedRun]) -> str:
    """A warning where networks are compared with each other alone."""
    kinds = {run.kind for run in runs}
    return _MISSING if kinds & set(_NETWORKS) and not kinds & set(OBSERVABLES) else ""


def mark_sentences(runs: Sequence[RecordedRun], predictions: Mapping[str, Predictions]) -> list[str]:
    """How far observables come with the most labels, and where the first kind of network stands against them."""
    classifiers = [run for run in runs if run.kind != "pretrain"]
    marks = [run for run in classifiers if run.kind in OBSERVABLES and run.name in predictions]
    if not marks:
        return []
    labels = max(num_labels(run) or 0 for run in marks)
    marks = [run for run in marks if (num_labels(run) or 0) == labels]
    told = [
        f"{words} AUC {_mean_auc(_of(marks, kind), predictions)}" for kind, words in _WORDS.items() if _of(marks, kind)
    ]
    with_labels = f" with {labels:,} labels" if labels else ""
    mark = f"The mark that a network has to reach is hand-made physics: {', '.join(told)}{with_labels}."
    return [mark, *_against_networks(classifiers, marks, predictions)]


def _against_networks(
    classifiers: Sequence[RecordedRun], marks: Sequence[RecordedRun], predictions: Mapping[str, Predictions]
) -> list[str]:
    """The first kind of network that has runs with as many labels, against logistic regression."""
    logistic = {run.config.get("seed"): run for run in _of(marks, LOGISTIC)}
    for kind, words in _NETWORKS.items():
        deltas: dict[str, list[Measurement]] = {}
        for run in _of(classifiers, kind):
            mark = logistic.get(run.config.get("seed"))
            if mark and run.name in predictions and num_labels(run) == num_labels(mark):
                delta, _ = auc_difference(predictions[run.name], predictions[mark.name])
                deltas.setdefault(mark.name, []).append(delta)
        if deltas:
            return [_sentence(words, mean_difference(deltas))]
    return []


def _sentence(words: str, mean: MeanDifference) -> str:
    amount = format_measurement(mean.delta, signed=True)
    if math.isnan(mean.delta.value):
        return ""
    if abs(mean.delta.value) <= mean.half_width:
        return f"The AUC of {words} is compatible with that of logistic regression on observables: {amount}."
    reached = "is above" if mean.delta.value > 0 else "has not reached"
    return f"The AUC of {words} {reached} that of logistic regression on observables: {amount}."


def _of(runs: Sequence[RecordedRun], kind: str) -> list[RecordedRun]:
    return [run for run in runs if run.kind == kind]


def _mean_auc(runs: Sequence[RecordedRun], predictions: Mapping[str, Predictions]) -> str:
    """With the mean uncertainty of the test jets, which all have in common."""
    measured = [metrics.measure_auc(predictions[run.name].score, predictions[run.name].label) for run in runs]
    return format_measurement(Measurement(*np.mean(measured, axis=0).tolist()))
