"""Curves over the training: losses and learning rates."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from jetmae.metrics import Floats
from jetmae.report.figure_style import Style, label_axes, legend, make_panels, plain_text, run_styles
from jetmae.report.run_reader import RecordedRun


def loss_curves(runs: Sequence[RecordedRun]) -> Figure | None:
    """Pretraining loss, classification loss and validation AUC against jets seen, one panel each."""
    classifiers = [run for run in runs if run.kind != "pretrain"]
    panels = [
        ("pretraining loss", [run for run in runs if run.kind == "pretrain"], "loss", ("train", "validation")),
        ("classification loss", classifiers, "loss", ("train", "validation")),
        ("validation AUC", classifiers, "auc", ("validation",)),
    ]
    panels = [panel for panel in panels if any(_has(run, panel[2], panel[3]) for run in panel[1])]
    if not panels:
        return None
    figure, axes = make_panels(len(panels), height_in=4.2)
    for ax, (title, members, key, splits) in zip(axes, panels, strict=True):
        _draw_series(ax, members, run_styles(runs), key, splits)
        label_axes(ax, "jets seen", title)
        if key == "loss":
            _log_if_wide(ax)
    return figure


def learning_rates(runs: Sequence[RecordedRun]) -> Figure | None:
    """Learning rate of every run against jets seen, on a logarithmic axis."""
    members = [run for run in runs if _has(run, "lr", ("train",))]
    if not members:
        return None
    figure, (ax,) = make_panels(1, height_in=3.6, width_in=7.5)
    for run in members:
        samples, rate = run.series("train", "lr")
        ax.plot(samples, np.where(rate > 0, rate, np.nan), label=plain_text(run.name), **run_styles(runs)[run.name])
    ax.set_yscale("log")
    label_axes(ax, "jets seen", "learning rate")
    legend(ax)
    return figure


def _has(run: RecordedRun, key: str, splits: Sequence[str]) -> bool:
    return any(run.series(split, key)[0].size for split in splits)


def _draw_series(
    ax: Axes, runs: Sequence[RecordedRun], styles: Mapping[str, Style], key: str, splits: Sequence[str]
) -> None:
    """Training: every step faintly, a running mean on top, thin. Validation: thick, with points."""
    for run in runs:
        style = styles[run.name]
        if "train" in splits:
            samples, values = run.series("train", key)
            ax.plot(*_thinned(samples, values), color=style["color"], alpha=0.15, linewidth=0.7)
            ax.plot(*_thinned(samples, _running_mean(values)), color=style["color"], alpha=0.75, linewidth=1.0)
        samples, values = run.series("validation", key)
        marker = "o" if samples.size <= 30 else None
        ax.plot(samples, values, label=plain_text(run.name), marker=marker, markersize=4, linewidth=2, **style)
    note = "thick: validation\nthin: training, running mean" if "train" in splits else None
    legend(ax, title=note)


def _running_mean(values: Floats) -> Floats:
    """Mean over a window of a 30th of the run, centred, shorter at the ends."""
    half = len(values) // 60
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    mean: Floats = (total[high] - total[low]) / (high - low)
    return mean


def _thinned(samples: Floats, values: Floats, at_most: int = 4000) -> tuple[Floats, Floats]:
    every = max(1, -(-len(values) // at_most))
    return samples[::every], values[::every]


def _log_if_wide(ax: Axes) -> None:
    """A logarithmic axis where the loss falls by more than a factor of three, decades apart."""
    low, high = ax.dataLim.intervaly
    if low > 0 and high / low > 3:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
