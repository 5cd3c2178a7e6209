"""Closure of whole jets: reconstructed against truth."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from jetmae.report.channel_names import channel_name
from jetmae.report.closure import ratios, summary, unit_of
from jetmae.report.evaluation_results import ClosurePair
from jetmae.report.figure_style import GREY, REFERENCE_COLOUR, finish_axes, label_axes

_BINS = 8  # of the truth, with equally many jets
_WORDS = {"jet_pt_gev": r"jet $p_T$", "jet_mass_gev": "jet mass"}


def closure(pairs: Sequence[ClosurePair]) -> Figure:
    """A column per property: jets in the plane of truth and reconstructed; below, their ratio in bins of the truth."""
    figure = Figure(figsize=(max(5.0, 4.0 * len(pairs)), 5.6), layout="constrained")
    axes = figure.subplots(2, len(pairs), squeeze=False, height_ratios=(2, 1), sharex="col")
    for (above, below), pair in zip(axes.T, pairs, strict=True):
        _draw_plane(above, pair)
        _draw_ratio(below, pair)
    return figure


def _draw_plane(ax: Axes, pair: ClosurePair) -> None:
    both = np.concatenate([pair.truth, pair.reconstructed])
    low, high = np.quantile(both[np.isfinite(both)], (0.0, 0.995)) if np.isfinite(both).any() else (0.0, 1.0)
    high = high if high > low else low + 1
    counts, *edges = np.histogram2d(pair.truth, pair.reconstructed, bins=45, range=((low, high), (low, high)))
    colours = colormaps["Blues"].with_extremes(bad="white")
    shown = np.ma.masked_less_equal(counts.T, 0)
    ax.pcolormesh(*edges, shown, cmap=colours, norm=LogNorm(0.5, max(1.0, counts.max())), rasterized=True)
    ax.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle=(0, (1, 2)))
    found = summary(pair)
    text = f"median ratio {found.median_ratio:.3f}\n68 % within ± {found.half_width:.3f}"
    ax.text(0.04, 0.96, text, transform=ax.transAxes, va="top", fontsize=9)
    finish_axes(ax)
    ax.set(xlim=(low, high), ylim=(low, high))
    label_axes(ax, "", f"reconstructed {_name(pair)} [{unit_of(pair.what)}]")


def _draw_ratio(ax: Axes, pair: ClosurePair) -> None:
    """Median and central 68 % of the ratio."""
    truth, ratio = ratios(pair)
    edges = np.unique(np.quantile(truth, np.linspace(0, 1, _BINS + 1))) if truth.size else np.array([])
    index = np.searchsorted(edges, truth, side="right").clip(1, max(1, edges.size - 1))
    inside = [ratio[index == number] for number in range(1, edges.size)]
    quantiles = np.array([np.quantile(r, (0.16, 0.5, 0.84)) if r.size else (np.nan,) * 3 for r in inside])
    if quantiles.size:
        low, median, high = quantiles.T
        centre, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
        ax.errorbar(
            centre, median, (median - low, high - median), half, fmt="o", color=REFERENCE_COLOUR, markersize=3.5
        )
    ax.axhline(1, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
    finish_axes(ax)
    label_axes(ax, f"true {_name(pair)} [{unit_of(pair.what)}]", "ratio")


def _name(pair: ClosurePair) -> str:
    return _WORDS.get(pair.what) or channel_name(pair.what.rpartition("_")[0])
