"""AUC against the number of training labels, for each kind of classifier, and what pretraining adds at each number.

Runs are averaged over their seeds, which choose the labels, and over pretrainings that differ in the seed alone: those
among the runs of the report, which have their settings with them.
Settings that differ among runs of one kind with equally many labels make curves of their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jetmae import metrics
from jetmae.data.manifest import read_manifest
from jetmae.errors import DataError
from jetmae.metrics import Floats, Measurement
from jetmae.report.bootstrap import auc_replicates
from jetmae.report.controls import pretraining_of, settings_of
from jetmae.report.evaluation_results import Predictions
from jetmae.report.mean_difference import MeanDifference, mean_of_pairs
from jetmae.report.pairs import Pair, pairs_of
from jetmae.report.run_reader import KINDS, OBSERVABLES, RecordedRun

_AVERAGED = ("seed", "data.train_jets")  # what a curve averages over, and runs along


@dataclass(frozen=True)
class LabelPoint:
    """The runs of a curve with equally many labels."""

    num_labels: int
    aucs: Floats  # (runs,)
    test_sigma: float  # mean DeLong uncertainty of the runs, which all have the same test jets

    @property
    def mean(self) -> float:
        return float(self.aucs.mean())

    @property
    def spread(self) -> float:
        """Standard deviation between the runs; nan for one."""
        return float(self.aucs.std(ddof=1)) if self.aucs.size > 1 else float("nan")


@dataclass(frozen=True)
class LabelCurve:
    """One kind of classifier."""

    name: str  # the kind, and what tells it from other curves of the kind
    kind: str
    points: tuple[LabelPoint, ...]  # by number of labels


@dataclass(frozen=True)
class LabelDifference:
    """Fine-tuned minus scratch over the pairs with equally many labels: same labels, same test jets."""

    num_labels: int
    settings: str  # of the curve of the fine-tuned runs, where there are several
    fine_tuned: float  # mean AUCs
    scratch: float
    mean: MeanDifference  # with the scatter of the trainings and of the test jets
    training_sigma: float  # the part of labels and pretrainings; nan where one pair shows none
    test_sigma: float  # the part of the test jets, by paired bootstrap
    seeds: int
    pretrainings: int


@dataclass(frozen=True)
class LabelStudy:
    curves: tuple[LabelCurve, ...]
    differences: tuple[LabelDifference, ...]


def label_study(runs: Sequence[RecordedRun], predictions: Mapping[str, Predictions]) -> LabelStudy | None:
    """None where no curve has two numbers of labels. `predictions` are those of the evaluated runs, by name."""
    labels = _labels_of([run for run in runs if run.name in predictions])
    members = [run for run in runs if run.name in labels]
    aucs = {name: metrics.measure_auc(predictions[name].score, predictions[name].label) for name in labels}
    names = _curve_names(members, runs, labels)
    curves = [_curve(name, members, names, labels, aucs) for name in dict.fromkeys(names.values())]
    if all(len(curve.points) < 2 for curve in curves):
        return None
    return LabelStudy(tuple(curves), tuple(_differences(runs, predictions, names, labels, aucs)))


def _labels_of(runs: Sequence[RecordedRun]) -> dict[str, int]:
    """Of the runs that are known to have labels, by name.

    An epoch has whole batches, so runs that use all labels of the same data may seem to have different numbers: the
    largest counts for all of them.
    """
    labels = {run.name: number for run in runs if (number := num_labels(run))}
    with_all = {run.name: _data(run) for run in runs if run.name in labels and _data(run)[-1] is None}
    for name, data in with_all.items():
        labels[name] = max(labels[other] for other, of_other in with_all.items() if of_other == data)
    return labels


def _data(run: RecordedRun) -> tuple[object, ...]:
    """Where a run's labels come from, and how many it was told to take."""
    data = run.config.get("data") or {}
    return tuple(data.get(name) for name in ("path", "train_split", "train_jets"))


def num_labels(run: RecordedRun) -> int | None:
    """Training labels of a classifier; where all are used, as many as the dataset has.

    If that is gone, as many as an epoch has jets; None before the first line.
    """
    data = run.config.get("data") or {}
    if run.kind == "pretrain":
        return None
    if data.get("train_jets") is not None:
        return int(data["train_jets"])
    with suppress(DataError, KeyError):
        return read_manifest(Path(str(data.get("path")))).jets(data.get("train_split") or "train")
    last = next((line for line in reversed(run.metrics) if line.samples and line.epoch), None)
    return round(last.samples / last.epoch) if last and last.samples and last.epoch else None


