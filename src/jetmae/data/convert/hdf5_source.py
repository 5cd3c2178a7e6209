"""Jets from HDF5 files: recognising the arrays, and reading them fast.

HDF5 through h5py unzips about 1,000 jets/s. Most sources are chunked by whole jets with gzip, with or without the
shuffle filter: those chunks are read as they lie in the file and unzipped by libdeflate (extra `convert`), several
times faster. Everything else goes through h5py.
"""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.source import (
    BLOCK_JETS,
    IMAGE_NAMES,
    LABEL_NAMES,
    MASS_NAMES,
    PT_NAMES,
    SPLIT_OF_PREFIX,
    SourceOptions,
    SourcePart,
    find_name,
    integers,
    label_column,
    one_per_jet,
    order_name,
    resolve_axes,
    resolve_flat,
    split_of_key,
    split_table,
)
from jetmae.errors import DataError

MAX_BLOCK_BYTES = 1 << 30  # a chunk may hold many jets; blocks follow chunks up to this size
GZIP_FILTER, SHUFFLE_FILTER = 1, 2
Arrays = dict[str, Any]  # h5py datasets by their name


def open_hdf5(path: Path, options: SourceOptions) -> list[SourcePart]:
    """The parts of an HDF5 file.

    Raises:
        DataError: truncated, not recognised, or arrays of different lengths.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            arrays = _arrays(file)
            keys = _image_keys(arrays, options, path)
            attributes = {name: _names(file.attrs.get(name)) for name in ("channels", "units", "classes")}
            label_columns = _LabelColumns(arrays, options, path)
            return [_part(path, key, arrays, options, attributes, label_columns) for key in keys]
    except (OSError, RuntimeError) as error:
        raise DataError(f"source {path} is damaged or truncated HDF5 ({error}); fetch it again") from error


def _arrays(file: Any) -> Arrays:
    arrays: Arrays = {}
    file.visititems(lambda name, item: arrays.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return arrays


def _names(attribute: Any) -> tuple[str, ...] | None:
    if attribute is None:
        return None
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in np.atleast_1d(attribute))


def _describe(arrays: Arrays) -> str:
    return ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items()) or "no arrays"


def _image_keys(arrays: Arrays, options: SourceOptions, path: Path) -> list[str]:
    """One array of images, or several that are the splits of the file."""
    if options.image_key is not None:
        keys = [key for key in arrays if key == options.image_key or _is_split_of(key, options.image_key)]
    else:
        keys = [key for key, array in arrays.items() if array.ndim == 4]
        keys = keys or [key for key, array in arrays.items() if array.ndim == 2 and find_name([key], IMAGE_NAMES)]
    if len(keys) == 1:
        return keys
    if keys and all(split_of_key(key)[0] for key in keys):
        order = list(SPLIT_OF_PREFIX.values())  # train first; HDF5 lists names by the alphabet
        return sorted(keys, key=lambda key: order.index(split_of_key(key)[0] or ""))
    raise DataError(
        f"source {path} has {len(keys)} arrays that could be the images, expected one (N, H, W, C) or (N, C, H, W), or"
        f" one per split such as train_jet; found: {_describe(arrays)}; say which with --image-key"
    )


def _is_split_of(key: str, image_key: str) -> bool:
    split, prefix = split_of_key(key)
    return split is not None and key == prefix + image_key


def _part(
    path: Path,
    key: str,
    arrays: Arrays,
    options: SourceOptions,
    attributes: dict[str, tuple[str, ...] | None],
    label_columns: "_LabelColumns",
) -> SourcePart:
    array, (split, prefix) = arrays[key], split_of_key(key)
    where = f"source {path}: {key}"
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 4):
        raise DataError(f"{where} is {array.shape} {array.dtype}, expected numbers (N, H, W, C); see --image-key")
    if array.ndim == 2:
        shape, channels_last = resolve_flat(array.shape[1], options, where)
    else:
        shape, channels_last = resolve_axes(array.shape[1:], options, where)
    columns = label_columns.read(prefix, len(array))
    found = f"{key} {array.shape} {array.dtype} {array.compression or 'not compressed'}"
    if array.compression == "gzip" and not _deflate_is_installed():
        found += " (reads several times faster after: pip install deflate)"
    return SourcePart(
        path=path, key=key, split=split, rows=len(array), image_shape=shape, channels_last=channels_last,
        layout=f"HDF5, {order_name(channels_last)}, {found}; {columns.pop('found')}",
        blocks=partial(_blocks, path, key, shape, channels_last),
        label_N=columns.get("label"), mass_N=columns.get("mass"), pt_N=columns.get("pt"), **attributes,
    )  # fmt: skip


class _LabelColumns:
    """Labels, masses and pT beside the images: arrays of their own, or columns of a `meta` table."""

    def __init__(self, arrays: Arrays, options: SourceOptions, path: Path):
        self.arrays, self.options, self.path = arrays, options, path
        self.tables = {} if options.label_key else {k: a for k, a in arrays.items() if self._is_table(k)}
        # One decision for all splits of the file: a small split may by chance not decide it.
        self._column: int | None = None

    @staticmethod
    def _is_table(key: str) -> bool:
        return find_name([key], ("meta",), split_of_key(key)[1]) is not None

    def read(self, prefix: str, rows: int) -> dict[str, Any]:
        """`found` (a sentence), and `label`, `mass`, `pt` (N,) where the file has them."""
        names = {"mass": find_name(self.arrays, MASS_NAMES, prefix), "pt": find_name(self.arrays, PT_NAMES, prefix)}
        label_key = self._label_key(prefix)
        raw = {name: self.arrays[key][()] for name, key in names.items() if key}
        where = {name: f"source {self.path}: {key}" for name, key in names.items()}
        found = [f"{name} {key}" for name, key in names.items() if key]
        if label_key and self.arrays[label_key].ndim == 2 and self.arrays[label_key].shape[1] > 1:
            table, column = self.arrays[label_key][()], self._decide_column(label_key)
            raw = raw | split_table(table, column)
            found.insert(0, f"label column {column + 1} of {table.shape[1]} in {label_key}")
        elif label_key:
            raw["label"] = self.arrays[label_key][()]
            found.insert(0, f"label {label_key} {raw['label'].shape} {raw['label'].dtype}")
        else:
            found.insert(0, "no labels")
        where = {name: where.get(name, "") if names.get(name) else f"source {self.path}: {label_key}" for name in raw}
        columns = {name: self._checked(name, values, rows, where[name]) for name, values in raw.items()}
        return {"found": ", ".join(found), **columns}

    def _label_key(self, prefix: str) -> str | None:
        wanted = self.options.label_key
        if wanted is None:
            return find_name(self.arrays, LABEL_NAMES, prefix) or find_name(self.arrays, ("meta",), prefix)
        for key in (wanted, prefix + wanted):
            if key in self.arrays:
                return key
        raise DataError(f"source {self.path} has no {wanted!r} (--label-key); found: {_describe(self.arrays)}")

    def _decide_column(self, label_key: str) -> int:
        if self._column is None:
            # The table of an empty split may have any shape.
            tables = [table[()] for table in self.tables.values() if table.size] or [self.arrays[label_key][()]]
            self._column = label_column(np.concatenate(tables), self.options, f"source {self.path}: {label_key}")
        return self._column

    def _checked(self, name: str, values: NDArray[Any], rows: int, where: str) -> NDArray[Any]:
        values = integers(values, where) if name == "label" else one_per_jet(values, where).astype(np.float32)
        if len(values) != rows:
            raise DataError(f"{where} has {len(values)} rows for {rows} jets; expected one per jet; correct the source")
        return values


def _blocks(
    path: Path, key: str, shape: tuple[int, int, int], channels_last: bool
) -> Iterator[tuple[int, NDArray[Any]]]:
    channels, *sides = shape
    stored = (*sides, channels) if channels_last else shape
    try:
        # The cache must hold the chunks of one block, or h5py unzips each of them once per jet.
        with h5py.File(path, "r", locking=False, rdcc_nbytes=MAX_BLOCK_BYTES // 4) as file:
            array = file[key]
            block_jets = _block_jets(array)
            buffer = np.empty((block_jets, *array.shape[1:]), dtype=array.dtype.newbyteorder("="))
            read_into = _chunk_reader(array) or partial(_read_with_h5py, array)
            for first in range(0, len(array), block_jets):
                block = buffer[: min(block_jets, len(array) - first)]
                read_into(first, block)
                yield first, block.reshape(len(block), *stored)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"source {path}: {key} cannot be read ({error}): damaged or truncated; fetch the file again"
        ) from error


def _block_jets(array: Any) -> int:
    """Blocks are whole chunks: half a chunk costs as much to unzip as a whole one."""
    jet_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:]))
    chunk_jets = array.chunks[0] if array.chunks else 1
    wanted = -(-BLOCK_JETS // chunk_jets) * chunk_jets
    return int(max(1, min(wanted, MAX_BLOCK_BYTES // jet_bytes, len(array))))


def _read_with_h5py(array: Any, first: int, block: NDArray[Any]) -> None:
    array.read_direct(block, np.s_[first : first + len(block)])


def _chunk_reader(array: Any) -> Callable[[int, NDArray[Any]], None] | None:
    """A reader of gzip chunks that hold whole jets, or None where the array is stored otherwise."""
    if not array.chunks or array.chunks[1:] != array.shape[1:] or array.chunks[0] > BLOCK_JETS:
        return None
    filters = array.id.get_create_plist()
    codes = [filters.get_filter(number)[0] for number in range(filters.get_nfilters())]
    if codes not in ([GZIP_FILTER], [SHUFFLE_FILTER, GZIP_FILTER]):
        return None
    return partial(_read_chunks, array, SHUFFLE_FILTER in codes) if _deflate_is_installed() else None


def _deflate_is_installed() -> bool:
    return importlib.util.find_spec("deflate") is not None


def _read_chunks(array: Any, shuffled: bool, first: int, block: NDArray[Any]) -> None:
    import deflate

    chunk_jets, rest = array.chunks[0], (0,) * (array.ndim - 1)
    chunk_bytes = array.dtype.itemsize * int(np.prod(array.chunks))
    for start in range(0, len(block), chunk_jets):
        target = block[start : start + chunk_jets]
        try:
            filter_mask, packed = array.id.read_direct_chunk((first + start, *rest))
            raw = deflate.zlib_decompress(packed, chunk_bytes)
        except (OSError, RuntimeError, deflate.DeflateError):
            filter_mask, raw = 0, bytearray()
        # Stored without a filter, never written, or damaged: h5py fills in, or says what is wrong.
        if filter_mask or len(raw) != chunk_bytes:
            _read_with_h5py(array, first + start, target)
        else:
            _unpack(raw, target, array, shuffled)


def _unpack(raw: bytearray, target: NDArray[Any], array: Any, shuffled: bool) -> None:
    """Copy the jets of an unzipped chunk into `target`; the last chunk of an array may hold more than there are."""
    if not shuffled:
        target[...] = np.frombuffer(raw, dtype=array.dtype).reshape(array.chunks)[: len(target)]
        return
    # All first bytes of the numbers come first, then all second bytes, ...: interleave them again.
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(array.dtype.itemsize, -1)
    interleaved = target.reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize)
    for place in range(array.dtype.itemsize):
        interleaved[:, place] = planes[place, : len(interleaved)]
    if not array.dtype.isnative:
        target.byteswap(inplace=True)
