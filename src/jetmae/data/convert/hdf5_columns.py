"""Labels, masses and pT beside the images of an HDF5 file: arrays of their own, or columns of a table."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.columns import Columns
from jetmae.data.convert.float32 import as_float32
from jetmae.data.convert.hdf5_checked import CheckedArrays
from jetmae.data.convert.hdf5_filters import require_filters
from jetmae.data.convert.labels import (
    Labels,
    choose_label,
    could_be_labels,
    is_one_hot,
    looks_like_labels,
    one_per_jet,
    read_labels,
)
from jetmae.data.convert.source import (
    LABEL_NAMES,
    MASS_NAMES,
    PT_NAMES,
    SourceOptions,
    find_names,
    label_column,
    split_of_key,
    split_table,
)
from jetmae.errors import DataError, JetmaeError

TABLE_NAMES = ("meta",)
Values = NDArray[Any]


class ColumnFinder:
    """Finds the columns that belong to the image arrays of an open file."""

    def __init__(self, checked: CheckedArrays, options: SourceOptions, num_classes: int):
        self.checked, self.options, self.num_classes = checked, options, num_classes
        self.names, self.arrays = checked.found.names(), checked.found.arrays
        # One decision for all splits of the file: a small split may by chance not decide it.
        self._label_column: int | None = None

    def columns_of(self, image_key: str, rows: int, *, labelled: bool) -> Columns:
        """The columns of the jets of one image array.

        Raises:
            DataError: one is not what it should be, or it is not clear which one is the label.
        """
        if not rows:
            return Columns("no jets")
        label_key = self._label_key(image_key, rows) if labelled else self._first(image_key, rows, TABLE_NAMES)
        found, labels, masses = self._read_label(label_key, rows) if label_key else ("no labels", None, {})
        for name, wanted in (("mass", MASS_NAMES), ("pt", PT_NAMES)):
            key = self._first(image_key, rows, wanted)
            if key and name not in masses:
                masses[name] = as_float32(one_per_jet(self._values(key, rows), self._where(key)), self._where(key))
                found += f", {name} {key}"
        return Columns(found, labels, masses.get("mass"), masses.get("pt"))

    def _read_label(self, key: str, rows: int) -> tuple[str, Labels, dict[str, NDArray[np.float32]]]:
        """Where the label stands, the labels, and mass and pT if they stand in the same table."""
        values, where = self._values(key, rows), self._where(key)
        is_table = values.ndim == 2 and values.shape[1] > 1 and values.dtype.kind in "fiu"
        if not is_table or (is_one_hot(values) and self.options.label_column is None):
            labels = _with_enumeration(read_labels(values, where, num_classes=self.num_classes), self.arrays[key])
            return f"label {key} {values.shape} {labels.form or values.dtype}", labels, {}
        column = self._decide_column(key, values)
        columns = split_table(values, column)
        labels = read_labels(columns.pop("label"), where)
        masses = {name: as_float32(column_N, where) for name, column_N in columns.items()}
        return f"label column {column + 1} of {values.shape[1]} in {key}", labels, masses

    def _decide_column(self, key: str, values: Values) -> int:
        if self._label_column is None:
            others = [] if self.options.label_key else [name for name in self.arrays if _is_meta(name) and name != key]
            # The table of an empty split may have any shape.
            alike = [self.arrays[name] for name in others if self.arrays[name].shape[1:] == values.shape[1:]]
            tables = np.concatenate([values, *(array[()] for array in alike)])
            self._label_column = label_column(tables, self.options, self._where(key))
        return self._label_column

    # ---- which array

    def _label_key(self, image_key: str, rows: int) -> str | None:
        wanted = self.options.label_key
        if wanted is not None:
            return self._named_by_user(wanted, image_key)
        named = self._near(image_key, LABEL_NAMES) or self._near(image_key, TABLE_NAMES)
        named = named or self._elsewhere(image_key, rows, LABEL_NAMES)
        if named:
            return choose_label({name: self._values(name, rows) for name in named}, f"source {self.checked.path}")
        alike = [name for name in self.arrays if self._looks_like_labels(name, image_key, rows)]
        if alike:
            raise DataError(f"source {self.checked.path}: {could_be_labels(alike)}")
        return None

    def _named_by_user(self, wanted: str, image_key: str) -> str:
        wanted = wanted.strip("/")
        for scope in ("", *_scopes(image_key)):
            if scope + wanted in self.names:
                return scope + wanted
        raise DataError(
            f"source {self.checked.path} has no {wanted!r} (--label-key); found: {self.checked.found.describe()}"
        )

    def _first(self, image_key: str, rows: int, wanted: tuple[str, ...]) -> str | None:
        return next(iter(self._near(image_key, wanted) or self._elsewhere(image_key, rows, wanted)), None)

    def _near(self, image_key: str, wanted: tuple[str, ...]) -> list[str]:
        """Arrays of such a name in the group of the images, or in the nearest one above it; or of the same split."""
        for scope in _scopes(image_key):
            if found := find_names(self.names, wanted, scope):
                return self.checked.found.without_aliases(found)
        return []

    def _elsewhere(self, image_key: str, rows: int, wanted: tuple[str, ...]) -> list[str]:
        """Arrays of such a name in any group, if they are as long as the images."""
        if split_of_key(image_key)[0] is not None:
            return []
        named = [name for name in self.arrays if find_names([name.rpartition("/")[2]], wanted)]
        return [name for name in self.checked.found.without_aliases(named) if self.arrays[name].shape[:1] == (rows,)]

    def _looks_like_labels(self, name: str, image_key: str, rows: int) -> bool:
        if not name.startswith(split_of_key(image_key)[1]):
            return False
        array = self.arrays[name]
        if array.shape[:1] != (rows,) or array.ndim > 2 or (array.ndim == 2 and array.shape[1] > 2):
            return False
        with suppress(OSError, RuntimeError, JetmaeError):  # what cannot be read is no suggestion
            require_filters(array, "")
            return looks_like_labels(array[()])
        return False

    # ---- its values

    def _values(self, key: str, rows: int) -> Values:
        values = self.checked.values(key)
        if values.shape[:1] != (rows,):
            raise DataError(
                f"{self._where(key)} has {len(values) if values.shape else 1} rows for {rows} jets; expected one per"
                " jet; correct the source"
            )
        return values

    def _where(self, key: str) -> str:
        return f"source {self.checked.path}: {key}"


def _scopes(image_key: str) -> Sequence[str]:
    """What the names of columns begin with: `train_` for train_jet; `a/b/`, `a/` and nothing for a/b/images."""
    split, prefix = split_of_key(image_key)
    if split is not None:
        return (prefix,)
    groups = image_key.split("/")[:-1]
    return ["".join(f"{group}/" for group in groups[:depth]) for depth in range(len(groups), -1, -1)]


def _is_meta(name: str) -> bool:
    return bool(find_names([name], TABLE_NAMES, split_of_key(name)[1]))


def _with_enumeration(labels: Labels, array: Any) -> Labels:
    """HDF5 may say itself what the numbers of a column stand for."""
    names = h5py.check_enum_dtype(array.dtype)
    if names is None or sorted(names.values()) != list(range(len(names))):
        return labels
    return Labels(labels.number_N, classes=tuple(sorted(names, key=lambda name: names[name])), form="enumeration")
