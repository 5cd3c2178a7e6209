"""Which regions of a virtual HDF5 array come from which array of which file.

A region is a list of slabs: in every dimension `count` blocks of `block` elements, `stride` apart, from `start` on. In
the file a count or a block may be without limit: it grows with the array. `%b` in a name is the number of the block.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from h5py import h5s
from numpy.typing import NDArray

Slab = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # start, stride, count, block
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Mapping:
    """A region of a virtual array, and where it comes from."""

    file: str
    array: str
    region: list[Slab]
    source: Any
    """The selection in the source array, an h5py.h5s.SpaceID; see `region_of`."""


def mappings_of(array: Any) -> Iterator[Mapping]:
    """All mappings of a virtual h5py dataset; one for each block where the name holds %b."""
    for found in array.virtual_sources():
        regions = [region_of(found.vspace, array.shape)]
        if "%b" in (found.file_name + found.dset_name).replace("%%", ""):
            regions = list(_blocks(found.vspace, array.shape))
        for number, region in enumerate(regions):
            file, name = (block_name(text, number) for text in (found.file_name, found.dset_name))
            yield Mapping(file, name, region, found.src_space)


def block_name(pattern: str, number: int | str) -> str:
    """The name of a block's file or array: %b stands for its number, %% for one %."""
    return "%".join(part.replace("%b", str(number)) for part in pattern.split("%%"))


def region_of(space: Any, shape: Shape) -> list[Slab]:
    """What is selected of an array of this shape."""
    kind = space.get_select_type()
    if kind == h5s.SEL_ALL:
        return [whole(shape)]
    return [_within(slab, shape) for slab in _slabs(space)] if kind == h5s.SEL_HYPERSLABS else []


def whole(shape: Shape) -> Slab:
    ones = (1,) * len(shape)
    return (0,) * len(shape), ones, ones, shape


def _blocks(space: Any, shape: Shape) -> Iterator[list[Slab]]:
    """The blocks along the dimension whose count has no limit, as many as the array has room for."""
    start, stride, count, block = space.get_regular_hyperslab()
    axis = count.index(h5s.UNLIMITED)
    for first in range(start[axis], shape[axis], stride[axis]):
        yield [(_with(start, axis, first), stride, _with(count, axis, 1), block)]


def _with(values: Shape, axis: int, value: int) -> Shape:
    return (*values[:axis], value, *values[axis + 1 :])


def _slabs(space: Any) -> list[Slab]:
    if space.is_regular_hyperslab():
        return [space.get_regular_hyperslab()]
    corners = np.asarray(space.get_select_hyper_blocklist()).astype(np.int64)
    ones = (1,) * corners.shape[2]
    return [(tuple(first.tolist()), ones, ones, tuple((last - first + 1).tolist())) for first, last in corners]


def _within(slab: Slab, shape: Shape) -> Slab:
    """Counts and blocks without limit end where the array ends."""
    start, stride, count, block = slab
    room = [max(0, size - first) for size, first in zip(shape, start, strict=True)]
    block = tuple(left if size == h5s.UNLIMITED else size for size, left in zip(block, room, strict=True))
    steps = [-(-left // step) for left, step in zip(room, stride, strict=True)]
    return start, stride, tuple(s if c == h5s.UNLIMITED else c for c, s in zip(count, steps, strict=True)), block


def end_of(slab: Slab) -> Shape:
    """The element behind the last one, in every dimension."""
    return tuple(first + step * (n - 1) + size for first, step, n, size in zip(*slab, strict=True))


def num_elements(region: list[Slab]) -> int:
    return sum(math.prod(count) * math.prod(block) for _, _, count, block in region)


def elements_per_row(region: list[Slab], rows: int) -> NDArray[np.int64]:
    """How many elements of each row (along the first dimension) a region has (rows,); its slabs do not overlap."""
    elements = np.zeros(rows, dtype=np.int64)
    for start, stride, count, block in region:
        if not start:  # a single number has no dimensions: one row of one element
            return np.ones(rows, dtype=np.int64)
        selected = np.add.outer(start[0] + stride[0] * np.arange(count[0]), np.arange(block[0])).ravel()
        elements[selected[selected < rows]] += math.prod(count[1:]) * math.prod(block[1:])
    return elements


def joined(regions: list[list[Slab]], shape: Shape) -> list[Slab]:
    """The region that all regions cover together, in slabs that do not overlap."""
    space = h5s.create_simple(shape)
    space.select_none()
    for start, stride, count, block in (slab for region in regions for slab in region):
        if math.prod(count) * math.prod(block):
            space.select_hyperslab(start, count, stride, block, op=h5s.SELECT_OR)
    return _slabs(space) if space.get_select_npoints() else []
