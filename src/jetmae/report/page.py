"""The report: one HTML page that carries its pictures, and the pictures beside it.

The page needs no network, no scripts and no other file, so it can be mailed, archived or opened on a cluster's login
node. Its order is a physicist's: the result, the comparison it rests on, curves, reconstruction, pictures, set-up.
"""

import base64
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from jetmae import metrics
from jetmae.errors import JetmaeError
from jetmae.files import make_folder, written_aside
from jetmae.records.attempts import EndLine
from jetmae.records.metrics import TrainLine
from jetmae.report import classifier_figures, curve_figures, figure_style, reconstruction_figures
from jetmae.report.comparison import (
    MISSING,
    Row,
    cells,
    compare,
    comparison_table,
    explained_variance_columns,
    print_table,
)
from jetmae.report.conclusions import headline
from jetmae.report.evaluation_results import Predictions, Reconstruction
from jetmae.report.run_reader import RecordedRun, read_runs
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
_ENERGY_CHANNELS = ("pt", "ecal", "hcal")


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in the page."""

    file_name: str
    png: bytes
    alternative_text: str
    caption: str = ""

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def write_report(run_folders: Iterable[Path], output: Path, title: str) -> Path:
    """Write `output/report.html` and its PNGs; each file is replaced whole. Returns the page's path.

    Runs may be missing or unfinished: what is not there is said, not drawn.

    Raises:
        JetmaeError: a folder is no run, none has metrics yet, or `output` cannot be written.
    """
    runs = read_runs(run_folders)
    content = page_content(runs, title)
    folder = make_folder(Path(output))
    page = folder / "report.html"
    for picture in _pictures_of(content):
        _write(folder / picture.file_name, picture.png)
    _write(page, _template().render(content).encode())
    return page


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files("jetmae.report").joinpath("page.html").read_text(encoding="utf-8"))


def _write(path: Path, content: bytes) -> None:
    try:
        with written_aside(path) as aside:
            aside.write_bytes(content)
    except OSError as error:
        raise JetmaeError(f"cannot write {path} ({error.strerror}); choose another output folder") from error


def page_content(runs: Sequence[RecordedRun], title: str) -> dict[str, Any]:
    """Everything the template shows, by name."""
    rows = compare(runs)
    sentences = headline(runs)
    return {
        "title": title,
        "written_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "headline": sentences[0] if sentences else "Nothing to compare yet.",
        "more_sentences": sentences[1:],
        "rows": [{"row": row, "cells": cells(row), "colour": figure_style.KIND_COLOUR[row.kind]} for row in rows],
        "several_references": len({row.delta_reference for row in rows if row.delta_reference}) > 1,
        "classified": any(row.kind != "pretrain" for row in rows),
        "curves": _curves(runs),
        "classification": _classification(runs),
        "confusion": _confusion(runs),
        "pretraining": [_pretraining(run, row) for run, row in zip(runs, rows, strict=True) if run.kind == "pretrain"],
        "parts": PART_COLOUR,
        "times": _times(runs),
        "setup": [_setup(run, row) for run, row in zip(runs, rows, strict=True)],
    }


def _pictures_of(content: dict[str, Any]) -> list[Picture]:
    pictures = [*content["curves"], *content["classification"]]
    for chapter in content["pretraining"]:
        pictures += [*chapter["bars"], *chapter["events"], *chapter["more_events"], *chapter["means"]]
    return pictures


def _curves(runs: Sequence[RecordedRun]) -> list[Picture]:
    figures = [
        ("loss_curves", curve_figures.loss_curves(runs), "Loss and validation AUC of all runs against jets seen", ""),
        ("learning_rate", curve_figures.learning_rates(runs), "Learning rate of all runs against jets seen", ""),
    ]
    return [_picture(name, figure, text, caption) for name, figure, text, caption in figures if figure]


def _classification(runs: Sequence[RecordedRun]) -> list[Picture]:
    found = _all_predictions(runs)
    if not found:
        return []
    styles = figure_style.run_styles(runs)
    signal, background = _class_names(found)
    figures = [
        ("roc", classifier_figures.roc_curves(found, styles), "ROC curves",
         (f"Signal: {signal}; background: {background}. Bands: binomial uncertainty of the background. Curves end where"
          " fewer than 3 background jets are left.")),
        ("auc_against_pt", classifier_figures.auc_against_pt(found, styles), "AUC in bins of jet pT",
         "Six bins with equally many jets; points are shifted sideways to be seen."),
        ("calibration", classifier_figures.calibration(found, styles), "Calibration",
         "On the diagonal a score of 0.8 means 80 % signal. Below it the network is too sure of a signal."),
        ("scores", classifier_figures.score_histograms(found, styles), "Histograms of the scores by class",
         "Share of the jets of each class per bin of the score, logarithmic."),
    ]  # fmt: skip
    return [_picture(name, figure, text, caption) for name, figure, text, caption in figures if figure]


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


def _pretraining(run: RecordedRun, row: Row) -> dict[str, Any]:
    splits = {split: found for split in ("train", "test") if (found := run.reconstruction(split)) is not None}
    events = [_event(run, split, found, example) for split, found, example in _examples(splits)]
    return {
        "name": run.name,
        "splits": list(splits),
        "loss_space": next((found.loss_space for found in splits.values()), ""),
        "explained": explained_variance_columns(row) if row.explained_variance else None,
        "has_mean_image": bool(row.by_mean_image),
        "bars": _bars(run, row),
        "events": [picture for picture, first in events if first],
        "more_events": [picture for picture, first in events if not first],
        "means": [_mean_picture(run, split, found) for split, found in splits.items() if found.image.size],
        "notes": unit_notes(next(iter(splits.values()), None)),
    }


def _bars(run: RecordedRun, row: Row) -> list[Picture]:
    if not row.explained_variance:
        return []
    figure = reconstruction_figures.explained_variance_bars(row.explained_variance, row.by_mean_image)
    return [_picture(f"{_slug(run.name)}_explained_variance", figure, f"Explained variance per channel, {run.name}")]


def _examples(splits: dict[str, Reconstruction]) -> Iterable[tuple[str, Reconstruction, int]]:
    """The first jet of each class, or the first jet, of every split."""
    for split, found in splits.items():
        labels = found.label.tolist() if found.label is not None else [0] * len(found.image)
        for label in dict.fromkeys(labels):
            yield split, found, labels.index(label)


def _event(run: RecordedRun, split: str, found: Reconstruction, example: int) -> tuple[Picture, bool]:
    """The picture, and whether it is the split's first."""
    jet = f"{'Training' if split == 'train' else 'Test'} jet{_of_class(found, example)}"
    caption = f"{jet}; {_share(found, example)} of it hidden."
    figure = reconstruction_figures.event_pictures(found, example)
    picture = _picture(f"{_slug(run.name)}_event_{split}_{example}", figure, caption, caption)
    return picture, example == 0


