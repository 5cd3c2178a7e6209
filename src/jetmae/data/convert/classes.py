"""What the label numbers of a dataset stand for: one list of classes for all its sources.

Where labels are words, the words become the class names. Nothing in a file says which of them is the signal, so the
order is the alphabet's, and said, unless the user gives another.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jetmae.data.convert.division import PlannedPart
from jetmae.data.convert.listing import listing
from jetmae.errors import DataError

UNNAMED_CLASSES = ("class 0", "class 1")


def classes_of(plan: Sequence[PlannedPart], named: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Class names in the order of the label numbers; None without labels. `named` comes from the user or the files.

    Raises:
        DataError: words that are none of `named`, or not two without it; or some files have words and others numbers.
    """
    labelled = [planned.part for planned in plan if planned.part.label_N is not None]
    with_words = [part for part in labelled if part.label_words is not None]
    words = sorted({word for part in with_words for word in part.label_words or ()})
    if not words:
        return (named or UNNAMED_CLASSES) if labelled else None
    numbered = next((part for part in labelled if part.label_words is None), None)
    if numbered is not None:
        raise DataError(
            f"labels are words ({listing(words)}) in {with_words[0].path} and numbers in {numbered.path}; expected the"
            " same in all sources; convert them apart"
        )
    return _classes_of_words(words, named)


def _classes_of_words(words: list[str], named: tuple[str, ...] | None) -> tuple[str, ...]:
    unknown = [word for word in words if named and word not in named]
    if unknown:
        raise DataError(
            f"labels say {listing(unknown)}, which is none of the classes {listing(named or ())}; name all of"
            f" {listing(words)} in order with --classes, the signal last"
        )
    if named is None and len(words) != 2:
        raise DataError(
            f"labels are {len(words)} different words ({listing(words)}), expected two, background and signal; leave"
            " the jets of others out, or name the classes in order with --classes"
        )
    return named or tuple(words)


def numbered(planned: PlannedPart, classes: tuple[str, ...] | None) -> PlannedPart:
    """The part with labels that count `classes` instead of its own words."""
    part = planned.part
    if part.label_N is None or part.label_words is None or classes is None:
        return planned
    number_of_word = np.array([classes.index(word) for word in part.label_words], dtype=np.int64)
    return replace(planned, part=replace(part, label_N=number_of_word[part.label_N]))


def notes_on_classes(plan: Sequence[PlannedPart], classes: tuple[str, ...] | None, *, by_user: bool) -> list[str]:
    """What the user should know of labels: the order of words, and files that hold one class only."""
    if classes is None:
        return []
    notes = []
    labelled = [planned.part for planned in plan if planned.part.label_N is not None]
    if not by_user and any(part.label_words for part in labelled):
        numbers = ", ".join(f"{number} = {name}" for number, name in enumerate(classes))
        notes.append(f"label words: {numbers}; the last is the signal; --classes sets another order")
    for part in labelled:
        numbers_found = set() if part.label_N is None else set(np.unique(part.label_N).tolist())
        for number in numbers_found if len(numbers_found) == 1 else ():
            notes.append(f"{part.path}: all {part.rows:,} labels of {part.key} are {number} ({classes[number]})")
    return notes
