"""Which rows of an HDF5 array nobody ever wrote.

HDF5 fills in what is not there, without a word: zeros, mostly, which become jets without a single hit, and labels that
say "background". What it does record depends on how the array is stored:

    chunked               which chunks were written; not which rows of a chunk
    chunked, early        nothing: all chunks are made beforehand
    contiguous            whether anything was written at all
    external raw files    nothing, but a file may be missing, or too short
    virtual               which regions of which other files it is made of; they may be missing, too small, not written
                          themselves, or leave gaps between them

Where a row that nobody wrote is not recorded, it can only be known by what it reads as: see blank_rows.py.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5s
from numpy.typing import NDArray

from jetmae.data.convert.hdf5_file import opened_hdf5
from jetmae.data.convert.hdf5_filters import require_filters
from jetmae.data.convert.hdf5_links import find_file
from jetmae.data.convert.hdf5_virtual import (
    Mapping,
    Slab,
    block_name,
    elements_per_row,
    end_of,
    joined,
    mappings_of,
    num_elements,
    region_of,
)
from jetmae.errors import DataError

MAX_DEPTH = 16  # virtual arrays of virtual arrays; one may also stand for itself


@dataclass(frozen=True)
class Storage:
    """Where an array's values come from, and which are none."""

    unwritten_N: NDArray[np.bool_]
    """Rows of which HDF5 says that some part was never written."""
    cause: str = ""
    """Why, where there is more to say."""
    files: frozenset[Path] = frozenset()
    """Other files that the values come from."""
    fills: frozenset[float] = frozenset()
    """What rows read as that nobody wrote, where HDF5 does not record whether somebody did."""


def storage_of(array: Any, path: Path, *, depth: int = 0) -> Storage:
    """Look at how an h5py dataset of numbers or words is stored, and at every file that it is made of.

    Raises:
        DataError: it cannot be read at all: a filter or a raw file is missing, or a source does not fit.
    """
    if array.size == 0:
        return Storage(np.zeros(_rows(array), dtype=bool))
    if array.is_virtual:
        return _of_virtual(array, path, depth)
    if array.external:
        return _of_external(array, path)
    require_filters(array, f"source {path}: {array.name.lstrip('/')}")
    unwritten_N = _missing_chunks(array) if array.chunks else np.full(_rows(array), not _is_allocated(array))
    return Storage(unwritten_N, fills=frozenset() if _is_recorded(array) else frozenset({fill_of(array)}))


def fill_of(array: Any) -> float:
    """The number that HDF5 reads where nothing is; 0 also where that is not defined."""
    plist = array.id.get_create_plist()
    if plist.fill_value_defined() != h5d.FILL_VALUE_USER_DEFINED or array.dtype.kind not in "fiub":
        return 0.0
    return float(array.fillvalue)


def _rows(array: Any) -> int:
    return int(array.shape[0]) if array.shape else 1


def _is_allocated(array: Any) -> bool:
    return bool(array.id.get_space_status() != h5d.SPACE_STATUS_NOT_ALLOCATED)


def _is_recorded(array: Any) -> bool:
    """Whether HDF5 knows of every single row if it was written: with chunks of one row, made when they are needed."""
    incremental = array.id.get_create_plist().get_alloc_time() == h5d.ALLOC_TIME_INCR
    return bool(array.chunks) and array.chunks[0] == 1 and incremental


