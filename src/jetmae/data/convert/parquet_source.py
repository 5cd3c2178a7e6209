"""Jets from Parquet files: an image column, flat or nested, and columns of single numbers beside it."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.source import (
    BLOCK_JETS,
    IMAGE_NAMES,
    LABEL_NAMES,
    MASS_NAMES,
    PT_NAMES,
    SourceOptions,
    SourcePart,
    find_name,
    integers,
    order_name,
    resolve_axes,
    resolve_flat,
)
from jetmae.errors import DataError, JetmaeError


def open_parquet(path: Path, options: SourceOptions) -> list[SourcePart]:
    """The one part of a Parquet file.

    Raises:
        DataError: damaged, or not recognised.
        JetmaeError: pyarrow is not installed.
    """
    parquet = _import_parquet()
    from pyarrow import ArrowException

    try:
        with parquet.ParquetFile(path) as file:
            return [_part(path, file, options)]
    except (OSError, ArrowException) as error:
        raise DataError(f"source {path} is damaged or truncated Parquet ({error}); fetch it again") from error


def _import_parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise JetmaeError("Parquet files need pyarrow; install it with: pip install -e '.[convert]'") from error
    return parquet


def _part(path: Path, file: Any, options: SourceOptions) -> SourcePart:
    schema, rows = file.schema_arrow, file.metadata.num_rows
    found = ", ".join(f"{field.name} {field.type}" for field in schema)
    key = _image_key(path, schema, options, found)
    sizes = _image_sizes(path, key, file)
    where = f"source {path}: {key}"
    if len(sizes) == 3:
        shape, channels_last = resolve_axes(sizes, options, where)
    else:
        shape, channels_last = resolve_flat(sizes[0], options, where)
    columns = _scalar_columns(path, file, options, found)
    nesting = "nested" if len(sizes) == 3 else "flat"
    names = ", ".join(f"{name} {column}" for name, (column, _) in columns.items()) or "no labels"
    values = {name: array for name, (_, array) in columns.items()}
    return SourcePart(
        path=path, key=key, split=None, rows=rows, image_shape=shape, channels_last=channels_last,
        layout=f"Parquet, {order_name(channels_last)}, {key} {nesting} {shape}; {names}",
        blocks=partial(_blocks, path, key, sizes, shape, channels_last),
        label_N=values.get("label"), mass_N=values.get("mass"), pt_N=values.get("pt"),
    )  # fmt: skip


def _image_key(path: Path, schema: Any, options: SourceOptions, found: str) -> str:
    lists: list[str] = [field.name for field in schema if _is_list(field.type)]
    key = options.image_key or find_name(lists, IMAGE_NAMES) or (lists[0] if len(lists) == 1 else "")
    if key in lists:
        return key
    raise DataError(
        f"source {path} has no image column {key} that can be told from the others, expected a list of numbers"
        f" per jet; found: {found}; say which with --image-key"
    )


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _image_sizes(path: Path, key: str, file: Any) -> tuple[int, int, int] | tuple[int]:
    """Lengths of the nested lists of the first image: (C, H, W), (H, W, C) or (all values,)."""
    if file.metadata.num_rows == 0:
        raise DataError(f"source {path}: {key} has 0 jets, expected at least 1; leave this file out")
    image = next(file.iter_batches(batch_size=1, columns=[key])).column(0)
    sizes: list[int] = []
    while _is_list(image.type):
        sizes.append(len(image[0]))
        image = image.flatten()
    if len(sizes) == 1:
        return (sizes[0],)
    if len(sizes) == 3:
        return sizes[0], sizes[1], sizes[2]
    raise DataError(
        f"source {path}: {key} is nested {len(sizes)} deep, expected 1 (flat) or 3 (channels, rows, columns);"
        " say which column with --image-key"
    )


def _scalar_columns(path: Path, file: Any, options: SourceOptions, found: str) -> dict[str, tuple[str, NDArray[Any]]]:
    """`label`, `mass`, `pt` -> (column name, values (N,)), as far as the file has them."""
    scalars = [field.name for field in file.schema_arrow if not _is_list(field.type)]
    names = {"mass": find_name(scalars, MASS_NAMES), "pt": find_name(scalars, PT_NAMES)}
    if options.label_key is not None and options.label_key not in scalars:
        raise DataError(f"source {path} has no column {options.label_key!r} (--label-key); found: {found}")
    label = options.label_key or find_name(scalars, LABEL_NAMES)
    wanted = [name for name in scalars if label is None or name == label or name in names.values()]
    table = file.read(columns=wanted) if wanted else None
    columns = {name: _numbers(path, column, table) for name, column in names.items() if column}
    label = label or _only_column_of_class_numbers(table, options)
    if label is not None:
        columns["label"] = (label, integers(_numbers(path, label, table)[1], f"source {path}: {label}"))
    return {
        name: (column, values if name == "label" else values.astype(np.float32))
        for name, (column, values) in columns.items()
    }


def _numbers(path: Path, column: str, table: Any) -> tuple[str, NDArray[Any]]:
    array = table.column(column)
    if array.null_count:
        raise DataError(f"source {path}: {column} has {array.null_count} missing values, expected none; fill them in")
    return column, array.to_numpy()


def _only_column_of_class_numbers(table: Any, options: SourceOptions) -> str | None:
    """Label columns without a telling name: masses and momenta are no class numbers, so one column is enough."""
    numbers = np.arange(len(options.classes or (0, 1)))
    names = table.column_names if table is not None else []
    candidates = [name for name in names if np.isin(table.column(name).to_numpy(), numbers).all()]
    return candidates[0] if len(candidates) == 1 else None


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
            f"source {path}: {key} cannot be read at row {first} ({error}): damaged or truncated; fetch it again"
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
                f" {size} as in the first image {sizes}; correct the source"
            )
        images, per_jet = images.flatten(), per_jet * size
    if images.null_count:
        raise DataError(f"{where}: missing values in rows {first_row}..{first_row + jets - 1}, expected numbers")
    values: NDArray[Any] = images.to_numpy(zero_copy_only=False)
    return values
