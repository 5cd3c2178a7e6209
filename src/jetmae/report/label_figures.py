"""How many labels a pretraining saves: AUC against the number of training labels."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullFormatter, NullLocator

from jetmae.metrics import Floats
from jetmae.report.figure_style import GREY, KIND_COLOUR, finish_axes, label_axes, legend, plain_text
from jetmae.report.label_efficiency import LabelCurve, LabelDifference, LabelStudy

_LINE_STYLES = ("-", "--", "-.", ":")
_AUC_TICKS = (0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)


def label_efficiency(study: LabelStudy) -> Figure:
    """AUC against labels, bands: spread of the runs; below it fine-tuned minus scratch, if there are pairs."""
    has_pairs = bool(study.differences)
    figure = Figure(figsize=(8, 7.2 if has_pairs else 5.2), layout="constrained")
    ratios = (2.6, 1) if has_pairs else (1,)
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios).ravel().tolist()
    _draw_curves(axes[0], study.curves)
    label_axes(axes[0], "" if has_pairs else "training labels", "AUC, test jets")
    if has_pairs:
        _draw_differences(axes[1], study.differences)
        label_axes(axes[1], "training labels", "fine-tuned\n\N{MINUS SIGN} scratch")
    figure.align_ylabels(axes)
    _label_ticks(axes[-1], sorted({point.num_labels for curve in study.curves for point in curve.points}))
    return figure


def _draw_curves(ax: Axes, curves: Sequence[LabelCurve]) -> None:
    kinds: dict[str, int] = {}
    lowest = 1.0
    for curve in curves:
        style = _LINE_STYLES[kinds.setdefault(curve.kind, 0) % len(_LINE_STYLES)]
        kinds[curve.kind] += 1
        _draw_curve(ax, curve, style)
        lowest = min(lowest, *(float(point.aucs.min()) for point in curve.points))
    finish_axes(ax)
    ax.set_xscale("log")
    _stretch_towards_one(ax, lowest, max(float(point.aucs.max()) for curve in curves for point in curve.points))
    legend(ax, loc="outside", num_columns=2)


def _draw_curve(ax: Axes, curve: LabelCurve, line_style: str) -> None:
    colour = KIND_COLOUR[curve.kind]
    labels = np.array([point.num_labels for point in curve.points])
    mean = np.array([point.mean for point in curve.points])
    spread = np.nan_to_num(np.array([point.spread for point in curve.points]))
    ax.fill_between(labels, mean - spread, np.minimum(mean + spread, 0.9999), color=colour, alpha=0.18, linewidth=0)
    ax.plot(labels, mean, color=colour, linestyle=line_style, marker="o", markersize=4.5, label=plain_text(curve.name))
    for point in curve.points:
        ax.plot([point.num_labels] * point.aucs.size, point.aucs, ".", color=colour, alpha=0.45, markersize=3)


def _stretch_towards_one(ax: Axes, lowest: float, highest: float) -> None:
    """An axis in log(1 - AUC): the step from 0.98 to 0.99 halves the errors as that from 0.8 to 0.9 does."""
    ax.set_yscale("function", functions=(_stretched, _unstretched))
    low, high = _unstretched(np.array([_stretched(lowest) - 0.06, _stretched(highest) + 0.1])).tolist()
    ax.set_ylim(low, high)
    ticks = [tick for tick in _AUC_TICKS if low <= tick <= high]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def _stretched(auc: Floats | float) -> Floats:
    return -np.log10(np.maximum(1 - np.asarray(auc, dtype=np.float64), 1e-6))


def _unstretched(stretched: Floats | float) -> Floats:
    return 1 - 10 ** -np.asarray(stretched, dtype=np.float64)


def _draw_differences(ax: Axes, differences: Sequence[LabelDifference]) -> None:
    """Thick: one standard deviation of everything. Thin caps: the part of the test jets."""
    colour = KIND_COLOUR["finetune"]
    names = list(dict.fromkeys(difference.settings for difference in differences))
    for number, name in enumerate(names):
        mine = [difference for difference in differences if difference.settings == name]
        # Curves of several settings are shifted sideways to be seen.
        labels = np.array([d.num_labels for d in mine]) * 1.06 ** (number - (len(names) - 1) / 2)
        value, sigma = np.array([d.mean.delta for d in mine]).T
        ax.errorbar(labels, value, sigma, fmt="o", color=colour, markersize=5, elinewidth=2, zorder=3)
        ax.errorbar(labels, value, [d.test_sigma for d in mine], fmt="none", ecolor="black", elinewidth=0, capsize=4)
    ax.axhline(0, color=GREY, linewidth=1)
    finish_axes(ax)
    ax.margins(y=0.2)


def _label_ticks(ax: Axes, labels: Sequence[int]) -> None:
    """At the numbers of labels that were tried; of two close ones the larger."""
    told: list[int] = []
    for number in reversed(labels):
        if not told or told[-1] / number > 1.35:
            told.append(number)
    ax.xaxis.set_major_locator(FixedLocator(told))
    ax.xaxis.set_major_formatter(FixedFormatter([f"{number:,}" for number in told]))
    ax.xaxis.set_minor_formatter(NullFormatter())