def _missing_chunks(array: Any) -> NDArray[np.bool_]:
    """Rows with a chunk that is not in the index (N,)."""
    per_dimension = [-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    if array.id.get_num_chunks() == math.prod(per_dimension):
        return np.zeros(len(array), dtype=bool)
    found = np.zeros(per_dimension[0], dtype=np.int64)

    def count(chunk: Any) -> None:
        found[chunk.chunk_offset[0] // array.chunks[0]] += 1

    array.id.chunk_iter(count)
    return np.repeat(found < math.prod(per_dimension[1:]), array.chunks[0])[: len(array)]


# ---- raw files beside the HDF5 file


def _of_external(array: Any, path: Path) -> Storage:
    row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
    unwritten_N, position = np.zeros(_rows(array), dtype=bool), 0
    for name, first_byte, listed_bytes in array.external:
        file = Path(name)  # HDF5 looks in the current folder
        if not file.is_file():
            raise DataError(
                f"source {path}: {array.name} keeps its values in {name}, a raw file that is not there; expected it in"
                f" the current folder {Path.cwd()}; run the command where it is"
            )
        wanted_bytes = min(listed_bytes, array.nbytes - position)
        there_bytes = min(wanted_bytes, max(0, file.stat().st_size - first_byte))
        unwritten_N[(position + there_bytes) // row_bytes : -(-(position + wanted_bytes) // row_bytes)] |= (
            there_bytes < wanted_bytes
        )
        position += wanted_bytes
    files = frozenset(Path(name) for name, _, _ in array.external)
    cause = "its raw file is too short" if unwritten_N.any() else ""
    return Storage(unwritten_N, cause, files, frozenset({fill_of(array)}))


# ---- arrays made of others


def _of_virtual(array: Any, path: Path, depth: int) -> Storage:
    if depth > MAX_DEPTH:
        raise DataError(f"source {path}: {array.name} is made of itself; expected arrays that end in values")
    _refuse_missing_block(array, path)
    mappings = list(mappings_of(array))
    covered_N = elements_per_row(joined([mapping.region for mapping in mappings], array.shape), _rows(array))
    unwritten_N = covered_N < math.prod(array.shape[1:])
    causes = ["regions of it are made of nothing"] if unwritten_N.any() else []
    files, fills = set[Path](), set[float]()
    for mapping in mappings:
        rows, source = _of_mapping(mapping, array, path, depth)
        unwritten_N[rows] = True
        causes += [source.cause] if len(rows) else []
        files, fills = files | source.files, fills | source.fills
    return Storage(unwritten_N, causes[0] if causes else "", frozenset(files), frozenset(fills))


def _refuse_missing_block(array: Any, path: Path) -> None:
    """An array that grows by a file per block ends at the first that is missing, and HDF5 does not say so.

    Raises:
        DataError: a later one is there.
    """
    blocks = [found.file_name for found in array.virtual_sources() if "%b" in found.file_name.replace("%%", "")]
    for pattern in blocks:
        wanted = path.parent / block_name(pattern, "*")
        name = re.compile(re.escape(block_name(Path(pattern).name, "%b")).replace("%b", r"(\d+)"))
        there = {int(match.group(1)) for file in wanted.parent.glob("*") if (match := name.fullmatch(file.name))}
        missing = sorted(set(range(max(there, default=-1))) - there)
        if missing:
            raise DataError(
                f"source {path}: {array.name} is made of {pattern}, and block {missing[0]} is missing though later"
                " ones are there; HDF5 would end before it; put the file there, or take the later ones away"
            )


def _of_mapping(mapping: Mapping, array: Any, path: Path, depth: int) -> tuple[NDArray[np.int64], Storage]:
    """Rows of a virtual array that a mapping leaves without values, and what is known of its source."""
    what = f"{mapping.array} of {'this file' if mapping.file == '.' else mapping.file}"
    with _opened_source(mapping, array, path) as (source, source_path):
        if source is None:
            rows = np.flatnonzero(elements_per_row(mapping.region, _rows(array)))
            return rows, Storage(np.zeros(0, dtype=bool), f"{what} is not there")
        region = _source_region(mapping, array, path, source)
        storage = storage_of(source, source_path, depth=depth + 1)
        rows = _carried_over(region, storage.unwritten_N, mapping.region, _rows(array))
        files = storage.files | (set() if mapping.file == "." else {source_path})
        return rows, replace(storage, cause=storage.cause or f"{what} lacks them", files=files)


@contextmanager
def _opened_source(mapping: Mapping, array: Any, path: Path) -> Iterator[tuple[Any, Path]]:
    """The source's h5py dataset, or None if it is not there, and the file where it lies."""
    if mapping.file == ".":
        yield _dataset(array.file, mapping.array), path
        return
    source_path = find_file(mapping.file, path)
    if source_path is None:
        yield None, path
        return
    with opened_hdf5(source_path) as file:
        yield _dataset(file, mapping.array), source_path


def _dataset(file: Any, name: str) -> Any:
    found = file.get(name)
    return found if isinstance(found, h5py.Dataset) else None


def _source_region(mapping: Mapping, array: Any, path: Path, source: Any) -> list[Slab]:
    """What a mapping selects of its source.

    Raises:
        DataError: the source is not as large as it was: HDF5 reads nothing then, or the bytes that follow it.
    """
    is_whole = mapping.source.get_select_type() == h5s.SEL_ALL
    if is_whole or mapping.source.get_simple_extent_ndims() == source.ndim:
        region = region_of(mapping.source, source.shape)
        is_as_large = num_elements(region) == num_elements(mapping.region) or not is_whole
        if is_as_large and all(np.less_equal(end_of(slab), source.shape).all() for slab in region):
            return region
    raise DataError(
        f"source {path}: {array.name} is made of {mapping.array} of {mapping.file}, whose shape {source.shape} does not"
        " fit; make the virtual array again"
    )


def _carried_over(
    source: list[Slab], unwritten_S: NDArray[np.bool_], region: list[Slab], rows: int
) -> NDArray[np.int64]:
    """Rows of a region that hold values of unwritten rows of its source: both list their values in the same order."""
    missing = max(0, num_elements(region) - num_elements(source))  # of a source that is to grow and has not yet
    if not unwritten_S.any() and not missing:
        return np.zeros(0, dtype=np.int64)
    elements_S = np.append(elements_per_row(source, len(unwritten_S)), missing)
    unwritten_S = np.append(unwritten_S, True)[elements_S > 0]
    elements_S = elements_S[elements_S > 0]
    borders, bad_before = (np.append(0, np.cumsum(values)) for values in (elements_S, elements_S * unwritten_S))
    borders_N = np.append(0, np.cumsum(elements_per_row(region, rows)))
    return np.flatnonzero(np.diff(np.interp(borders_N, borders, bad_before)) > 0)
