"""The chapter on label efficiency: the curve, and what pretraining adds at each number of labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jetmae.metrics import Measurement
from jetmae.report.comparison import MISSING, format_measurement
from jetmae.report.evaluation_results import Predictions
from jetmae.report.label_efficiency import LabelDifference, LabelPoint, LabelStudy, label_study
from jetmae.report.label_figures import label_efficiency
from jetmae.report.picture import Picture, picture_of
from jetmae.report.run_reader import RecordedRun

_TEXT = "AUC against the number of training labels"


@dataclass(frozen=True)
class LabelChapter:
    """The study, and how the page shows it."""

    study: LabelStudy
    picture: Picture
    labels: list[int]
    curves: list[tuple[str, list[str]]]  # name, and a text per number of labels
    differences: list[list[str]]  # a text per column
    one_pretraining: bool


def label_chapter(runs: Sequence[RecordedRun], predictions: Mapping[str, Predictions]) -> LabelChapter | None:
    """None where no kind of run has two numbers of labels."""
    study = label_study(runs, predictions)
    if study is None:
        return None
    labels = sorted({point.num_labels for curve in study.curves for point in curve.points})
    return LabelChapter(
        study=study,
        picture=picture_of("label_efficiency", label_efficiency(study), _TEXT),
        labels=labels,
        curves=[(curve.name, _along(labels, curve.points)) for curve in study.curves],
        differences=[_texts(difference) for difference in study.differences],
        one_pretraining=any(difference.pretrainings == 1 for difference in study.differences),
    )


def _along(labels: Sequence[int], points: Sequence[LabelPoint]) -> list[str]:
    texts = {point.num_labels: format_measurement(Measurement(point.mean, point.spread)) for point in points}
    return [texts.get(number, MISSING) for number in labels]


def _texts(found: LabelDifference) -> list[str]:
    """Labels, pairs, seeds, pretrainings, both AUCs, difference, its two parts, 95 % interval."""
    delta, half_width = found.mean.delta, found.mean.half_width
    ends = (Measurement(delta.value + side * half_width, float("nan")) for side in (-1, 1))
    label = f"{found.num_labels:,}" + (f" ({found.settings})" if found.settings else "")
    return [
        label,
        *(f"{number}" for number in (found.mean.num_runs, found.seeds, found.pretrainings)),
        f"{found.fine_tuned:.4f}",
        f"{found.scratch:.4f}",
        format_measurement(delta, signed=True),
        *(MISSING if math.isnan(sigma) else f"{sigma:.4f}" for sigma in (found.training_sigma, found.test_sigma)),
        " to ".join(format_measurement(end, signed=True) for end in ends),
    ]