def _curve_names(
    members: Sequence[RecordedRun], runs: Sequence[RecordedRun], labels: Mapping[str, int]
) -> dict[str, str]:
    """For each run the name of its curve."""
    names = {}
    for kind in KINDS:
        of_kind = {run.name: _recipe(run, runs) for run in members if run.kind == kind}
        varied = _varied(of_kind, labels)
        for name, recipe in of_kind.items():
            told = ", ".join(f"{setting}={recipe.get(setting)}" for setting in varied)
            names[name] = f"{kind} ({told})" if told else kind
    return names


def _recipe(run: RecordedRun, runs: Iterable[RecordedRun]) -> dict[str, object]:
    """Settings that are not averaged over. Observables know nothing of the network's."""
    if run.kind in OBSERVABLES:
        return {"data.path": settings_of(run).get("data.path")}
    recipe = {name: value for name, value in settings_of(run).items() if name not in _AVERAGED}
    pretraining = pretraining_of(run, runs)
    if pretraining is not None:
        del recipe["init_from"]
        recipe |= {f"pretraining's {name}": value for name, value in settings_of(pretraining).items() if name != "seed"}
    return recipe


def _varied(recipes: Mapping[str, Mapping[str, object]], labels: Mapping[str, int]) -> list[str]:
    """Settings with several values at one number of labels: between numbers, steps and the like may differ."""
    varied: dict[str, None] = {}
    for number in sorted({labels[name] for name in recipes}):
        here = [recipe for name, recipe in recipes.items() if labels[name] == number]
        settings = dict.fromkeys(name for recipe in here for name in recipe)
        varied |= {name: None for name in settings if any(r.get(name) != here[0].get(name) for r in here)}
    return list(varied)


def _curve(
    name: str,
    members: Sequence[RecordedRun],
    names: Mapping[str, str],
    labels: Mapping[str, int],
    aucs: Mapping[str, Measurement],
) -> LabelCurve:
    mine = [run for run in members if names[run.name] == name]
    points = []
    for number in sorted({labels[run.name] for run in mine}):
        values = np.array([aucs[run.name] for run in mine if labels[run.name] == number])
        points.append(LabelPoint(number, values[:, 0], float(values[:, 1].mean())))
    return LabelCurve(name, mine[0].kind, tuple(points))


def _differences(
    runs: Sequence[RecordedRun],
    predictions: Mapping[str, Predictions],
    names: Mapping[str, str],
    labels: Mapping[str, int],
    aucs: Mapping[str, Measurement],
) -> list[LabelDifference]:
    groups: dict[tuple[int, str], list[Pair]] = {}
    for pair in pairs_of(runs, predictions, "finetune"):
        if pair.paired and pair.run.name in labels:
            groups.setdefault((labels[pair.run.name], names[pair.run.name]), []).append(pair)
    # Of a mean over pairs, each replicate of the test jets is needed of every run: drawn once per run, not per pair.
    in_pairs = {run.name for pairs in groups.values() for pair in pairs for run in (pair.run, pair.control)}
    replicates = {name: _replicates(predictions[name]) for name in in_pairs}
    return [
        _difference(number, name, pairs, replicates, aucs)
        for (number, name), pairs in sorted(groups.items(), key=lambda group: group[0])
    ]


def _replicates(found: Predictions) -> Floats:
    order = np.argsort(found.sample_id)
    return auc_replicates(found.score[order], found.label[order])


def _difference(
    number: int,
    name: str,
    pairs: Sequence[Pair],
    replicates: Mapping[str, Floats],
    aucs: Mapping[str, Measurement],
) -> LabelDifference:
    per_pair = [replicates[pair.run.name] - replicates[pair.control.name] for pair in pairs]
    test_sigma = float(np.nanstd(np.mean(per_pair, axis=0), ddof=1))
    training_sigma = _mean_with(pairs, 0.0).delta.uncertainty
    return LabelDifference(
        num_labels=number,
        settings=name.removeprefix("finetune").strip(" ()"),
        fine_tuned=float(np.mean([aucs[pair.run.name].value for pair in pairs])),
        scratch=float(np.mean([aucs[pair.control.name].value for pair in pairs])),
        mean=_mean_with(pairs, test_sigma),
        training_sigma=training_sigma if len(pairs) > 1 else float("nan"),
        test_sigma=test_sigma,
        seeds=len({pair.run.config.get("seed") for pair in pairs}),
        pretrainings=len({pair.pretraining for pair in pairs}),
    )


def _mean_with(pairs: Sequence[Pair], test_sigma: float) -> MeanDifference:
    """With this uncertainty from the test jets: that of the mean over all pairs instead of each pair's own."""
    return mean_of_pairs([replace(pair, delta=Measurement(pair.delta.value, test_sigma)) for pair in pairs])
