"""The report: one HTML page that carries its pictures, and the pictures beside it.

The page needs no network, no scripts and no other file, so it can be mailed, archived or opened on a cluster's login
node. Its order is a physicist's: the result, the comparison it rests on, curves, reconstruction, pictures, set-up.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from jetmae import metrics
from jetmae.errors import JetmaeError
from jetmae.files import make_folder, written_aside
from jetmae.records.attempts import EndLine
from jetmae.records.metrics import TrainLine
from jetmae.report import classifier_figures, curve_figures, figure_style, tables
from jetmae.report.comparison import MISSING, Row, cells, compare, comparison_table, print_table
from jetmae.report.conclusions import headline
from jetmae.report.evaluation_results import Predictions
from jetmae.report.label_chapter import LabelChapter, label_chapter
from jetmae.report.label_efficiency import num_labels
from jetmae.report.picture import Picture, picture_of
from jetmae.report.reconstruction_chapter import ReconstructionChapter, reconstruction_chapter
from jetmae.report.run_reader import OBSERVABLES, RecordedRun, networks, read_runs
from jetmae.run_folder import RunFolder
from jetmae.watch.parts import Parts
from jetmae.watch.status import ledger_of, queue_for, status_of
from jetmae.watch.tables import percent, short_duration

__all__ = ["Row", "comparison_table", "print_table", "write_report"]

PART_COLOUR = {  # Okabe and Ito's, which the colour-blind can tell apart
    "productive": "#009E73",
    "replayed": "#E69F00",
    "saving": "#56B4E9",
    "restoring": "#0072B2",
    "starting": "#CC79A7",
    "queued": "#999999",
    "lost": "#D55E00",
}
_MOST_IN_A_PICTURE = 12  # runs
_LEADING_SENTENCES = 6  # the others can be unfolded


def write_report(run_folders: Iterable[Path], output: Path, title: str) -> Path:
    """Write `output/report.html`, its PNGs, CSVs and report.json; each file is replaced whole. Returns the page's path.

    Runs may be missing or unfinished: what is not there is said, not drawn.

    Raises:
        JetmaeError: a folder is no run, none has metrics yet, or `output` cannot be written.
    """
    report = Report.of(read_runs(run_folders), title)
    page = _template().render(page_content(report)).encode()
    folder = make_folder(Path(output))
    for picture in _pictures_of(report):
        _write(folder / picture.file_name, picture.png)
    for name, records in report.tables.items():
        _write(folder / f"{name}.csv", tables.csv_text(records).encode())
    _write(folder / "report.json", tables.json_text(title, report.sentences, report.tables).encode())
    _write(folder / "report.html", page)
    return folder / "report.html"


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files("jetmae.report").joinpath("page.html").read_text(encoding="utf-8"))


def _write(path: Path, content: bytes) -> None:
    try:
        with written_aside(path) as aside:
            aside.write_bytes(content)
    except OSError as error:
        raise JetmaeError(f"cannot write {path} ({error.strerror}); choose another output folder") from error


@dataclass(frozen=True)
class Report:
    """All that is known and drawn, before it becomes a page and files."""

    title: str
    runs: Sequence[RecordedRun]
    rows: Sequence[Row]
    sentences: Sequence[str]
    curves: Sequence[Picture]
    classification: Sequence[Picture]
    labels: LabelChapter | None
    pretraining: Sequence[ReconstructionChapter]

    @classmethod
    def of(cls, runs: Sequence[RecordedRun], title: str) -> "Report":
        rows = compare(runs)
        pretrainings = [pair for pair in zip(runs, rows, strict=True) if pair[0].kind == "pretrain"]
        return cls(
            title=title,
            runs=runs,
            rows=rows,
            sentences=headline(runs),
            curves=_curves(networks(pictured(runs))),
            classification=_classification(pictured(runs)),
            labels=label_chapter(runs, _all_predictions(runs)),
            pretraining=[reconstruction_chapter(run, row) for run, row in pretrainings],
        )

    @property
    def tables(self) -> dict[str, list[tables.Record]]:
        """By file name without its ending; those that have lines."""
        study = self.labels.study if self.labels else None
        found = {
            "comparison": tables.comparison_records(self.rows),
            "label_efficiency": tables.label_curve_records(study),
            "label_differences": tables.label_difference_records(study),
            "explained_variance": tables.explained_variance_records({c.name: c.scores for c in self.pretraining}),
            "closure": tables.closure_records({c.name: c.closures for c in self.pretraining}),
            "calibration": tables.calibration_records(_all_predictions(self.runs)),
        }
        return {name: records for name, records in found.items() if records}


def pictured(runs: Sequence[RecordedRun]) -> list[RecordedRun]:
    """All runs; where they are too many for one picture, of each kind the first of those with the most labels."""
    if len(runs) <= _MOST_IN_A_PICTURE:
        return list(runs)
    by_kind: dict[str, list[RecordedRun]] = {}
    for run in runs:
        by_kind.setdefault(run.kind, []).append(run)
    return [max(members, key=lambda run: num_labels(run) or 0) for members in by_kind.values()]


def page_content(report: Report) -> dict[str, Any]:
    """Everything the template shows, by name."""
    runs, rows = report.runs, report.rows
    sentences = report.sentences or ["Nothing to compare yet."]
    shown = {run.name for run in pictured(runs)}
    trained = [pair for pair in zip(runs, rows, strict=True) if pair[0] in networks(runs)]
    return {
        "title": report.title,
        "written_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "headline": sentences[0],
        "more_sentences": sentences[1:_LEADING_SENTENCES],
        "folded_sentences": sentences[_LEADING_SENTENCES:],
        "rows": [_entry(row) for row in rows if row.name in shown],
        "more_rows": [_entry(row) for row in rows if row.name not in shown],
        "several_references": len({row.delta_reference for row in rows if row.delta_reference}) > 1,
        "classified": any(row.kind != "pretrain" for row in rows),
        "has_observables": any(row.kind in OBSERVABLES for row in rows),
        "curves": report.curves,
        "classification": report.classification,
        "labels": report.labels,
        "confusion": _confusion(pictured(runs)),
        "pictured": ", ".join(sorted(shown)) if len(shown) < len(runs) else "",
        "pretraining": report.pretraining,
        "parts": PART_COLOUR,
        "times": _times([run for run, _ in trained]),
        "setup": [_setup(run, row) for run, row in trained],
        "files": [f"{name}.csv" for name in report.tables],
    }


def _entry(row: Row) -> dict[str, Any]:
    return {"row": row, "cells": cells(row), "colour": figure_style.KIND_COLOUR[row.kind]}


def _pictures_of(report: Report) -> list[Picture]:
    pictures = [*report.curves, *report.classification]
    if report.labels:
        pictures.append(report.labels.picture)
    for chapter in report.pretraining:
        pictures += chapter.pictures
    return pictures


def _curves(runs: Sequence[RecordedRun]) -> list[Picture]:
    figures = [
        ("loss_curves", curve_figures.loss_curves(runs), "Loss and validation AUC of all runs against jets seen", ""),
        ("learning_rate", curve_figures.learning_rates(runs), "Learning rate of all runs against jets seen", ""),
    ]
    return [picture_of(name, figure, text, caption) for name, figure, text, caption in figures if figure]


def _classification(runs: Sequence[RecordedRun]) -> list[Picture]:
    found = _all_predictions(runs)
    if not found:
        return []
    styles = figure_style.run_styles(runs)
    signal, background = _class_names(found)
    figures = [
        ("roc", classifier_figures.roc_curves(found, styles), "ROC curves: background rejection against efficiency",
         (f"Signal: {signal}; background: {background}. Bands: binomial uncertainty of the background. Curves end where"
          " fewer than 3 background jets are left.")),
        ("auc_against_pt", classifier_figures.auc_against_pt(found, styles), "AUC in bins of jet pT, each run",
         "Six bins with equally many jets; points are shifted sideways to be seen."),
        ("calibration", classifier_figures.calibration(found, styles), "Calibration: share of signal against score",
         "On the diagonal a score of 0.8 means 80 % signal. Below it the network is too sure of a signal."),
        ("scores", classifier_figures.score_histograms(found, styles), "Histograms of the scores by class",
         "Share of the jets of each class per bin of the score, logarithmic."),
    ]  # fmt: skip
    return [picture_of(name, figure, text, caption) for name, figure, text, caption in figures if figure]


def _all_predictions(runs: Sequence[RecordedRun]) -> dict[str, Predictions]:
    found = {run.name: run.predictions() for run in runs if run.kind != "pretrain"}
    return {name: predictions for name, predictions in found.items() if predictions is not None}


def _class_names(found: dict[str, Predictions]) -> tuple[str, str]:
    background, signal = next(iter(found.values())).classes
    return signal, background


def _confusion(runs: Sequence[RecordedRun]) -> list[dict[str, Any]]:
    """Counts at a score of 0.5, per run."""
    tables = []
    for name, found in _all_predictions(runs).items():
        counts = metrics.confusion_counts(found.score, found.label).tolist()
        lines = [(true, counts[index]) for index, true in enumerate(found.classes)]
        tables.append({"name": name, "classes": found.classes, "lines": lines})
    return tables


def _times(runs: Sequence[RecordedRun]) -> list[dict[str, Any]]:
    """Where the time of each run went that has started: seconds and share per part."""
    folders = [RunFolder(run.folder) for run in runs]
    queue = queue_for(folders)
    ledgers = [ledger_of(status_of(folder, queue)) for folder in folders]
    return [_time(run, ledger.parts) for run, ledger in zip(runs, ledgers, strict=True) if ledger]


def _time(run: RecordedRun, parts: Parts) -> dict[str, Any]:
    shown = [
        {"name": name, "time": short_duration(part_s), "share": share, "percent": percent(share)}
        for name, part_s, share in parts.shown()
    ]
    return {
        "name": run.name,
        "wall": short_duration(parts.wall_s),
        "outside_queue": percent(parts.goodput_outside_queue),
        "parts": shown,
    }


def _setup(run: RecordedRun, row: Row) -> dict[str, Any]:
    data = run.config.get("data") or {}
    train = run.last("train")
    epoch, jets_per_s = (train.epoch, train.jets_per_s) if isinstance(train, TrainLine) else (None, None)
    return {
        "row": row,
        "task": run.config["task"],
        "init_from": run.config.get("init_from") or "nothing (random weights)",
        "seed": run.config.get("seed", MISSING),
        "data_path": data.get("path", MISSING),
        "transform": data.get("transform", MISSING),
        "epochs": MISSING if epoch is None else f"{epoch:g}",
        "speed": MISSING if jets_per_s is None else f"{jets_per_s:.0f} jets/s",
        "attempts": _attempts(run),
        "config_text": run.config_text,
    }


def _attempts(run: RecordedRun) -> str:
    """`2 (preempted, completed)`."""
    numbers = {line.attempt for line in run.attempts}
    causes = Counter(str(line.cause) for line in run.attempts if isinstance(line, EndLine))
    ends = ", ".join(cause if times == 1 else f"{times} times {cause}" for cause, times in causes.items())
    return f"{len(numbers)} ({ends})" if ends else f"{len(numbers)}"