def _of_class(found: Reconstruction, example: int) -> str:
    """`, top`, or nothing where the data does not say."""
    if found.label is None or found.classes is None:
        return ""
    return f", {found.classes[int(found.label[example])]}"


def _share(found: Reconstruction, example: int) -> str:
    return f"{100 * found.mask[example].mean():.0f} %"


def _mean_picture(run: RecordedRun, split: str, found: Reconstruction) -> Picture:
    jets = f"{'training' if split == 'train' else 'test'} jets"
    number = "" if found.pictured_jets is None else f"{found.pictured_jets} "
    caption = f"Mean over {number}{jets}, each pixel where it was hidden."
    return _picture(f"{_slug(run.name)}_mean_{split}", reconstruction_figures.mean_pictures(found), caption, caption)


def unit_notes(found: Reconstruction | None) -> list[str]:
    """Notes on what cannot be concluded because of the units."""
    if found is None:
        return []
    pairs = zip(found.channels, found.units, strict=True)
    lost = [(c, u) for c, u in pairs if any(e in c.lower() for e in _ENERGY_CHANNELS) and "gev" not in u.lower()]
    if not lost:
        return []
    names = ", ".join(f"{channel} in “{unit}”" for channel, unit in lost)
    return [f"Not in GeV: {names}. Images scaled per sample: absolute GeV is lost, so closure in GeV is not defined."]


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


def _picture(name: str, figure: Figure, alternative_text: str, caption: str = "") -> Picture:
    return Picture(f"{name}.png", figure_style.png_bytes(figure), alternative_text, caption)


def _slug(name: str) -> str:
    """A file name from a run's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
