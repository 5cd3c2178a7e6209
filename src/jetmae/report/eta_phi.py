"""The axes of jet images: distance from the jet in eta and phi, and the grid of calorimeter towers.

Rows are eta, columns are phi. Images of the usual size have one ECAL crystal per pixel; of others the size of a pixel
is not known, and the axes count pixels.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from jetmae.data.simulation.detector import IMAGE_PIXELS, PIXEL_ETA, PIXEL_PHI

_GRID: dict[str, Any] = {"color": "#A8ADB3", "linewidth": 0.25, "alpha": 0.6, "zorder": 1.5}
Shape = tuple[int, ...]  # (..., H, W)


def extent_of(shape: Shape) -> tuple[float, float, float, float]:
    """Left and right end in phi, lower and upper end in eta; the jet is in the middle."""
    step_eta, step_phi = _pixel_size(shape)
    half_eta, half_phi = shape[-2] * step_eta / 2, shape[-1] * step_phi / 2
    return -half_phi, half_phi, -half_eta, half_eta


def draw_towers(ax: Axes, shape: Shape, patch_size: int) -> None:
    """Thin lines between the patches, which are the towers of the hadron calorimeter."""
    left, right, low, high = extent_of(shape)
    ax.hlines(_edges(low, high, shape[-2] // patch_size), left, right, **_GRID)
    ax.vlines(_edges(left, right, shape[-1] // patch_size), low, high, **_GRID)


def _edges(low: float, high: float, count: int) -> NDArray[np.float64]:
    """Between the towers."""
    return np.linspace(low, high, count + 1)[1:-1]


def label_eta_phi(ax: Axes, shape: Shape, *, eta: bool, phi: bool) -> None:
    """Ticks, numbers and words where asked for; the towers' grid leads the eye to the other pictures of a row."""
    left, right, low, high = extent_of(shape)
    ax.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    ax.tick_params(direction="in", top=True, right=True, labelsize=8, length=3)
    unit = "" if _is_usual(shape) else " [pixels]"
    ax.set_yticks(_ticks(high) if eta else [])
    ax.set_xticks(_ticks(right) if phi else [])
    if eta:
        ax.set_ylabel(rf"$\Delta\eta${unit}", fontsize=10, labelpad=0)
    if phi:
        ax.set_xlabel(rf"$\Delta\varphi${unit}", fontsize=10, labelpad=1)


def _ticks(half_width: float) -> list[float]:
    """Five, at round numbers."""
    digits = 10.0 ** np.floor(np.log10(half_width / 2))
    step = float(np.floor(half_width / 2 / digits) * digits)
    return [number * step for number in range(-2, 3)]


def _is_usual(shape: Shape) -> bool:
    return shape[-2:] == (IMAGE_PIXELS, IMAGE_PIXELS)


def _pixel_size(shape: Shape) -> tuple[float, float]:
    """In eta and in phi."""
    return (PIXEL_ETA, PIXEL_PHI) if _is_usual(shape) else (1.0, 1.0)
