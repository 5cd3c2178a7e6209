"""The comparison of fine-tuning with training from scratch and with linear probes: one row per run."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jetmae import metrics
from jetmae.metrics import UNKNOWN, ChannelMeasurement, Measurement
from jetmae.records.metrics import number_of
from jetmae.report.controls import control_of
from jetmae.report.evaluation_results import Predictions, Reconstruction
from jetmae.report.run_reader import RecordedRun, read_runs

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"

_FULL_WIDTH = 136  # characters that all columns of the terminal table need


@dataclass(frozen=True)
class Row:
    """One run in the comparison; everything on the test jets, nan where it does not apply or is not there yet."""

    name: str
    kind: str  # one of run_reader.KINDS
    state: str  # "finished", or how far it is
    jets_seen: int  # with repetition
    steps: int
    accuracy: Measurement = UNKNOWN  # fraction
    auc: Measurement = UNKNOWN
    calibration_error: Measurement = UNKNOWN  # expected, of the score as a probability
    rejection_30: Measurement = UNKNOWN  # 1 / eps_B at 30 % signal efficiency; (inf, nan): no background jet passed
    rejection_50: Measurement = UNKNOWN
    rejection_limit: float = math.nan  # 95 % lower limit that replaces an infinite rejection
    delta_auc: Measurement = UNKNOWN  # this run minus `delta_reference`
    delta_reference: str = ""
    delta_paired: bool = True  # False: scored on other jets than the reference, correlations unknown
    explained_variance: dict[str, dict[str, Measurement]] = field(default_factory=dict)  # split -> channel
    by_mean_image: dict[str, Measurement] = field(default_factory=dict)  # channel -> by the mean training jet
    over_mean_image: dict[str, Measurement] = field(default_factory=dict)  # channel -> by the run, minus that


def comparison_table(run_folders: Iterable[Path]) -> list[Row]:
    """Rows in the order fine-tuned, scratch, probe, random probe, pretraining.

    Raises:
        JetmaeError: a folder is no run, or none of them has metrics yet.
    """
    return compare(read_runs(run_folders))


def compare(runs: Sequence[RecordedRun]) -> list[Row]:
    """The rows of runs that were read already."""
    predictions = {run.name: run.predictions() for run in runs}
    return [_with_difference(_row(run, predictions[run.name]), run, runs, predictions) for run in runs]


def _row(run: RecordedRun, predictions: Predictions | None) -> Row:
    last = run.last("train") or run.last("validation")
    jets_seen, steps = (int(last.samples or 0), last.step) if last else (0, 0)
    row = Row(run.name, run.kind, _state(run), jets_seen, steps)
    if run.kind == "pretrain":
        return _with_explained_variance(row, run)
    if predictions is None:
        return row
    score, label = predictions.score, predictions.label
    return replace(
        row,
        accuracy=metrics.accuracy(score, label),
        auc=metrics.measure_auc(score, label),
        calibration_error=metrics.expected_calibration_error(score, label),
        rejection_30=metrics.background_rejection(score, label, 0.3),
        rejection_50=metrics.background_rejection(score, label, 0.5),
        rejection_limit=metrics.background_rejection_limit(label),
    )


def _state(run: RecordedRun) -> str:
    if run.completed:
        return "finished"
    if not run.metrics:
        return "not started"
    validation = run.last("validation")
    auc = number_of(validation, "auc") if validation else None
    so_far = "" if auc is None else f", validation AUC {auc:.3f}"
    return f"not finished: step {run.metrics[-1].step}{so_far}"


def _with_explained_variance(row: Row, run: RecordedRun) -> Row:
    """Of every split there is; on test jets also beside what the mean of the training jets explains."""
    splits = {split: found for split in ("train", "test") if (found := run.reconstruction(split)) is not None}
    row = replace(row, explained_variance={split: _explained(found, found.sse) for split, found in splits.items()})
    test = splits.get("test")
    if test is None or test.sse_of_mean_image is None:
        return row
    gain = metrics.explained_variance_gain(test.sse, test.sse_of_mean_image, test.sum, test.sum_of_squares, test.count)
    by_mean_image = _explained(test, test.sse_of_mean_image)
    return replace(row, by_mean_image=by_mean_image, over_mean_image=_by_channel(test, gain))


def _explained(found: Reconstruction, sse_NC: NDArray[np.float64]) -> dict[str, Measurement]:
    return _by_channel(found, metrics.explained_variance(sse_NC, found.sum, found.sum_of_squares, found.count))


def _by_channel(found: Reconstruction, result: ChannelMeasurement) -> dict[str, Measurement]:
    values = zip(result.value_C.tolist(), result.uncertainty_C.tolist(), strict=True)
    return dict(zip(found.channels, (Measurement(*pair) for pair in values), strict=True))


def _with_difference(
    row: Row, run: RecordedRun, runs: Sequence[RecordedRun], predictions: dict[str, Predictions | None]
) -> Row:
    """Add the AUC difference to the scratch run of the same problem, if there is one and the run is not scratch."""
    evaluated = {name: found for name, found in predictions.items() if found is not None}
    if run.kind in ("scratch", "pretrain") or run.name not in evaluated:
        return row
    reference = control_of(run, "scratch", runs, evaluated)
    if reference is None:
        return row
    delta, paired = auc_difference(evaluated[run.name], evaluated[reference.name])
    return replace(row, delta_auc=delta, delta_reference=reference.name, delta_paired=paired)


def auc_difference(first: Predictions, second: Predictions) -> tuple[Measurement, bool]:
    """AUC of the first minus AUC of the second, and whether both were scored on the same jets (in any order)."""
    first_order, second_order = np.argsort(first.sample_id), np.argsort(second.sample_id)
    same_jets = np.array_equal(first.sample_id[first_order], second.sample_id[second_order])
    if same_jets and np.array_equal(first.label[first_order], second.label[second_order]):
        scores = first.score[first_order], second.score[second_order]
        return metrics.paired_auc_difference(*scores, first.label[first_order]), True
    one, other = metrics.measure_auc(first.score, first.label), metrics.measure_auc(second.score, second.label)
    return Measurement(one.value - other.value, math.hypot(one.uncertainty, other.uncertainty)), False


def format_measurement(measured: Measurement, *, percent: bool = False, signed: bool = False) -> str:
    """`0.9123 ± 0.0041`, two digits of the uncertainty; a dash for nan."""
    scale = 100.0 if percent else 1.0
    value, uncertainty = measured.value * scale, measured.uncertainty * scale
    if math.isnan(value):
        return MISSING
    known = math.isfinite(uncertainty) and uncertainty > 0
    digits = _num_decimals(uncertainty, percent) if known else 4 - 2 * percent
    text = f"{value:{'+' if signed else ''}.{digits}f}".replace("-", MINUS)
    return text + (f" ± {uncertainty:.{digits}f}" if math.isfinite(uncertainty) else "") + (" %" if percent else "")


def _num_decimals(uncertainty: float, percent: bool) -> int:
    """So that two digits of the uncertainty show; below a tenth of a percent one."""
    decimals = max(0, 1 - math.floor(math.log10(uncertainty)))
    return max(2, decimals - 1) if percent and decimals > 2 else decimals


def format_rejection(rejection: Measurement, limit: float) -> str:
    """As a measurement, or `> 167` (95 % confidence) where no background jet passed the cut."""
    return f"> {limit:.0f}" if math.isinf(rejection.value) else format_measurement(rejection)


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Comparison, and explained variance per channel where there is some, to the terminal."""
    console = console or Console()
    if not console.is_terminal and console.width < _FULL_WIDTH:
        console.width = _FULL_WIDTH  # a log file has no width: the whole table rather than a folded one
    console.print(_terminal_comparison(rows, full=console.width >= _FULL_WIDTH))
    for row in rows:
        if row.state != "finished":
            console.print(f"{_plain(row.name)}: {row.state}", highlight=False)
    for row in rows:
        if row.explained_variance:
            console.print(_terminal_explained_variance(row))


