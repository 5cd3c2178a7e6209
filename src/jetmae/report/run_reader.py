"""Reading a run folder for the report: its configuration, its records, and the results of its evaluation.

A probe of hand-made observables holds two classifiers, so it is read as two runs: logistic regression, boosted trees.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from jetmae.errors import JetmaeError
from jetmae.records.attempts import AttemptLine, read_attempts
from jetmae.records.json_lines import read_lines
from jetmae.records.json_object import Json
from jetmae.records.metrics import NEEDED, MetricsLine, number_of, parse_metrics_line
from jetmae.report.evaluation_results import (
    ClosurePair,
    HiddenSums,
    Predictions,
    Reconstruction,
    read_closure,
    read_hidden_sums,
    read_predictions,
    read_reconstruction,
)

LOGISTIC = "logistic regression on observables"
TREES = "boosted trees on observables"
OBSERVABLES = (LOGISTIC, TREES)  # hand-made physics: the mark that a network has to reach

# The order of every table, legend and chapter: the result first, what it rests on last.
KINDS = ("finetune", "scratch", "probe", "random probe", *OBSERVABLES, "pretrain")


@dataclass(frozen=True)
class RecordedRun:
    """One run folder, read once. `metrics` holds one entry per split and step, in order of the steps."""

    folder: Path
    name: str
    kind: str  # one of KINDS
    config: dict[str, Any]
    config_text: str
    metrics: tuple[MetricsLine, ...]
    attempts: tuple[AttemptLine, ...]
    completed: bool

    def series(self, split: str, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Jets seen and the metric of this name, of all lines of a split that have both; each (lines,) float64."""
        rows = [(line.samples, number_of(line, name)) for line in self.metrics if line.split == split]
        points = np.array([row for row in rows if None not in row], dtype=np.float64).reshape(-1, 2)
        return points[:, 0], points[:, 1]

    def last(self, split: str) -> MetricsLine | None:
        """The newest line of a split, if there is one."""
        return next((line for line in reversed(self.metrics) if line.split == split), None)

    def predictions(self, split: str = "test") -> Predictions | None:
        """Scores of every jet of a split; None as long as the run has not been evaluated on it."""
        found = read_predictions(self.folder / "evaluation" / f"predictions_{split}.npz")
        if self.kind != TREES or found is None:
            return found
        trees = found.score_of_boosted_trees
        return None if trees is None else replace(found, score=trees)

    def reconstruction(self, split: str) -> Reconstruction | None:
        """Example pictures and sums for a split; None as long as the run has not been evaluated on it."""
        return read_reconstruction(self._reconstruction_path(split))

    def hidden_sums(self, split: str = "test") -> tuple[HiddenSums, ...]:
        """Squared errors of the network and of simple predictors, for each kind of mask and each space there is."""
        return read_hidden_sums(self._reconstruction_path(split))

    def closure(self, split: str = "test") -> tuple[ClosurePair, ...]:
        """True and reconstructed properties of whole jets, those that were kept."""
        return read_closure(self._reconstruction_path(split))

    def _reconstruction_path(self, split: str) -> Path:
        return self.folder / "evaluation" / f"reconstruction_{split}.npz"


def read_runs(folders: Iterable[Path]) -> list[RecordedRun]:
    """All runs, each folder once, in the order of `KINDS` and then by name; names are made to differ."""
    unique = dict.fromkeys(Path(folder).resolve() for folder in folders)
    if not unique:
        raise JetmaeError("no run folder given; name at least one, such as runs/pretrain")
    runs = _distinct_names(sorted(map(read_run, unique), key=lambda run: run.name))
    if not any(run.metrics for run in runs):
        names = ", ".join(run.name for run in runs)
        raise JetmaeError(f"no metrics in {names} yet: metrics.jsonl is missing or empty; try again after a few steps")
    classifiers = [classifier for run in runs for classifier in _classifiers_of(run)]
    return sorted(classifiers, key=lambda run: KINDS.index(run.kind))


def networks(runs: Iterable[RecordedRun]) -> list[RecordedRun]:
    """Each run folder once: boosted trees have no training of their own."""
    return [run for run in runs if run.kind != TREES]


def read_run(folder: Path) -> RecordedRun:
    """Read config, metrics and attempts of one run folder."""
    config_text, config = _read_config(folder)
    return RecordedRun(
        folder=folder,
        name=folder.name,
        kind=_kind(folder, config),
        config=config,
        config_text=config_text,
        metrics=_latest_per_step(folder / "metrics.jsonl"),
        attempts=tuple(read_attempts(folder / "attempts.jsonl")),
        completed=(folder / "COMPLETED").exists(),
    )


def _classifiers_of(run: RecordedRun) -> Iterator[RecordedRun]:
    """The run itself; of a probe of observables, logistic regression, and the boosted trees once they are there."""
    if run.kind != LOGISTIC:
        yield run
        return
    yield replace(run, name=f"{run.name}: logistic regression")
    trees = replace(run, name=f"{run.name}: boosted trees", kind=TREES, metrics=(), completed=True)
    if trees.predictions() is not None:
        yield trees


def _read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    path = folder / "config.yaml"
    if not path.is_file():
        raise JetmaeError(f"{folder} is not a run folder: it has no config.yaml; name a folder such as runs/pretrain")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise JetmaeError(f"{path} is not YAML ({str(error).splitlines()[0]}); restore it from the launch") from error
    if not isinstance(config, dict):
        raise JetmaeError(f"{path} holds {type(config).__name__}, expected a mapping; restore it from the launch")
    return text, config


def _kind(folder: Path, config: dict[str, Any]) -> str:
    task = config.get("task")
    of_probe = {"random": "random probe", "observables": LOGISTIC}
    kind = of_probe.get(str(config.get("init_from")), "probe") if task == "probe" else str(task)
    if kind not in KINDS:
        expected = "pretrain, finetune, scratch or probe"
        raise JetmaeError(f"{folder / 'config.yaml'} has task {task!r}, expected {expected}; name another run folder")
    return kind


def _latest_per_step(path: Path) -> tuple[MetricsLine, ...]:
    """After a resume a step may stand twice: the later line counts."""
    lines = [_metrics_line(content, path) for content in read_lines(path)]
    latest = {(line.split, line.step): line for line in lines}
    return tuple(sorted(latest.values(), key=lambda line: line.step))


def _metrics_line(content: Json, path: Path) -> MetricsLine:
    line = parse_metrics_line(content)
    if line is None:
        missing = next(name for name in NEEDED if name not in content)
        raise JetmaeError(f"{path} has a line without {missing!r}; was it written by jetmae?")
    return line


def _distinct_names(runs: list[RecordedRun]) -> list[RecordedRun]:
    names = [run.name for run in runs]
    return [replace(r, name=f"{r.folder.parent.name}/{r.name}") if names.count(r.name) > 1 else r for r in runs]
