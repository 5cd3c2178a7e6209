"""Colours of jet images: logarithmic scales, with two colours for channels of both signs."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize, SymLogNorm
from numpy.typing import NDArray

from jetmae.report.figure_style import MINUS, plain_text

HIDDEN_GREY = "#C9CDD2"  # masked patches in the pictures
_SIGNED_CHANNELS = ("d0", "dz")


def scale_of(values: NDArray[np.float32], channel: str) -> tuple[Normalize, Colormap]:
    """Logarithmic up to the largest value; for channels with both signs, two colours from zero on."""
    if any(name in channel.lower() for name in _SIGNED_CHANNELS) or (values < 0).any():
        return symmetric_scale(values), diverging()
    floor, top = _floor_and_top(values, 0.05)
    return LogNorm(floor, top), _sequential()


def symmetric_scale(values: NDArray[np.float32]) -> SymLogNorm:
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
    return ListedColormap(colours).with_extremes(under="white", bad=HIDDEN_GREY)


def diverging() -> Colormap:
    return colormaps["RdBu_r"].with_extremes(bad=HIDDEN_GREY)


def draw_image(
    ax: Axes,
    image_HW: NDArray[np.float32],
    scale: Normalize,
    colours: Colormap,
    extent: tuple[float, float, float, float],
) -> None:
    """`extent` are the ends of the image on the axes: left, right, low, high."""
    # Zero and negative predictions have no logarithm: they belong below the scale (white), not to the unknown (grey).
    shown = np.where(image_HW <= 0, _ends(scale)[0] / 10, image_HW) if isinstance(scale, LogNorm) else image_HW
    shown = np.ma.masked_invalid(shown)
    ax.imshow(shown, norm=scale, cmap=colours, extent=extent, origin="lower", interpolation="nearest", aspect="equal")
    for side in ax.spines.values():
        side.set(color="#5F6368", linewidth=0.6)


def draw_colour_bar(ax: Axes, scale: Normalize, colours: Colormap, unit: str) -> None:
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
