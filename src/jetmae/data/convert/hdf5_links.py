"""All arrays of an HDF5 file by every name that leads to them: links into the same file and into others are followed.

A link may lead nowhere. That is no error as long as nobody needs what it promised; who looks for a name asks `arrays`
and `broken`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from jetmae.data.convert.hdf5_file import opened_hdf5
from jetmae.data.convert.listing import listing
from jetmae.errors import DataError, JetmaeError


@dataclass(frozen=True)
class NamedArrays:
    """What an open HDF5 file holds."""

    arrays: dict[str, Any] = field(default_factory=dict)
    """h5py datasets by their path in the file; one that has two names stands here twice."""
    broken: dict[str, str] = field(default_factory=dict)
    """What is wrong with each link that leads nowhere."""

    def names(self) -> list[str]:
        return [*self.arrays, *self.broken]

    def without_aliases(self, names: list[str]) -> list[str]:
        """One name of each array, the first."""
        first = {self.arrays[name].id if name in self.arrays else name: name for name in reversed(names)}
        return [name for name in names if name in first.values()]

    def describe(self) -> str:
        """For a message: the first arrays with shape and type, and links that lead nowhere."""
        arrays = [f"{name} {array.shape} {array.dtype}" for name, array in self.arrays.items()]
        everything = [*arrays, *(f"{name} (broken link)" for name in self.broken)]
        return listing(everything, most=4 if len(everything) < 6 else 2) or "no arrays"


def find_arrays(file: Any, path: Path) -> NamedArrays:
    """Walk through all groups of an open file. `path` is where it lies, for messages.

    Raises:
        DataError: something is no group that should be one.
    """
    found = NamedArrays()
    try:
        _walk(file, "", (file.id,), found, path)
    except (TypeError, ValueError) as error:
        raise DataError(f"source {path} is damaged HDF5 ({error}); fetch it again") from error
    return found


def _walk(group: Any, prefix: str, above: tuple[Any, ...], found: NamedArrays, path: Path) -> None:
    for name in group:
        link = group.get(name, getlink=True)
        try:
            item = group[name]
            has_values = not isinstance(item, h5py.Dataset) or (item.shape is not None and item.dtype is not None)
        except (KeyError, OSError, RuntimeError) as error:
            found.broken[prefix + name] = _why_broken(link, path, str(error))
            continue
        except (TypeError, ValueError) as error:
            found.broken[prefix + name] = f"of a type that NumPy does not have ({error})"
            continue
        if not has_values:
            found.broken[prefix + name] = "an array without values"
        elif isinstance(item, h5py.Dataset):
            found.arrays[prefix + name] = item
        elif isinstance(item, h5py.Group) and item.id not in above:  # a link may lead back up
            _walk(item, f"{prefix}{name}/", (*above, item.id), found, path)


def _why_broken(link: Any, path: Path, error: str) -> str:
    if isinstance(link, h5py.SoftLink):
        return f"a link to {link.path}, which this file does not have"
    if not isinstance(link, h5py.ExternalLink):
        return f"not readable ({error})"
    target = find_file(link.filename, path)
    if target is None:
        return f"a link to {link.path} in {link.filename}, a file that is not there: put it beside {path.name}"
    try:
        with opened_hdf5(target):
            return f"a link to {link.path} in {target}, which does not have it"
    except JetmaeError as problem:
        return f"a link into another file: {problem}"


def find_file(name: str, asking: Path) -> Path | None:
    """The file that a link or a virtual dataset of the file `asking` names, looked for where HDF5 looks for it."""
    named = Path(name)
    beside = Path(named.name) if named.is_absolute() else named
    places = [named] if named.is_absolute() else []
    places += [asking.parent / beside, beside, asking.resolve().parent / beside]
    return next((place for place in places if place.is_file()), None)
