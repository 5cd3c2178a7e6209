"""The two lines of an attempt in attempts.jsonl: its start and its end."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jetmae.files import cannot_write, write_text
from jetmae.records.json_lines import read_lines
from jetmae.records.json_object import Json, record_of

SILENT_END = "ended without a word"  # the message begins so if the next attempt has written the end, long after it


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What both lines say: which start of a run it is, and where. None where it is not known."""

    attempt: int = 0  # the number of the start, from 1
    start_token: str | None = None  # JETMAE_START, by which the ranks of a start find each other
    job_id: str | None = None  # None outside Slurm
    restart_count: int = 0  # how often Slurm had restarted the job
    world_size: int | None = None  # number of ranks
    hosts: list[str] | None = None  # of each rank


@dataclass(frozen=True, kw_only=True)
class StartLine(_Line):
    """Written when the ranks of a start have met."""

    committed_step: int | None = None  # of the newest checkpoint at that time, 0 if there was none
    time_s: float | None = None  # since 1970
    warnings: list[str] | None = None  # what its job lacks of what training counts on; not in the file if nothing

    def to_json(self) -> Json:
        fields = vars(self) if self.warnings else {k: v for k, v in vars(self).items() if k != "warnings"}
        return {"event": "start", **fields}


@dataclass(frozen=True, kw_only=True)
class EndLine(_Line):
    """Written when a start is over."""

    cause: str | None = None  # completed, preempted, time_limit, cancelled, node_failure or crashed
    message: str | None = None  # of the error
    resumed_step: int | None = None  # where the training of this start began
    last_committed_step: int | None = None  # of the newest checkpoint when the line was written
    time_s: float | None = None  # since 1970
    cpu_s: float | None = None  # CPU time of all ranks; not in the file if they could not tell

    def to_json(self) -> Json:
        fields = {k: v for k, v in vars(self).items() if k != "cpu_s" or v is not None}
        return {"event": "end", **fields}


AttemptLine = StartLine | EndLine
_TYPES: dict[str, type[StartLine] | type[EndLine]] = {"start": StartLine, "end": EndLine}


def parse_attempts(objects: Iterable[Json]) -> list[AttemptLine]:
    """The lines that are a start or an end."""
    known = (content for content in objects if content.get("event") in _TYPES)
    lines = (record_of(_TYPES[content["event"]], content) for content in known)
    return [line for line in lines if line is not None]


def read_attempts(path: Path) -> list[AttemptLine]:
    """All lines of attempts.jsonl, oldest first; none if there is no file.

    Raises:
        JetmaeError: a line is not a JSON object.
    """
    return parse_attempts(read_lines(path))


def amend_last_attempt(path: Path, *, cause: str, message: str | None) -> None:
    """Write what became known later into the last start or end. The file is replaced; what else it holds stays.

    Raises:
        JetmaeError: it cannot be written.
    """
    lines = read_lines(path)
    last = max(number for number, content in enumerate(lines) if content.get("event") in _TYPES)
    lines[last] = {**lines[last], "cause": cause, "message": message}
    try:
        write_text(path, "".join(json.dumps(content) + "\n" for content in lines))
    except OSError as error:
        raise cannot_write(path, error) from error


def has_ever_committed(lines: Iterable[AttemptLine]) -> bool:
    """Whether the lines tell of a checkpoint, even if none is there any more."""
    return any(line.committed_step if isinstance(line, StartLine) else line.last_committed_step for line in lines)
