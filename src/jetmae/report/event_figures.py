"""One jet as a physicist knows it: the detectors together in eta and phi, and channel by channel.

Grey is what was hidden from the encoder. The reconstruction shows predictions there, and the input elsewhere.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from jetmae.report.channel_names import channel_name
from jetmae.report.eta_phi import draw_towers, extent_of, label_eta_phi
from jetmae.report.evaluation_results import Reconstruction
from jetmae.report.figure_style import MINUS, Style, plain_text
from jetmae.report.image_colours import (
    HIDDEN_GREY,
    diverging,
    draw_colour_bar,
    draw_image,
    scale_of,
    symmetric_scale,
)

Image = NDArray[np.float32]

_TITLES = ("input", "seen by the encoder", "reconstruction", f"reconstruction {MINUS} input")
# Faintest signal that is drawn in the common picture, in the unit of the channel: GeV.
_THRESHOLD = {"hcal": 0.3, "ecal": 0.3, "track_pt": 0.5}
_COLOUR = {"hcal": "#D55E00", "ecal": "#0072B2", "track_pt": "#00664B"}
_LARGEST = 60.0  # area of a marker at 100 GeV, in points squared


def detectors(found: Reconstruction, example: int, patch_size: int) -> Figure | None:
    """Towers, crystals and tracks in one frame: input, what the encoder saw, reconstruction. None if not in GeV."""
    names = {channel.lower(): number for number, channel in enumerate(found.channels)}
    index = {name: names[name] for name in _THRESHOLD if name in names and found.units[names[name]] == "GeV"}
    if len(index) < 2:
        return None
    figure = Figure(figsize=(12, 4.7), layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 0.97)))
    axes = figure.subplots(1, 3, sharey=True).ravel().tolist()
    hidden = found.hidden[example]
    images = _three_images(found.image[example], found.reconstruction[example], hidden)
    for number, (ax, image) in enumerate(zip(axes, images, strict=True)):
        if number == 1:
            _draw_hidden(ax, hidden[list(index.values())].all(axis=0))
        _draw_detectors(ax, image, index)
        draw_towers(ax, image.shape, patch_size)
        label_eta_phi(ax, image.shape, eta=number == 0, phi=True)
        ax.set_title(_TITLES[number], fontsize=12)
    figure.legend(handles=_detector_legend(index), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def channels(found: Reconstruction, example: int, patch_size: int) -> Figure:
    """A row per channel: input, what the encoder saw, the input completed by the network, and the residual."""
    num_channels = len(found.channels)
    figure = Figure(figsize=(12, 2.5 * num_channels + 0.8))
    height_in = figure.get_figheight()
    grid = figure.add_gridspec(
        num_channels, 7, width_ratios=(1, 1, 1, 0.05, 0.2, 1, 0.05), wspace=0.06, hspace=0.08,
        left=0.085, right=0.95, top=1 - 0.4 / height_in, bottom=0.5 / height_in,
    )  # fmt: skip
    for channel in range(num_channels):
        row = [figure.add_subplot(grid[channel, column]) for column in (0, 1, 2, 3, 5, 6)]
        _draw_channel(row, found, example, channel, patch_size)
        if channel == 0:
            for ax, title in zip((*row[:3], row[4]), _TITLES, strict=True):
                ax.set_title(title, fontsize=12)
    return figure


def _draw_channel(row: list[Axes], found: Reconstruction, example: int, channel: int, patch_size: int) -> None:
    """Axes: three images, their colour bar, the residual, its colour bar."""
    *pictures, bar, residual, residual_bar = row
    image, hidden = found.image[example, channel], found.hidden[example, channel]
    images = _three_images(image, found.reconstruction[example, channel], hidden)
    scale, colours = scale_of(found.image[:, channel], found.channels[channel])
    residual_scale = symmetric_scale(found.image[:, channel])
    extent = extent_of(image.shape)
    for ax, shown in zip(pictures, images, strict=True):
        draw_image(ax, shown, scale, colours, extent)
    draw_image(residual, images[2] - image, residual_scale, diverging(), extent)
    is_last = channel == len(found.channels) - 1
    for ax in (*pictures, residual):
        draw_towers(ax, image.shape, patch_size)
        label_eta_phi(ax, image.shape, eta=ax is pictures[0], phi=is_last)
    if hidden.all():
        pictures[1].text(0.5, 0.5, "all of it hidden", transform=pictures[1].transAxes, ha="center", va="center")
    unit = plain_text(found.units[channel])
    name = channel_name(found.channels[channel])
    pictures[0].text(-0.36, 0.5, name, transform=pictures[0].transAxes, ha="center", va="center", rotation=90, size=12)
    draw_colour_bar(bar, scale, colours, unit)
    draw_colour_bar(residual_bar, residual_scale, diverging(), unit)


def _three_images(image: Image, prediction: Image, hidden: NDArray[np.bool_]) -> tuple[Image, Image, Image]:
    """Input, input without what was hidden (nan), and input with predictions where it was hidden."""
    return image, np.where(hidden, np.nan, image), np.where(hidden, prediction, image)


def _draw_hidden(ax: Axes, hidden_HW: NDArray[np.bool_]) -> None:
    grey = np.ma.masked_less(hidden_HW.astype(float), 0.5)
    ax.imshow(grey, extent=extent_of(hidden_HW.shape), cmap=ListedColormap([HIDDEN_GREY]), origin="lower", zorder=1)


def _draw_detectors(ax: Axes, image_CHW: Image, index: Mapping[str, int]) -> None:
    """Towers as tiles, crystals and tracks as markers whose area grows with the energy."""
    for name, channel in index.items():
        values = np.nan_to_num(image_CHW[channel])
        seen = values >= _THRESHOLD[name]
        if name == "hcal":
            tiles = np.ma.masked_where(~seen, values)
            scale = LogNorm(_THRESHOLD[name] / 2, 100, clip=True)
            ax.imshow(tiles, extent=extent_of(values.shape), norm=scale, cmap="Oranges", origin="lower", zorder=1.2)
            continue
        left, right, low, high = extent_of(values.shape)
        row, column = np.nonzero(seen)
        phi = left + (column + 0.5) * (right - left) / values.shape[1]
        eta = low + (row + 0.5) * (high - low) / values.shape[0]
        ax.scatter(phi, eta, _area(values[seen], _THRESHOLD[name]), **_marker(name), zorder=3 if name == "ecal" else 4)


def _marker(name: str) -> Style:
    if name == "ecal":
        return {"marker": "s", "color": _COLOUR[name], "alpha": 0.75, "linewidths": 0}
    return {"marker": "o", "facecolors": "none", "edgecolors": _COLOUR[name], "linewidths": 0.9}


def _area(energy_gev: Image, threshold_gev: float) -> NDArray[np.float64]:
    """In points squared: grows with the logarithm."""
    share = np.log(energy_gev / threshold_gev) / np.log(100 / threshold_gev)
    return np.asarray(2 + (_LARGEST - 2) * np.clip(share, 0, 1.3) ** 2, dtype=np.float64)


def _detector_legend(index: Mapping[str, int]) -> list[Line2D]:
    """One entry per detector, and the size of two energies."""
    entries = []
    for name in index:
        marker, filled = ("o", False) if name == "track_pt" else ("s", True)
        face = _COLOUR[name] if filled else "none"
        sizes = (10.0,) if name == "hcal" else (1.0, 10.0)
        for energy_gev in sizes:
            size = 9 if name == "hcal" else float(_area(np.array(energy_gev), _THRESHOLD[name])) ** 0.5
            label = f"{channel_name(name)} tower" if name == "hcal" else f"{channel_name(name)}, {energy_gev:g} GeV"
            style: Style = {"marker": marker, "markersize": size, "markerfacecolor": face, "color": _COLOUR[name]}
            entries.append(Line2D([], [], linestyle="none", label=label, **style))
    return entries
