"""The arrays of an HDF5 file, each looked at before its values are believed."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.hdf5_file import refuse_locked, translated_errors
from jetmae.data.convert.hdf5_links import NamedArrays
from jetmae.data.convert.hdf5_storage import Storage, storage_of
from jetmae.data.convert.row_ranges import row_ranges
from jetmae.data.convert.source import SourceOptions
from jetmae.errors import DataError


class CheckedArrays:
    """Reads arrays of an open file; `notes` say what was found odd, `files` are the others that values come from."""

    def __init__(self, found: NamedArrays, path: Path, options: SourceOptions):
        self.found, self.path, self.options = found, path, options
        self.notes: list[str] = []
        self.files: set[Path] = set()

    def array(self, name: str) -> Any:
        """The h5py dataset of that name.

        Raises:
            DataError: the name is a link that leads nowhere.
        """
        if name in self.found.broken:
            raise DataError(f"source {self.path}: {name} is {self.found.broken[name]}")
        return self.found.arrays[name]

    def storage(self, name: str) -> Storage:
        """How an array is stored, after making sure that all of it was written.

        Raises:
            DataError: some of it was not, and that was not allowed; or it cannot be read.
        """
        array = self.array(name)
        home = Path(array.file.filename)
        if not home.samefile(self.path):
            refuse_locked(home)
            self.files.add(home)
            self._note(f"{name} is a link to {array.name} in {home}")
        with translated_errors(self.path, name):
            storage = storage_of(array, home)
        self._note_unwritten(name, storage.unwritten_N, storage.cause)
        self.files |= storage.files
        return storage

    def values(self, name: str) -> NDArray[Any]:
        """All values of a column or a small table.

        Raises:
            DataError: as `storage`.
        """
        fills, array = self.storage(name).fills, self.array(name)
        with translated_errors(self.path, name):
            values: NDArray[Any] = np.asarray(array[()])
        for fill in fills - {0, 1}:  # which may be labels; any other was chosen to say that nothing was written
            marked = np.asarray(np.isnan(values) if np.isnan(fill) else values == fill, dtype=np.bool_)
            marked_N = np.logical_or.reduce(marked.reshape(len(values), -1), axis=1)
            self._note_unwritten(name, marked_N, f"they read as {fill:g}")
        return values

    def _note_unwritten(self, name: str, unwritten_N: NDArray[np.bool_], cause: str) -> None:
        rows = np.flatnonzero(unwritten_N)
        if not len(rows):
            return
        what = f"{name}: rows {row_ranges(rows)} were never written{f' ({cause})' if cause else ''}"
        if not self.options.allow_unwritten:
            raise DataError(
                f"source {self.path}: {what}, and HDF5 fills them in; expected every row; write them, or take them as"
                " they read with --allow-unwritten"
            )
        self._note(f"{what}: {len(rows):,} rows are taken as they read")

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
