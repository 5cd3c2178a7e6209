"""Between dense images and their non-zero values.

Nothing here touches a file. -0.0 counts as zero, so it comes back as +0.0; every other float32 comes back bit for bit.

Shapes: B jets, C channels, H rows, W columns, T towers of tower_size x tower_size pixels, nnz stored values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jetmae.data.shards import SparseJets

Scalar = TypeVar("Scalar", bound=np.generic)
Counted = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[Any]]  # count_BC, index, value


def sparsify(block: NDArray[Any], *, channels_last: bool) -> Counted:
    """Non-zero values of a block of images (B, H, W, C) or (B, C, H, W).

    Returns count_BC u2, index (nnz,) u2 and value (nnz,) in the block's own type, in the order jet, channel, place.
    """
    # One comparison and one search over the flat block; the transposition happens on the 2 % that are left.
    flat = block.reshape(-1)
    # A block has less than 2 ** 31 values, and half the bytes sort and divide twice as fast.
    position = np.flatnonzero(flat != 0).astype(np.int32)
    if not channels_last:
        jets, channels, *sides = block.shape
        count_BC, place = _split_key(position, jets, channels, sides[0] * sides[1])
        return count_BC, place, flat[position]
    jets, *sides, channels = block.shape
    pixels = sides[0] * sides[1]
    key = np.sort(_swap(position, pixels, channels))
    count_BC, place = _split_key(key, jets, channels, pixels)
    return count_BC, place, flat[_swap(key, channels, pixels)]


def without_zeros(
    count_BC: NDArray[np.uint16], index: NDArray[np.uint16], value: NDArray[Scalar]
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[Scalar]]:
    """What `sparsify` returned, less the values that have become 0 since."""
    kept = value != 0
    if kept.all():
        return count_BC, index, value
    image = image_of_value(count_BC)[kept]
    count = np.bincount(image, minlength=count_BC.size).astype(np.uint16)
    return count.reshape(count_BC.shape), index[kept], value[kept]


def _swap(position: NDArray[np.int32], first: int, second: int) -> NDArray[np.int32]:
    """Flat places in (B, first, second) -> flat places in (B, second, first)."""
    outer = position // second
    jet = outer // first
    swapped: NDArray[np.int32] = jet * (first * second) + (position - outer * second) * first + (outer - jet * first)
    return swapped


def _split_key(
    key: NDArray[np.int32], jets: int, channels: int, pixels: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    image = key // pixels
    count = np.bincount(image, minlength=jets * channels).astype(np.uint16)
    return count.reshape(jets, channels), (key - image * pixels).astype(np.uint16)


def densify(jets: SparseJets, image_shape: tuple[int, int, int], tower_size: int) -> NDArray[np.float32]:
    """Images (B, C, H, W) of jets in sparse form, towers spread over their pixels."""
    channels, height, width = image_shape
    image_BCP = np.zeros((len(jets), channels, height * width), dtype=np.float32)
    image = image_of_value(jets.count_NC)
    place = jets.index.astype(np.int64)
    towers = place >= height * width
    flat_IP = image_BCP.reshape(-1, height * width)
    flat_IP[image[~towers], place[~towers]] = jets.value[~towers]
    if towers.any():
        pixels = tower_grid(height, width, tower_size).pixels_of_tower[place[towers] - height * width]
        flat_IP[image[towers, None], pixels] = jets.value[towers, None]
    return image_BCP.reshape(-1, *image_shape)


def image_of_value(count_NC: NDArray[np.uint16]) -> NDArray[np.int64]:
    """jet * C + channel of every stored value (nnz,)."""
    return np.repeat(np.arange(count_NC.size), count_NC.reshape(-1))


def take(jets: SparseJets, chosen: NDArray[np.bool_]) -> SparseJets:
    """The jets for which `chosen` (B,) is true, in their order."""
    values = np.repeat(chosen, jets.count_NC.sum(axis=1, dtype=np.int64))
    return SparseJets(
        count_NC=jets.count_NC[chosen],
        index=jets.index[values],
        value=jets.value[values],
        row=jets.row[chosen],
        label=None if jets.label is None else jets.label[chosen],
        mass_gev=None if jets.mass_gev is None else jets.mass_gev[chosen],
        pt_gev=None if jets.pt_gev is None else jets.pt_gev[chosen],
    )


def concatenate(parts: Sequence[SparseJets]) -> SparseJets:
    """Jets one after the other. What one part does not know (labels, masses), none may know."""
    return SparseJets(
        count_NC=np.concatenate([part.count_NC for part in parts]),
        index=np.concatenate([part.index for part in parts]),
        value=np.concatenate([part.value for part in parts]),
        row=np.concatenate([part.row for part in parts]),
        label=_joined([part.label for part in parts]),
        mass_gev=_joined([part.mass_gev for part in parts]),
        pt_gev=_joined([part.pt_gev for part in parts]),
    )


def _joined(columns: Sequence[NDArray[Scalar] | None]) -> NDArray[Scalar] | None:
    known = [column for column in columns if column is not None]
    if known and len(known) < len(columns):
        raise ValueError(f"{len(known)} of {len(columns)} parts know a column: expected all or none")
    return np.concatenate(known) if known else None


@dataclass(frozen=True)
class TowerGrid:
    """Which pixels make up which tower; towers are counted row by row."""

    tower_of_pixel: NDArray[np.int64]
    """(H * W,)"""
    is_corner: NDArray[np.bool_]
    """(H * W,) whether the pixel is the upper left one of its tower"""
    pixels_of_tower: NDArray[np.int64]
    """(T, tower_size ** 2)"""

    def __len__(self) -> int:
        return len(self.pixels_of_tower)


@cache
def tower_grid(height: int, width: int, tower_size: int) -> TowerGrid:
    row, column = np.divmod(np.arange(height * width), width)
    tower_of_pixel = (row // tower_size) * (width // tower_size) + column // tower_size
    pixels_of_tower = np.argsort(tower_of_pixel, kind="stable").reshape(-1, tower_size**2)
    is_corner = (row % tower_size == 0) & (column % tower_size == 0)
    return TowerGrid(tower_of_pixel, is_corner, pixels_of_tower)


def constant_towers(jets: SparseJets, grid: TowerGrid) -> NDArray[np.bool_]:
    """For each jet and channel (B, C): does every tower hold one value in all its pixels, bit for bit?

    Each stored value is compared with the one in the upper left pixel of its tower. If all agree and there are
    tower_size ** 2 times as many values as such corners, no pixel of an occupied tower is missing.
    """
    images, (towers, tower_pixels) = jets.count_NC.size, grid.pixels_of_tower.shape
    image, bits = image_of_value(jets.count_NC), jets.value.view(np.uint32)
    at_corner, slot = grid.is_corner[jets.index], image * towers + grid.tower_of_pixel[jets.index]
    bits_of_corner = np.zeros(images * towers, dtype=np.uint32)
    bits_of_corner[slot[at_corner]] = bits[at_corner]
    differs = np.bincount(image[bits_of_corner[slot] != bits], minlength=images) > 0
    corners = np.bincount(image[at_corner], minlength=images)
    constant: NDArray[np.bool_] = ~differs & (jets.count_NC.reshape(-1) == corners * tower_pixels)
    return constant.reshape(jets.count_NC.shape)


def store_per_tower(jets: SparseJets, channels: Sequence[int], grid: TowerGrid) -> SparseJets:
    """Replace the pixels of constant towers by one value at place H * W + tower, in the given channels."""
    towers, tower_pixels = grid.pixels_of_tower.shape
    is_tower_channel = np.zeros(jets.count_NC.shape, dtype=bool)
    is_tower_channel[:, list(channels)] = True
    per_tower = np.repeat(is_tower_channel.reshape(-1), jets.count_NC.reshape(-1))
    keep = ~per_tower | grid.is_corner[jets.index]
    index, per_tower = jets.index[keep], per_tower[keep]
    index[per_tower] = towers * tower_pixels + grid.tower_of_pixel[index[per_tower]]
    count_NC = jets.count_NC // np.where(is_tower_channel, tower_pixels, 1)
    return replace(jets, count_NC=count_NC.astype(np.uint16), index=index, value=jets.value[keep])
