"""choices.json of a label study: every candidate with its validation score, and the one that was chosen.

It is written once, when the search is complete and before any test jet is read, and is read from then on.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from jetmae import metrics
from jetmae.errors import JetmaeError
from jetmae.files import write_json
from jetmae.records.json_object import parse_object
from jetmae.report.run_reader import read_run
from jetmae.studies.label_runs import Chosen, Trial
from jetmae.studies.protocol import Settings

NAME = "choices.json"


@dataclass(frozen=True)
class Candidate:
    """Settings that were tried, and the AUC on validation jets of each of their runs."""

    settings: Settings
    auc_by_run: dict[str, float]

    @property
    def auc(self) -> float:
        """Mean over the runs; nan if one of them is."""
        return fmean(self.auc_by_run.values())


def choose(trials: list[Trial], root: Path) -> Chosen:
    """The settings of each number of labels and method: those in choices.json, or else the best on validation jets.

    Raises:
        JetmaeError: the file is damaged, or a run of the search has no scores.
    """
    path = root / NAME
    if not path.exists():
        found = {place: candidates_of(trials, root, *place) for place in places(trials)}
        write_json(path, {f"n{labels}": _content(found, labels) for labels in dict.fromkeys(n for n, _ in found)})
    return read_choices(path)


def places(trials: Iterable[Trial]) -> list[tuple[int, str]]:
    """The numbers of labels and methods of a search, each once."""
    return list(dict.fromkeys((trial.labels, trial.method) for trial in trials))


def candidates_of(trials: list[Trial], root: Path, labels: int, method: str) -> list[Candidate]:
    """All candidates of one number of labels and method, in the order of the grid."""
    found: dict[int, Candidate] = {}
    for trial in trials:
        if (trial.labels, trial.method) == (labels, method):
            candidate = found.setdefault(trial.number, Candidate(trial.settings, {}))
            candidate.auc_by_run[trial.path] = validation_auc(root / trial.path)
    return list(found.values())


def best(found: list[Candidate]) -> Candidate:
    """The highest mean AUC; of equal ones the first in the grid.

    Raises:
        JetmaeError: no candidate has a score.
    """
    scored = [candidate for candidate in found if not math.isnan(candidate.auc)]
    if not scored:
        runs = ", ".join(run for candidate in found for run in candidate.auc_by_run)
        raise JetmaeError(f"no AUC on validation jets in {runs}: expected one; look at the logs, or change the grid")
    return max(scored, key=lambda candidate: candidate.auc)


def validation_auc(run: Path) -> float:
    """AUC of the best weights of a run; nan if its scores are not numbers.

    Raises:
        JetmaeError: the run has no scores.
    """
    predictions = read_run(run).predictions("validation")
    if predictions is None:
        raise JetmaeError(f"{run} is complete without scores of validation jets: delete {run}/COMPLETED, and give the"
                          " command of the study again")  # fmt: skip
    return metrics.auc(predictions.score, predictions.label)


def read_choices(path: Path) -> Chosen:
    """What was chosen.

    Raises:
        JetmaeError: the file is damaged.
    """
    content = parse_object(path.read_text(encoding="utf-8", errors="replace")) or {}
    try:
        return {
            (int(labels.removeprefix("n")), method): dict(choice["chosen"])
            for labels, methods in content.items()
            for method, choice in methods.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise JetmaeError(f"{path} is damaged: restore it, or delete it to choose again") from None


def _content(found: dict[tuple[int, str], list[Candidate]], labels: int) -> dict[str, Any]:
    """What choices.json says of a number of labels."""
    return {
        method: {"chosen": best(tried).settings, "candidates": [_described(candidate) for candidate in tried]}
        for (number, method), tried in found.items()
        if number == labels
    }


def _described(candidate: Candidate) -> dict[str, Any]:
    """JSON has no nan: null."""
    by_run = {run: None if math.isnan(auc) else auc for run, auc in candidate.auc_by_run.items()}
    mean = None if None in by_run.values() else candidate.auc
    return {"settings": candidate.settings, "validation_auc": mean, "runs": by_run}
