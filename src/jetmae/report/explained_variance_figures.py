"""Explained variance as bars: network beside the simple predictors, and what the network has more."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from jetmae.report.channel_names import channel_name
from jetmae.report.explained_variance import HiddenScore
from jetmae.report.figure_style import GREY, MINUS, Style, finish_axes, label_axes, legend

_PREDICTOR_COLOUR = {
    "network": "#0072B2",
    "ridge": "#E69F00",
    "scaled mean image": "#9AA0A6",
    "mean image": "#D5D8DC",
}
_MARKER = {"ridge": "o", "scaled mean image": "s", "mean image": "D"}


def hidden_score_bars(score: HiddenScore) -> Figure:
    """Left: explained variance of every predictor, per channel. Right: network minus each simple predictor."""
    has_gain = bool(score.gain)
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, 1 + has_gain, squeeze=False, width_ratios=(1.25, 1)[: 1 + has_gain]).ravel().tolist()
    _draw_bars(axes[0], score)
    if has_gain:
        _draw_gains(axes[1], score)
    figure.suptitle(score.title, fontsize=12, x=0.01, ha="left")
    return figure


def _draw_bars(ax: Axes, score: HiddenScore) -> None:
    width = 0.82 / len(score.explained)
    for number, (predictor, per_channel) in enumerate(score.explained.items()):
        value, sigma = np.array(list(per_channel.values())).T
        at = np.arange(len(value)) + (number - (len(score.explained) - 1) / 2) * width
        colour = _PREDICTOR_COLOUR[predictor]
        ax.bar(at, value, width, color=colour, edgecolor="white", linewidth=0.4, label=predictor)
        ax.errorbar(at, value, sigma, fmt="none", ecolor="#222222", elinewidth=0.9, capsize=1.5)
    _finish(ax, score, "explained variance")
    legend(ax, loc="outside", num_columns=4)


def _draw_gains(ax: Axes, score: HiddenScore) -> None:
    for number, (predictor, per_channel) in enumerate(score.gain.items()):
        value, sigma = np.array(list(per_channel.values())).T
        at = np.arange(len(value)) + (number - (len(score.gain) - 1) / 2) * 0.18
        colour = "#5F6368" if predictor == "mean image" else _PREDICTOR_COLOUR[predictor]
        style: Style = {
            "marker": _MARKER[predictor],
            "color": colour,
            "markersize": 4.5,
            "capsize": 2,
            "linestyle": "none",
        }
        ax.errorbar(at, value, sigma, label=predictor, **style)
    _finish(ax, score, f"network {MINUS} predictor")
    legend(ax, loc="outside", num_columns=3)


def _finish(ax: Axes, score: HiddenScore, label: str) -> None:
    ax.axhline(0, color=GREY, linewidth=0.8)
    finish_axes(ax)
    channels = list(score.explained["network"])
    ax.set_xticks(np.arange(len(channels)), [channel_name(channel) for channel in channels])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(_percent))
    ax.set_xlim(-0.6, len(channels) - 0.4)
    ax.margins(y=0.14)
    label_axes(ax, "", label)
    ax.tick_params(axis="x", which="both", length=0)


def _percent(value: float, position: int | None) -> str:  # noqa: ARG001  matplotlib gives both
    return f"{round(100 * value, 6):g} %".replace("-", MINUS)
