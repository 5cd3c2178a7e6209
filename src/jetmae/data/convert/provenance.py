"""Where the jets of a dataset came from: what the manifest says of the files, and whether they stayed as they were."""

import datetime as dt
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jetmae.data.convert.division import PlannedPart
from jetmae.data.integrity import sha256_of
from jetmae.errors import DataError

FileStates = dict[Path, tuple[int, int]]  # size in bytes and time of the last change in ns


def provenance_of(
    sources: Sequence[str], plan: Sequence[PlannedPart], *, options: dict[str, dict[str, Any]], hash_sources: bool
) -> dict[str, Any]:
    """For the manifest. `options` are all that the user chose, by the name of the group."""
    return {
        "jetmae_version": importlib.metadata.version("jetmae"),
        "converted_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command_sources": list(sources),
        **options,
        "sources": [_of_part(planned, hash_sources) for planned in plan],
    }


def _of_part(planned: PlannedPart, hash_sources: bool) -> dict[str, Any]:
    part = planned.part
    return {
        **_of_file(part.path, hash_sources),
        "layout": part.layout,
        "rows": part.rows,
        "splits": list(planned.splits),
        "notes": list(part.notes),
        "also_read": [_of_file(path, hash_sources) for path in sorted(part.also_read)],
    }


def _of_file(path: Path, hash_sources: bool) -> dict[str, Any]:
    sha256 = sha256_of(path) if hash_sources else None
    return {"path": str(path.resolve()), "bytes": path.stat().st_size, "sha256": sha256}


def states_of(plan: Sequence[PlannedPart]) -> FileStates:
    """The state of every file that jets are read from."""
    paths = {path for planned in plan for path in (planned.part.path, *planned.part.also_read)}
    return {path: _state(path) for path in sorted(paths)}


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def refuse_changed(before: FileStates, after: FileStates) -> None:
    """Not all storage has locks, so that a writer may come unseen.

    Raises:
        DataError: names a file that changed.
    """
    for path, state in before.items():
        if after[path] != state:
            raise DataError(
                f"source {path} changed while it was converted: what was read is neither the old nor the new; wait"
                " until the program that writes it has ended, and convert again"
            )
