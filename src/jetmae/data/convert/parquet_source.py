"""Jets from Parquet files: an image column, flat or nested, and columns of single numbers beside it."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.columns import Columns
from jetmae.data.convert.float32 import as_float32
from jetmae.data.convert.labels import choose_label, could_be_labels, looks_like_labels, one_per_jet, read_labels
from jetmae.data.convert.listing import listing
from jetmae.data.convert.source import (
    BLOCK_JETS,
    IMAGE_NAMES,
    LABEL_NAMES,
    MASS_NAMES,
    PT_NAMES,
    SourceOptions,
    SourcePart,
    find_names,
    order_name,
    resolve_axes,
    resolve_flat,
)
from jetmae.errors import DataError, JetmaeError

Values = NDArray[Any]


def open_parquet(path: Path, options: SourceOptions, *, labelled: bool = True) -> list[SourcePart]:
    """The one part of a Parquet file; `labelled` is whether anybody wants its labels.

    Raises:
        DataError: damaged, or not recognised.
        JetmaeError: pyarrow is not installed.
    """
    parquet = _import_parquet()
    from pyarrow import ArrowException

    try:
        with parquet.ParquetFile(path) as file:
            return [_part(path, file, options, labelled)]
    except (OSError, ArrowException) as error:
        raise DataError(
            f"source {path} is damaged or truncated Parquet ({str(error)[:160]}); fetch it again, or wait until the"
            " program that writes it has ended"
        ) from error


def _import_parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise JetmaeError("Parquet files need pyarrow; install it with: pip install -e '.[convert]'") from error
    return parquet


def _part(path: Path, file: Any, options: SourceOptions, labelled: bool) -> SourcePart:
    schema, rows = file.schema_arrow, file.metadata.num_rows
    key = _image_key(path, schema, options)
    sizes = _image_sizes(path, key, file)
    where = f"source {path}: {key}"
    if len(sizes) == 3:
        shape, channels_last = resolve_axes(sizes, options, where)
    else:
        shape, channels_last = resolve_flat(sizes[0], options, where)
    columns = _Columns(path, file, key).read(options, labelled)
    labels, nesting = columns.labels, "nested" if len(sizes) == 3 else "flat"
    return SourcePart(
        path=path, key=key, split=None, rows=rows, image_shape=shape, channels_last=channels_last,
        layout=f"Parquet, {order_name(channels_last)}, {key} {nesting} {shape}; {columns.found}",
        blocks=partial(_blocks, path, key, sizes, shape, channels_last),
        label_N=labels.number_N if labels else None, label_words=labels.words if labels else None,
        mass_N=columns.mass_N, pt_N=columns.pt_N,
    )  # fmt: skip


def _image_key(path: Path, schema: Any, options: SourceOptions) -> str:
    lists: list[str] = [field.name for field in schema if _is_list(field.type)]
    others = find_names(lists, LABEL_NAMES + MASS_NAMES + PT_NAMES)  # a label may be a list of one
    candidates = [name for name in lists if name not in others]
    named = find_names(lists, IMAGE_NAMES) or (candidates if len(candidates) == 1 else [])
    key = options.image_key or (named[0] if named else "")
    if key in lists:
        return key
    raise DataError(
        f"source {path} has no image column {key} that can be told from the others, expected a list of numbers"
        f" per jet; found: {_described(schema)}; say which with --image-key"
    )


def _described(schema: Any) -> str:
    return listing([f"{field.name} {field.type}" for field in schema])


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _image_sizes(path: Path, key: str, file: Any) -> tuple[int, int, int] | tuple[int]:
    """Lengths of the nested lists of the first image: (C, H, W), (H, W, C) or (all values,)."""
    if file.metadata.num_rows == 0:
        raise DataError(f"source {path}: {key} has 0 jets, expected at least 1; leave this file out")
    image = next(file.iter_batches(batch_size=1, columns=[key])).column(0)
    sizes: list[int] = []
    while _is_list(image.type) and len(image) and image[0].is_valid:
        sizes.append(len(image[0]))
        image = image.flatten()
    if not _is_number(image.type):
        raise DataError(f"source {path}: {key} holds {image.type} values in its first row, expected lists of numbers")
    if len(sizes) == 1:
        return (sizes[0],)
    if len(sizes) == 3:
        return sizes[0], sizes[1], sizes[2]
    raise DataError(
        f"source {path}: {key} is nested {len(sizes)} deep, expected 1 (flat) or 3 (channels, rows, columns);"
        " say which column with --image-key"
    )


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


class _Columns:
    """The columns beside the images."""

    def __init__(self, path: Path, file: Any, image_key: str):
        self.path, self.file = path, file
        self.names: list[str] = [field.name for field in file.schema_arrow if field.name != image_key]

    def read(self, options: SourceOptions, labelled: bool) -> Columns:
        """Labels, masses and pT as far as the file has them.

        Raises:
            DataError: one is not what it should be, or it is not clear which one is the label.
        """
        label_key = self._label_key(options) if labelled else None
        found, labels = ["no labels"], None
        if label_key is not None:
            values, num_classes = self.values(label_key), len(options.classes or (0, 1))
            labels = read_labels(values, self._where(label_key), num_classes=num_classes)
            found = [f"label {label_key} {labels.form or values.dtype}"]
        masses = {}
        for name, wanted in (("mass", MASS_NAMES), ("pt", PT_NAMES)):
            for key in find_names(self.names, wanted)[:1]:
                masses[name] = as_float32(one_per_jet(self.values(key), self._where(key)), self._where(key))
                found.append(f"{name} {key}")
        return Columns(", ".join(found), labels, masses.get("mass"), masses.get("pt"))

    def values(self, name: str) -> Values:
        """A column (N,), or (N, M) where it holds lists of M values.

        Raises:
            DataError: values are missing, or the lists differ in length.
        """
        import pyarrow as pa

        column = self.file.read(columns=[name]).column(0).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if _is_list(column.type):
            size = len(column[0].as_py() or ())
            return _flattened(column, (size,), self._where(name), 0).reshape(len(column), size)
        if column.null_count:
            raise DataError(f"{self._where(name)} has {column.null_count} missing values, expected none; fill them in")
        values: Values = column.to_numpy(zero_copy_only=False)
        return values

    def _label_key(self, options: SourceOptions) -> str | None:
        if options.label_key is not None:
            if options.label_key in self.names:
                return options.label_key
            found = _described(self.file.schema_arrow)
            raise DataError(f"source {self.path} has no column {options.label_key!r} (--label-key); found: {found}")
        named = find_names(self.names, LABEL_NAMES)
        if named:
            return choose_label({name: self.values(name) for name in named}, f"source {self.path}")
        alike = [name for name in self.names if self._looks_like_labels(name)]
        if alike:
            raise DataError(f"source {self.path}: {could_be_labels(alike)}")
        return None

    def _looks_like_labels(self, name: str) -> bool:
        first = next(self.file.iter_batches(batch_size=1, columns=[name])).column(0)
        if _is_list(first.type) and len(first[0].as_py() or ()) > 2:
            return False
        with suppress(DataError):  # what cannot be read is no suggestion
            return looks_like_labels(self.values(name))
        return False

    def _where(self, name: str) -> str:
        return f"source {self.path}: {name}"


def _blocks(
    path: Path, key: str, sizes: tuple[int, ...], shape: tuple[int, int, int], channels_last: bool
) -> Iterator[tuple[int, NDArray[Any]]]:
    from pyarrow import ArrowException

    channels, *sides = shape
    stored = (*sides, channels) if channels_last else shape
    first = 0
    try:
        with _import_parquet().ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=BLOCK_JETS, columns=[key]):
                flat = _flattened(batch.column(0), sizes, f"source {path}: {key}", first)
                yield first, flat.reshape(len(batch), *stored)
                first += len(batch)
    except (OSError, ArrowException) as error:
        raise DataError(
            f"source {path}: {key} cannot be read at row {first} ({str(error)[:160]}): damaged or truncated; fetch it"
            " again"
        ) from error


def _flattened(images: Any, sizes: tuple[int, ...], where: str, first_row: int) -> NDArray[Any]:
    """All values of a batch, after checking that every image has the shape of the first."""
    jets, per_jet = len(images), 1
    for size in sizes:
        lengths = images.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        bad = np.flatnonzero(lengths != size)
        if len(bad):
            raise DataError(
                f"{where}: row {first_row + bad[0] // per_jet} has a list of {lengths[bad[0]]} values, expected"
                f" {size} as in the first row; correct the source"
            )
        images, per_jet = images.flatten(), per_jet * size
    if images.null_count:
        raise DataError(f"{where}: missing values in rows {first_row}..{first_row + jets - 1}, expected numbers")
    values: NDArray[Any] = images.to_numpy(zero_copy_only=False)
    return values
