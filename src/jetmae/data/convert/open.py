"""Files of jet images as others write them: which layout is it, and its jets block by block.

A file is recognised by looking at its keys, shapes and types; each guess can be overridden (SourceOptions). What cannot
be decided is refused with a list of what was found and the option that decides it. Known layouts:

    HDF5     one image array (N, H, W, C) or (N, C, H, W), compressed or not; labels, mass, pT as (N,) or (N, 1), in the
             same group, one above it, or anywhere if they are as long; links and virtual arrays are followed
    HDF5     {train,validation,test}_{jet,meta}: the file brings its splits; label first or last column of meta
    Parquet  an image column, flat in the order rows, columns, channels, or nested (C, H, W) or (H, W, C)

Labels are numbers, words, or one-hot columns (labels.py).
"""

from pathlib import Path

from jetmae.data.convert.hdf5_file import is_hdf5
from jetmae.data.convert.hdf5_source import open_hdf5
from jetmae.data.convert.parquet_source import open_parquet
from jetmae.data.convert.source import SourceOptions, SourcePart
from jetmae.errors import DataError


def open_source(path: Path, options: SourceOptions, *, labelled: bool = True) -> list[SourcePart]:
    """Recognise a file: one part, or one per split if the file brings its own. `labelled`: whether its labels count.

    Raises:
        DataError: missing, damaged, or of no known layout; says what was found and which option decides.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(8)
        hdf5 = is_hdf5(path)
    except OSError as error:
        raise DataError(
            f"source {path} cannot be read ({error.strerror}): expected an HDF5 or Parquet file of jet images;"
            " check the path"
        ) from error
    if not hdf5 and magic[:4] != b"PAR1":
        raise DataError(
            f"source {path} begins with {magic!r}: expected HDF5 or Parquet; if it is an archive, unpack it first"
        )
    parts = _without_empty_splits((open_hdf5 if hdf5 else open_parquet)(path, options, labelled=labelled))
    if not parts[0].rows:
        raise DataError(f"source {path}: {parts[0].key} has 0 jets, expected at least 1; leave this file out")
    return parts


def _without_empty_splits(parts: list[SourcePart]) -> list[SourcePart]:
    """The parts that hold jets, and a printed line for each of the others; all of them if none does."""
    filled = [part for part in parts if part.rows]
    for part in parts if filled else ():
        if not part.rows:
            print(f"source {part.path}: {part.key} has 0 jets: left out")
    return filled or parts
