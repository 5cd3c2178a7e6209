"""Compression filters of HDF5 arrays: fetch those that hdf5plugin has, and name those that nobody has."""

from typing import Any

from h5py import h5z

from jetmae.errors import DataError

# Registered filters by their number; all but the last two come with hdf5plugin.
NAMES = {
    307: "bzip2", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP", 32015: "Zstandard", 32017: "SZ",
    32018: "FCIDECOMP", 32024: "SZ3", 32026: "Blosc2", 32028: "SPERR", 32033: "HTJ2K", 4: "szip", 32000: "LZF",
}  # fmt: skip
NOT_OF_HDF5PLUGIN = {4, 32000}


def require_filters(array: Any, where: str) -> None:
    """Make sure that the chunks of an h5py dataset can be decompressed.

    Raises:
        DataError: names the filter that is missing, and what to install.
    """
    plist = array.id.get_create_plist()
    for number in range(plist.get_nfilters()):
        code, _, _, name = plist.get_filter(number)
        if not _is_available(code) and _is_in_use(array, number):
            raise DataError(_missing(code, name.decode(errors="replace"), where))


def _is_available(code: int) -> bool:
    if h5z.filter_avail(code):
        return True
    try:
        import hdf5plugin  # noqa: F401  its import registers the filters; optional, of the extra `convert`
    except ImportError:
        return False
    return bool(h5z.filter_avail(code))


def _is_in_use(array: Any, number: int) -> bool:
    """Whether any chunk went through the filter: an optional one is skipped where it was not available either."""
    masks: set[int] = set()
    array.id.chunk_iter(lambda chunk: masks.add(chunk.filter_mask))  # add returns None: go on
    return any(not mask & (1 << number) for mask in masks)


def _missing(code: int, name: str, where: str) -> str:
    known = NAMES.get(code, name[:30] or "of no registered name")
    filter_name = f"{where} is compressed with HDF5 filter {code} ({known}), which is not installed here"
    if code in NAMES.keys() - NOT_OF_HDF5PLUGIN:
        return f"{filter_name}: pip install hdf5plugin"
    return f"{filter_name} nor part of hdf5plugin: write the array again with gzip where it can be read (h5repack)"
