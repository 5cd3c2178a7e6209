"""From JSON objects to dataclasses."""

import json
from dataclasses import MISSING, fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Json = dict[str, Any]
R = TypeVar("R", bound="DataclassInstance")


def parse_object(text: str | bytes) -> Json | None:
    """The JSON object that a text is; None if it is anything else."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def record_of(record: type[R], content: Json) -> R | None:
    """The record that an object holds; None if a key is missing for which the record has no default.

    Keys that the record does not know are left out: a newer version may have added them.
    """
    known, needed = _names(record)
    values = {name: content[name] for name in known if name in content}
    return record(**values) if needed <= values.keys() else None


@cache
def _names(record: "type[DataclassInstance]") -> tuple[tuple[str, ...], frozenset[str]]:
    """The fields of a record, and those without a default."""
    needed = (field.name for field in fields(record) if field.default is MISSING and field.default_factory is MISSING)
    return tuple(field.name for field in fields(record)), frozenset(needed)
