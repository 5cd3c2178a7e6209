"""Which jets go to which split of a dataset.

A SOURCE is FILE or SPLIT=FILE:

    a file that brings its own splits keeps them
    SPLIT=FILE        every jet goes to that split; labels are left out if its name begins with `unlabelled`
    unlabelled=FILE   labels are left out, jets divided into unlabelled_train, unlabelled_validation, unlabelled_test
    FILE              divided into train, validation, test if it has labels, else as for unlabelled=FILE
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.open import open_source
from jetmae.data.convert.source import SourceOptions, SourcePart
from jetmae.errors import DataError

DIVISION = ("train", "validation", "test")
UNLABELLED = "unlabelled"


@dataclass
class PlannedPart:
    """A part of a source, and the split of each of its jets: a number in `splits`, one byte per jet."""

    part: SourcePart
    splits: tuple[str, ...]
    split_of_row: NDArray[np.uint8]


def plan_conversion(
    sources: Sequence[str], options: SourceOptions, *, fractions: Sequence[float], seed: int
) -> list[PlannedPart]:
    """Open all sources and decide the split of every jet.

    Raises:
        DataError: a source is not what it should be, or the sources do not go together.
    """
    plan: list[PlannedPart] = []
    divided_by_us = False
    for number, source in enumerate(sources):
        wanted, path = parse_source(source)
        divided_by_us |= wanted is None
        for part in open_source(path, options, labelled=not (wanted or "").startswith(UNLABELLED)):
            plan.append(_planned(part, wanted, fractions, seed=(seed, number)))
    if divided_by_us:
        _refuse_a_single_class(plan)
    return _with_common_columns(plan)


def _refuse_a_single_class(plan: list[PlannedPart]) -> None:
    """One class is all right in a split that the user filled, but not where we make training data of it.

    Raises:
        DataError: all labels of all sources say the same.
    """
    labelled = [planned.part for planned in plan if planned.part.label_N is not None]
    found = {label for part in labelled for label in _classes_in(part)}
    if len(found) == 1:
        raise DataError(
            f"source {labelled[0].path}: all labels are {found.pop()}, expected jets of two classes; add the file of"
            " the other class, name another label with --label-key, or say where they go: test=FILE, unlabelled=FILE"
        )


def _classes_in(part: SourcePart) -> list[str | int]:
    numbers = [] if part.label_N is None else np.unique(part.label_N).tolist()
    return [part.label_words[number] if part.label_words else number for number in numbers]


def parse_source(source: str) -> tuple[str | None, Path]:
    """`FILE` -> (None, FILE); `SPLIT=FILE` -> (SPLIT, FILE)."""
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9_]*)=(.+)", source)
    # A file may have an equals sign in its name.
    return (match.group(1), Path(match.group(2))) if match and not Path(source).exists() else (None, Path(source))


def _planned(part: SourcePart, wanted: str | None, fractions: Sequence[float], *, seed: tuple[int, int]) -> PlannedPart:
    split = _known_split(wanted, part.split)
    if wanted == UNLABELLED or (split or "").startswith(UNLABELLED):
        part = replace(part, label_N=None, label_words=None)
    if split is not None:
        return PlannedPart(part, (split,), np.zeros(part.rows, dtype=np.uint8))
    prefix = f"{UNLABELLED}_" if part.label_N is None else ""
    return PlannedPart(part, tuple(prefix + name for name in DIVISION), divide(part.rows, fractions, seed))


def _known_split(wanted: str | None, own: str | None) -> str | None:
    """The split of a whole part, from the command line or the file's own keys; None if it is to be divided."""
    if wanted != UNLABELLED:
        return wanted or own
    if own is None or own.startswith(UNLABELLED):
        return own
    return f"{UNLABELLED}_{own}"


def divide(rows: int, fractions: Sequence[float], seed: int | Sequence[int]) -> NDArray[np.uint8]:
    """The number of the split of each row (N,): a random division with exact, rounded sizes."""
    borders = np.rint(np.cumsum(fractions) * rows).astype(np.int64)
    borders[-1] = rows
    split_of_place = np.searchsorted(borders, np.arange(rows), side="right").astype(np.uint8)
    split_of_row = np.empty(rows, dtype=np.uint8)
    split_of_row[np.random.default_rng(seed).permutation(rows)] = split_of_place
    return split_of_row


def _with_common_columns(plan: list[PlannedPart]) -> list[PlannedPart]:
    """A split has labels, or masses or pT, for all of its jets or for none.

    Raises:
        DataError: some files of a split have labels and others do not.
    """
    for split in {split for planned in plan for split in planned.splits}:
        members = [planned for planned in plan if split in planned.splits]
        unlabelled = [planned.part.path for planned in members if planned.part.label_N is None]
        if unlabelled and len(unlabelled) < len(members):
            raise DataError(
                f"split {split} would mix labelled jets with those of {unlabelled[0]}, which has no labels; give that"
                f" file as {UNLABELLED}=FILE or name its label array with --label-key"
            )
        without_mass = any(planned.part.mass_N is None for planned in members)
        without_pt = any(planned.part.pt_N is None for planned in members)
        for planned in members:
            mass_N, pt_N = planned.part.mass_N, planned.part.pt_N
            planned.part = replace(
                planned.part, mass_N=None if without_mass else mass_N, pt_N=None if without_pt else pt_N
            )
    return plan
