"""Jets from HDF5 files: recognising the arrays, and reading them fast.

HDF5 through h5py unzips about 1,000 jets/s. Most sources are chunked by whole jets with gzip, with or without the
shuffle filter: those chunks are read as they lie in the file and unzipped by libdeflate (extra `convert`), several
times faster. Everything else goes through h5py.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.blank_rows import BlankRows
from jetmae.data.convert.hdf5_checked import CheckedArrays
from jetmae.data.convert.hdf5_columns import ColumnFinder
from jetmae.data.convert.hdf5_file import opened_hdf5
from jetmae.data.convert.hdf5_links import NamedArrays, find_arrays
from jetmae.data.convert.source import (
    BLOCK_JETS,
    IMAGE_NAMES,
    SPLIT_OF_PREFIX,
    SourceOptions,
    SourcePart,
    find_names,
    order_name,
    resolve_axes,
    resolve_flat,
    split_of_key,
)
from jetmae.errors import DataError

MAX_BLOCK_BYTES = 1 << 30  # a chunk may hold many jets; blocks follow chunks up to this size
GZIP_FILTER, SHUFFLE_FILTER = 1, 2
UNLABELLED = "unlabelled"


def open_hdf5(path: Path, options: SourceOptions, *, labelled: bool = True) -> list[SourcePart]:
    """The parts of an HDF5 file; `labelled` is whether anybody wants its labels.

    Raises:
        DataError: in use, damaged, not recognised, not wholly written, or arrays of different lengths.
    """
    with opened_hdf5(path) as file:
        found = find_arrays(file, path)
        keys = _image_keys(found, options, path)
        attributes = {name: _names(file.attrs.get(name)) for name in ("channels", "units", "classes")}
        num_classes = len(options.classes or attributes["classes"] or (0, 1))
        checked = CheckedArrays(found, path, options)
        finder = ColumnFinder(checked, options, num_classes)
        return [_part(key, checked, finder, attributes, labelled) for key in keys]


def _names(attribute: Any) -> tuple[str, ...] | None:
    if attribute is None:
        return None
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in np.atleast_1d(attribute))


# ---- which array holds the images


def _image_keys(found: NamedArrays, options: SourceOptions, path: Path) -> list[str]:
    """One array of images, or several that are the splits of the file."""
    keys = _named_image_keys(found, options.image_key.strip("/")) if options.image_key else _evident_image_keys(found)
    for key in keys:
        if key in found.broken:
            raise DataError(f"source {path}: {key} is {found.broken[key]}")
    if len(keys) == 1:
        return keys
    if keys and all(split_of_key(key)[0] for key in keys):
        order = list(SPLIT_OF_PREFIX.values())  # train first; HDF5 lists names by the alphabet
        return sorted(keys, key=lambda key: order.index(split_of_key(key)[0] or ""))
    if not keys and found.broken:
        name, why = next(iter(found.broken.items()))
        raise DataError(f"source {path}: no array of images, (N, H, W, C), and {name} is {why}")
    what = f"{len(keys)} arrays could be the images, expected one, or one per split" if keys else "no array of images"
    raise DataError(f"source {path}: {what}, (N, H, W, C); found: {found.describe()}; name it with --image-key")


def _named_image_keys(found: NamedArrays, image_key: str) -> list[str]:
    return [key for key in found.names() if key == image_key or _is_split_of(key, image_key)]


def _is_split_of(key: str, image_key: str) -> bool:
    split, prefix = split_of_key(key)
    return split is not None and key == prefix + image_key


def _evident_image_keys(found: NamedArrays) -> list[str]:
    """Arrays with four dimensions, or flat ones of a telling name, and links of such a name that lead nowhere."""
    broken = [key for key in found.broken if find_names([key.rpartition("/")[2]], IMAGE_NAMES)]
    keys = [key for key, array in found.arrays.items() if array.ndim == 4]
    keys = keys or [key for key, array in found.arrays.items() if array.ndim == 2 and find_names([key], IMAGE_NAMES)]
    return [*broken, *found.without_aliases(keys)]


@dataclass(frozen=True)
class _Images:
    """An image array: its key, (C, H, W), how it lies, and what rows read as that nobody may have written."""

    path: Path
    key: str
    shape: tuple[int, int, int]
    channels_last: bool
    fills: frozenset[float]


def _part(
    key: str,
    checked: CheckedArrays,
    finder: ColumnFinder,
    attributes: dict[str, tuple[str, ...] | None],
    labelled: bool,
) -> SourcePart:
    array, split, path = checked.array(key), split_of_key(key)[0], checked.path
    shape, channels_last = _image_shape(array, checked.options, f"source {path}: {key}")
    labelled = labelled and not (split or "").startswith(UNLABELLED)
    columns = finder.columns_of(key, len(array), labelled=labelled)
    images = _Images(path, key, shape, channels_last, checked.storage(key).fills)
    labels = columns.labels
    return SourcePart(
        path=path, key=key, split=split, rows=len(array), image_shape=shape, channels_last=channels_last,
        layout=f"HDF5, {order_name(channels_last)}, {_described(key, array)}; {columns.found}",
        blocks=partial(_blocks, images, checked.options.allow_unwritten),
        label_N=labels.number_N if labels else None, label_words=labels.words if labels else None,
        mass_N=columns.mass_N, pt_N=columns.pt_N,
        channels=attributes["channels"], units=attributes["units"],
        classes=attributes["classes"] or (labels.classes if labels else None),
        also_read=frozenset(checked.files), notes=tuple(checked.notes),
    )  # fmt: skip


def _image_shape(array: Any, options: SourceOptions, where: str) -> tuple[tuple[int, int, int], bool]:
    """(C, H, W) and whether channels come last."""
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 4):
        raise DataError(f"{where} is {array.shape} {array.dtype}, expected numbers (N, H, W, C); see --image-key")
    if array.ndim == 2:
        return resolve_flat(array.shape[1], options, where)
    return resolve_axes(array.shape[1:], options, where)


def _described(key: str, array: Any) -> str:
    described = f"{key} {array.shape} {array.dtype} {array.compression or 'not compressed'}"
    if array.compression == "gzip" and not _deflate_is_installed():
        described += " (reads several times faster after: pip install deflate)"
    return described


# ---- reading them


def _blocks(images: _Images, allow_unwritten: bool) -> Iterator[tuple[int, NDArray[Any]]]:
    channels, *sides = images.shape
    stored = (*sides, channels) if images.channels_last else images.shape
    watch = BlankRows(frozenset() if allow_unwritten else images.fills, f"source {images.path}: {images.key}")
    # The cache must hold the chunks of one block, or h5py unzips each of them once per jet.
    with opened_hdf5(images.path, reading=images.key, rdcc_nbytes=MAX_BLOCK_BYTES // 4) as file:
        array = file[images.key]
        block_jets = _block_jets(array)
        buffer = np.empty((block_jets, *array.shape[1:]), dtype=array.dtype.newbyteorder("="))
        read_into = _chunk_reader(array) or partial(_read_with_h5py, array)
        for first in range(0, len(array), block_jets):
            block = buffer[: min(block_jets, len(array) - first)]
            read_into(first, block)
            watch.look(first, block)
            yield first, block.reshape(len(block), *stored)
        watch.finish()


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
