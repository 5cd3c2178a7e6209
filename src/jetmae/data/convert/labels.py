"""What a column of labels says, however it is written: numbers, words, one-hot columns, or lists of one.

A column is taken for the label by its name alone. What only looks like labels (two values, in whatever form) is
suggested to the user: a trigger bit looks the same.

Shapes: N jets, M columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.listing import listing
from jetmae.errors import DataError

NUMBERS, WORDS, OTHER = "biuf", "U", "O"


@dataclass(frozen=True)
class Labels:
    """number_N (N,) counts `words` where the file has words, else `classes`, whose names a file seldom says."""

    number_N: NDArray[np.int64]
    words: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    form: str = ""
    """How they are written, if it is not plain numbers."""


def read_labels(column: NDArray[Any], where: str, *, num_classes: int = 2) -> Labels:
    """Labels from a column (N,), (N, 1), or one-hot (N, M) of numbers, words, or lists.

    Raises:
        DataError: it holds something else, or is one-hot of another number of classes.
    """
    values = _plain(column, where)
    if values.ndim == 2 and is_one_hot(values):
        if values.shape[1] != num_classes:
            raise DataError(
                f"{where} is one-hot of {values.shape[1]} classes, expected {num_classes}, background and signal;"
                " leave the jets of others out, or name another label with --label-key"
            )
        return Labels(np.argmax(values, axis=1), form=f"one-hot, column 1 to {num_classes}")
    values = one_per_jet(values, where)
    return _from_words(values, where) if values.dtype.kind == WORDS else Labels(integers(values, where))


def choose_label(columns: Mapping[str, NDArray[Any]], where: str) -> str:
    """The one of several columns named like labels that is the label: one that is the same for all jets says nothing.

    Raises:
        DataError: more than one could be; names them.
    """
    varying = [name for name, values in columns.items() if not _is_constant(values)]
    candidates = varying or list(columns)
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(f"{where}: {listing(candidates)} could all be the label, expected one; say which with --label-key")


def _is_constant(column: NDArray[Any]) -> bool:
    try:
        values = _plain(column, "")
    except DataError:  # whoever reads it says what is wrong
        return False
    return bool((values == values[:1]).all())


def looks_like_labels(column: NDArray[Any]) -> bool:
    """Whether a column holds two classes, each of at least one jet."""
    try:
        labels = read_labels(column, "")
    except DataError:
        return False
    found = np.unique(labels.number_N)
    return len(found) == 2 and (labels.words is not None or found.tolist() == [0, 1])


def could_be_labels(names: Sequence[str]) -> str:
    """What to say of a file where no column has the name of a label, but some look like one."""
    return (
        f"nothing in it is named as labels are (y, label, is_signal, ...), but {listing(names)} could be the label; say"
        " --label-key NAME, or leave labels out: unlabelled=FILE"
    )


def is_one_hot(columns_NM: NDArray[Any]) -> bool:
    """Whether exactly one of at least two columns is 1 in every row, and all others 0."""
    if columns_NM.dtype.kind not in NUMBERS or columns_NM.shape[1] < 2:
        return False
    return bool(np.isin(columns_NM, (0, 1)).all() and (columns_NM.sum(axis=1, dtype=np.float64) == 1).all())


def _from_words(words_N: NDArray[np.str_], where: str) -> Labels:
    words, number_N = np.unique(words_N, return_inverse=True)
    if words[0] == "":
        row = int(np.flatnonzero(words_N == "")[0])
        raise DataError(f"{where}: row {row} has no word, expected the name of a class in every row; fill it in")
    return Labels(number_N.astype(np.int64), tuple(words.tolist()), form="words")


def _plain(column: NDArray[Any], where: str) -> NDArray[Any]:
    """Numbers or words, without lists around them."""
    if column.dtype.kind in (*NUMBERS, WORDS):
        return np.char.strip(column) if column.dtype.kind == WORDS else column
    if column.dtype.kind == "S" or (column.dtype.kind == OTHER and _are_words(column)):
        words = np.array([_word(value) for value in column.flat], dtype=np.str_)
        return np.char.strip(words).reshape(column.shape)
    if column.dtype.kind == OTHER and column.ndim == 1 and _are_lists_of_one_length(column):
        return _plain(np.stack([np.asarray(values) for values in column]), where)
    raise DataError(f"{where} holds {column.dtype} values, expected numbers or words; name the label with --label-key")


def _are_words(column: NDArray[Any]) -> bool:
    return all(isinstance(value, str | bytes) for value in column.flat)


def _are_lists_of_one_length(column: NDArray[Any]) -> bool:
    if not all(isinstance(value, list | tuple | np.ndarray) for value in column):
        return False
    return len({len(value) for value in column}) == 1


def _word(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def integers(values: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Labels (N,) or (N, 1) of any numeric type as integers (N,).

    Raises:
        DataError: names the first row that holds no whole number.
    """
    flat = one_per_jet(values, where)
    with np.errstate(invalid="ignore"):
        whole = flat.astype(np.int64)
    bad = np.flatnonzero(whole != flat)
    if len(bad):
        raise DataError(
            f"{where}: label {flat[bad[0]]} in row {bad[0]} is not a whole number; expected class numbers 0, 1, ...;"
            " correct the source or name the label array with --label-key"
        )
    return whole


def one_per_jet(values: NDArray[Any], where: str) -> NDArray[Any]:
    """(N,) or (N, 1) -> (N,)."""
    if values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1):
        return values.reshape(-1)
    raise DataError(f"{where} has shape {values.shape}, expected (N,) or (N, 1); name the right one with --label-key")
