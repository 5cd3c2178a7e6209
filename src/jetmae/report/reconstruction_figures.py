"""What a pretrained network predicts of hidden patches on average: explained variance, mean images."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from jetmae.metrics import Floats, Measurement
from jetmae.report.channel_names import channel_name
from jetmae.report.eta_phi import extent_of, label_eta_phi
from jetmae.report.evaluation_results import Reconstruction
from jetmae.report.figure_style import REFERENCE_COLOUR, SPLIT_COLOUR, label_axes, legend, make_panels
from jetmae.report.image_colours import draw_colour_bar, draw_image, scale_of


def explained_variance_bars(
    per_split: Mapping[str, Mapping[str, Measurement]], by_mean_image: Mapping[str, Measurement]
) -> Figure:
    """Explained variance of masked pixels per channel, training beside test, with error bars.

    There is a line at what the mean training jet explains of test jets, if that is known.
    """
    figure, (ax,) = make_panels(1, height_in=4.0)
    channels = list(next(iter(per_split.values())))
    width = 0.8 / len(per_split)
    for number, (split, values) in enumerate(per_split.items()):
        at = np.arange(len(channels), dtype=np.float64) + (number - (len(per_split) - 1) / 2) * width
        value, sigma = np.array([values[channel] for channel in channels]).T
        ax.bar(at, value, width * 0.92, color=SPLIT_COLOUR[split], label=f"{split} jets")
        ax.errorbar(at, value, sigma, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
        _write_above(ax, at, value, sigma)
        if split == "test" and by_mean_image:
            level = [by_mean_image[channel].value for channel in channels]
            ends = at - width / 2, at + width / 2
            ax.hlines(level, *ends, color=REFERENCE_COLOUR, label="mean of the training jets, on test jets")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(np.arange(len(channels)), [channel_name(channel) for channel in channels])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.margins(y=0.15)
    label_axes(ax, "", "explained variance, masked pixels")
    legend(ax, loc="best")
    return figure


def _write_above(ax: Axes, at: Floats, value: Floats, sigma: Floats) -> None:
    for x, y, error in zip(at, value, np.nan_to_num(sigma), strict=True):
        text, height = ("n/a", 0.0) if np.isnan(y) else (f"{round(100 * y, 1) + 0.0:.1f}", max(0.0, y + error))
        ax.annotate(text, (x, height), (0, 3), textcoords="offset points", ha="center", fontsize=8, color="#333333")


def mean_pictures(found: Reconstruction) -> Figure:
    """Mean over jets where masked, per channel: input and reconstruction on one scale, two channels to a row."""
    num_rows = -(-len(found.channels) // 2)
    figure = Figure(figsize=(12, 2.85 * num_rows + 0.4))
    grid = figure.add_gridspec(
        num_rows, 7, width_ratios=(1, 1, 0.05, 0.32, 1, 1, 0.05), wspace=0.06, hspace=0.2,
        left=0.055, right=0.95, top=1 - 0.4 / figure.get_figheight(), bottom=0.45 / figure.get_figheight(),
    )  # fmt: skip
    for channel, name in enumerate(found.channels):
        pair = np.stack([found.mean_image[channel], found.mean_reconstruction[channel]])
        # One scale for both: otherwise a prediction below the smallest mean of the input would not be seen.
        scale, colours = scale_of(pair, name)
        for number, title in enumerate(("input", "reconstruction")):
            ax = figure.add_subplot(grid[channel // 2, 4 * (channel % 2) + number])
            draw_image(ax, pair[number], scale, colours, extent_of(pair.shape))
            label_eta_phi(ax, pair.shape, eta=number == 0, phi=channel >= len(found.channels) - 2)
            ax.set_title(f"{channel_name(name)}: {title}", fontsize=11)
        bar = figure.add_subplot(grid[channel // 2, 4 * (channel % 2) + 2])
        draw_colour_bar(bar, scale, colours, found.units[channel])
    return figure