def _terminal_comparison(rows: Sequence[Row], full: bool) -> Table:
    """All columns, or those that fit into 80 characters."""
    table = Table(title="Test jets", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings = (
        "run",
        "kind",
        "jets seen",
        "steps",
        "accuracy",
        "AUC",
        "1/ε_B (30 %)",
        "1/ε_B (50 %)",
        f"AUC {MINUS} scratch",
    )
    shown = range(len(headings)) if full else (0, 4, 5, 7, 8)
    for index in shown:
        table.add_column(headings[index], justify="left" if index < 2 else "right", overflow="fold")
    for row in rows:
        texts = (row.name, row.kind, *cells(row))
        table.add_row(*(_plain(texts[index]) for index in shown))
    return table


def cells(row: Row) -> tuple[str, ...]:
    """Jets seen, steps, accuracy, AUC, 1/eps_B at 30 % and 50 %, difference to scratch, as text."""
    return (
        f"{row.jets_seen:,}" if row.steps else MISSING,
        f"{row.steps:,}" if row.steps else MISSING,
        format_measurement(row.accuracy, percent=True),
        format_measurement(row.auc),
        format_rejection(row.rejection_30, row.rejection_limit),
        format_rejection(row.rejection_50, row.rejection_limit),
        format_measurement(row.delta_auc, signed=True) + ("" if row.delta_paired else " (other jets)"),
    )


def _terminal_explained_variance(row: Row) -> Table:
    title = f"{_plain(row.name)}: explained variance of masked pixels"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), min_width=len(title))
    headings, lines = explained_variance_columns(row)
    for heading in ("channel", *headings):
        table.add_column(heading, justify="left" if heading == "channel" else "right")
    for channel, texts in lines:
        table.add_row(_plain(channel), *texts)
    return table


def explained_variance_columns(row: Row) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Headings, and for each channel a text per heading."""
    columns = {f"{split} jets": _in_percent(values) for split, values in row.explained_variance.items()}
    if row.by_mean_image:
        columns["mean image, test jets"] = _in_percent(row.by_mean_image)
        columns[f"test jets {MINUS} mean image"] = _in_percent(row.over_mean_image, signed=True)
    channels = dict.fromkeys(name for texts in columns.values() for name in texts)
    return list(columns), [(name, [texts.get(name, MISSING) for texts in columns.values()]) for name in channels]


def _in_percent(values: dict[str, Measurement], *, signed: bool = False) -> dict[str, str]:
    return {name: format_measurement(value, percent=True, signed=signed) for name, value in values.items()}


def _plain(text: str) -> str:
    """Square brackets in a name are not markup."""
    return text.replace("[", r"\[")
