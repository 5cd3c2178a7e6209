"""The lines of timeline.jsonl: one per restore and per save.

Whoever makes a line leaves `attempt` and `time_s` out: `append_timeline` fills them in.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from jetmae.records.json_lines import append_line
from jetmae.records.json_object import Json, record_of


@dataclass(frozen=True, kw_only=True)
class RestoreLine:
    """A checkpoint was read."""

    step: int  # of the checkpoint
    duration_s: float
    attempt: int = 0
    time_s: float = 0.0  # when it was done, since 1970

    def to_json(self) -> Json:
        return {"event": "restore", **vars(self)}


@dataclass(frozen=True, kw_only=True)
class SaveLine:
    """A save has ended, as a rule with a commit."""

    step: int
    stall_s: float  # how long training was held
    write_s: float  # from the beginning of the save to its end
    bytes: int | None = None
    outcome: str = "committed"
    attempt: int = 0
    time_s: float = 0.0  # of its end, since 1970

    def to_json(self) -> Json:
        return {"event": "save", **vars(self)}


@dataclass(frozen=True, kw_only=True)
class FailedSaveLine:
    """A save that could not be brought to its end."""

    step: int
    outcome: str = "failed"
    message: str | None = None
    attempt: int = 0
    time_s: float = 0.0  # since 1970

    def to_json(self) -> Json:
        return {"event": "save", **vars(self)}


TimelineLine = RestoreLine | SaveLine | FailedSaveLine


def append_timeline(path: Path, line: TimelineLine, *, attempt: int) -> None:
    """Append a line of an attempt, as of now.

    Raises:
        JetmaeError: it cannot be written.
    """
    append_line(path, replace(line, attempt=attempt, time_s=time.time()).to_json())


def parse_timeline(objects: Iterable[Json]) -> list[TimelineLine]:
    """The lines that are a restore or a save, and say when that was."""
    known = ((_type_of(content), content) for content in objects if "time_s" in content)
    lines = (record_of(record, content) for record, content in known if record)
    return [line for line in lines if line is not None]


def _type_of(content: Json) -> type[TimelineLine] | None:
    if content.get("event") == "restore":
        return RestoreLine
    if content.get("event") == "save" and "outcome" in content:
        return SaveLine if "stall_s" in content else FailedSaveLine
    return None
