"""A small picture of reconstructions for TensorBoard, quick enough to draw during training."""

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

HIDDEN_GREY = 0.82
GAP_PIXELS = 3


def contact_sheet(
    image_CHW: NDArray[np.float32], reconstruction_CHW: NDArray[np.float32], mask_HW: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """One row per channel, columns input, masked input, reconstruction: (C (H + gap), 3 (W + gap), 3) uint8.

    Each channel has its own colour scale, logarithmic in magnitude because energies span decades; a channel with
    negative values (d0, dz) is drawn around white.
    """
    rows = []
    for image_HW, reconstruction_HW in zip(image_CHW, reconstruction_CHW, strict=True):
        image_rgb, reconstruction_rgb = _coloured(image_HW, image_HW), _coloured(reconstruction_HW, image_HW)
        masked_rgb = np.where(mask_HW[..., None], HIDDEN_GREY, image_rgb)
        rows.append(np.concatenate([_framed(tile) for tile in (image_rgb, masked_rgb, reconstruction_rgb)], axis=1))
    return (np.concatenate(rows) * 255).round().astype(np.uint8)


def _coloured(values_HW: NDArray[np.float32], reference_HW: NDArray[np.float32]) -> NDArray[np.float64]:
    magnitude = np.abs(reference_HW[reference_HW != 0])
    top, soft = (np.quantile(magnitude, 0.999), np.quantile(magnitude, 0.1)) if len(magnitude) else (1.0, 1.0)
    squeezed = np.arcsinh(values_HW / soft) / np.arcsinh(top / soft)
    if (reference_HW < 0).any():
        return np.asarray(colormaps["RdBu_r"](np.clip(0.5 + 0.5 * squeezed, 0, 1)))[..., :3]
    return np.asarray(colormaps["magma_r"](np.clip(squeezed, 0, 1)))[..., :3]


def _framed(tile_HWC: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.pad(tile_HWC, ((0, GAP_PIXELS), (0, GAP_PIXELS), (0, 0)), constant_values=1.0)
