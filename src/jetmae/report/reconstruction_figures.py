"""What a pretrained network predicts of hidden patches: explained variance, single jets, mean images."""

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from jetmae.metrics import Floats, Measurement
from jetmae.report.evaluation_results import Reconstruction
from jetmae.report.figure_style import (
    MINUS,
    REFERENCE_COLOUR,
    SPLIT_COLOUR,
    label_axes,
    legend,
    make_panels,
    plain_text,
)

_HIDDEN_GREY = "#C9CDD2"  # masked patches in the pictures
_SIGNED_CHANNELS = ("d0", "dz")


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
    ax.set_xticks(np.arange(len(channels)), [plain_text(channel) for channel in channels])
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.margins(y=0.15)
    label_axes(ax, "", "explained variance, masked pixels")
    legend(ax, loc="best")
    return figure


def _write_above(ax: Axes, at: Floats, value: Floats, sigma: Floats) -> None:
    for x, y, error in zip(at, value, np.nan_to_num(sigma), strict=True):
        text, height = ("n/a", 0.0) if np.isnan(y) else (f"{round(100 * y, 1) + 0.0:.1f}", max(0.0, y + error))
        ax.annotate(text, (x, height), (0, 3), textcoords="offset points", ha="center", fontsize=8, color="#333333")


def event_pictures(found: Reconstruction, example: int) -> Figure:
    """One jet: a row per channel; input, what the encoder saw, the input completed by the network, and the residual.

    The completed picture shows predictions in hidden patches and the input elsewhere; the residual, prediction minus
    input, exists in hidden patches only.
    """
    num_channels = len(found.channels)
    figure = Figure(figsize=(12, 2.45 * num_channels + 0.7))
    grid = figure.add_gridspec(
        num_channels, 7, width_ratios=(1, 1, 1, 0.05, 0.17, 1, 0.05), wspace=0.06, hspace=0.06,
        left=0.05, right=0.945, top=1 - 0.45 / figure.get_figheight(), bottom=0.25 / figure.get_figheight(),
    )  # fmt: skip
    for channel in range(num_channels):
        images = _event_images(found, example, channel)
        scale, colours = _scale(found.image[:, channel], found.channels[channel])
        row = [figure.add_subplot(grid[channel, column]) for column in (0, 1, 2, 5)]
        for ax, image in zip(row[:3], images[:3], strict=True):
            _picture(ax, image, scale, colours)
        residual_scale = _symmetric_scale(found.image[:, channel])
        _picture(row[3], images[3], residual_scale, _diverging())
        _colour_bar(figure.add_subplot(grid[channel, 3]), scale, colours, found.units[channel])
        _colour_bar(figure.add_subplot(grid[channel, 6]), residual_scale, _diverging(), found.units[channel])
        row[0].set_ylabel(plain_text(found.channels[channel]), fontsize=12, fontweight="bold")
        if channel == 0:
            titles = ("input", "masked input", "reconstruction", f"reconstruction {MINUS} input")
            for ax, title in zip(row, titles, strict=True):
                ax.set_title(title, fontsize=12)
    return figure


def _event_images(found: Reconstruction, example: int, channel: int) -> tuple[NDArray[np.float32], ...]:
    """Input, masked input, the input completed by the prediction, and the residual, each (H, W).

    The masked input is nan where hidden, the residual 0 where visible.
    """
    image, prediction = found.image[example, channel], found.reconstruction[example, channel]
    hidden = found.mask[example]
    completed = np.where(hidden, prediction, image)
    return image, np.where(hidden, np.nan, image), completed, completed - image


def mean_pictures(found: Reconstruction) -> Figure:
    """Mean over jets where masked, per channel: input and reconstruction on one scale, two channels to a row."""
    num_rows = -(-len(found.channels) // 2)
    figure = Figure(figsize=(12, 2.85 * num_rows + 0.4))
    grid = figure.add_gridspec(
        num_rows, 7, width_ratios=(1, 1, 0.05, 0.32, 1, 1, 0.05), wspace=0.06, hspace=0.2,
        left=0.015, right=0.93, top=1 - 0.4 / figure.get_figheight(), bottom=0.1 / figure.get_figheight(),
    )  # fmt: skip
    for channel, name in enumerate(found.channels):
        pair = np.stack([found.mean_image[channel], found.mean_reconstruction[channel]])
        # One scale for both: otherwise a prediction below the smallest mean of the input would not be seen.
        scale, colours = _scale(pair, name)
        for number, title in enumerate(("input", "reconstruction")):
            ax = figure.add_subplot(grid[channel // 2, 4 * (channel % 2) + number])
            _picture(ax, pair[number], scale, colours)
            ax.set_title(f"{plain_text(name)}: {title}", fontsize=11)
        bar = figure.add_subplot(grid[channel // 2, 4 * (channel % 2) + 2])
        _colour_bar(bar, scale, colours, found.units[channel])
    return figure


def _scale(values: NDArray[np.float32], channel: str) -> tuple[Normalize, Colormap]:
    """Logarithmic up to the largest value; for channels with both signs, two colours from zero on."""
    if any(name in channel.lower() for name in _SIGNED_CHANNELS) or (values < 0).any():
        return _symmetric_scale(values), _diverging()
    floor, top = _floor_and_top(values, 0.05)
    return LogNorm(floor, top), _sequential()


def _symmetric_scale(values: NDArray[np.float32]) -> SymLogNorm:
    floor, top = _floor_and_top(values, 0.25)
    return SymLogNorm(linthresh=floor, linscale=0.5, vmin=-top, vmax=top)


def _floor_and_top(values: NDArray[np.float32], floor_quantile: float) -> tuple[float, float]:
    """Bounds of a logarithmic scale, a factor of 30 to 1000 apart: predictions are fainter than hits."""
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    if size.size == 0:
        return 0.1, 1.0
    top = float(size.max())
    return min(max(float(np.quantile(size, floor_quantile)), top / 1e3), top / 30), top


def _sequential() -> Colormap:
    """White below the smallest value shown, grey where nothing is known."""
    # The brightest yellow would be lost on white, and most jets are single bright or faint pixels on white.
    colours = colormaps["viridis_r"](np.linspace(0.12, 1, 256))
    return ListedColormap(colours).with_extremes(under="white", bad=_HIDDEN_GREY)


def _diverging() -> Colormap:
    return colormaps["RdBu_r"].with_extremes(bad=_HIDDEN_GREY)


def _picture(ax: Axes, image_HW: NDArray[np.float32], scale: Normalize, colours: Colormap) -> None:
    # Zero and negative predictions have no logarithm: they belong below the scale (white), not to the unknown (grey).
    shown = np.where(image_HW <= 0, _ends(scale)[0] / 10, image_HW) if isinstance(scale, LogNorm) else image_HW
    shown = np.ma.masked_invalid(shown)
    ax.imshow(shown, norm=scale, cmap=colours, origin="lower", interpolation="nearest", aspect="equal")
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set(color="#9A9A9A", linewidth=0.6)


def _colour_bar(ax: Axes, scale: Normalize, colours: Colormap, unit: str) -> None:
    bar = ax.figure.colorbar(
        ScalarMappable(scale, colours), cax=ax, extend="min" if isinstance(scale, LogNorm) else None
    )
    ticks = _ticks(scale)
    bar.set_ticks(ticks, labels=[f"{tick:g}".replace("-", MINUS) for tick in ticks], fontsize=8)
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=2.5)
    # Above the bar: beside it the unit would stand in the next picture.
    bar.ax.set_title(plain_text(unit), fontsize=8, pad=2)
    bar.outline.set_linewidth(0.5)


def _ends(scale: Normalize) -> tuple[float, float]:
    """Its smallest and its largest value."""
    if scale.vmin is None or scale.vmax is None:
        raise ValueError("a scale of these pictures is made with both of its ends")
    return scale.vmin, scale.vmax


def _ticks(scale: Normalize, spacing: float = 0.11) -> list[float]:
    """Zero and 1, 2, 5 times powers of ten, whole powers first, none closer than `spacing` of the bar's length."""
    low, high = _ends(scale)
    highest = int(np.floor(np.log10(high)))
    exponents = range(highest, highest - 8, -1)
    candidates = np.array([0.0] + [sign * f * 10.0**e for f in (1, 2, 5) for e in exponents for sign in (1, -1)])
    candidates = candidates[(candidates >= low) & (candidates <= high)]
    chosen: dict[float, float] = {}
    for tick, position in zip(candidates.tolist(), np.asarray(scale(candidates)).tolist(), strict=True):
        if all(abs(position - other) >= spacing for other in chosen.values()):
            chosen[tick] = position
    return sorted(chosen)
