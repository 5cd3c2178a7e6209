"""launch.json: how a run was started last, with what code, and when it was ever started."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from jetmae.errors import JetmaeError
from jetmae.files import write_json
from jetmae.records.json_object import Json, parse_object, record_of

OPTIONAL = ("job_id", "successor_ids")  # not in the file where there are none
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"  # of `started_at`


@dataclass(frozen=True, kw_only=True)
class CodeRecord:
    """Code that a run was given: frozen in its folder, or else the live one as it was then."""

    frozen: bool
    digest: str  # of the sources
    version: str
    git_commit: str | None = None
    git_dirty: bool | None = None  # whether the sources were not those of the commit
    since_s: float = 0.0  # since 1970

    @property
    def described(self) -> str:
        """For a log: enough to find it again."""
        state = f", commit {self.git_commit[:8]}" if self.git_commit else ""
        return f"{self.digest[:8]} (jetmae {self.version}{state}{' with changes' if self.git_dirty else ''})"


@dataclass(frozen=True, kw_only=True)
class LaunchRecord:
    """Everything is empty or None as long as a run has not been started."""

    command: list[str] = field(default_factory=list)
    working_directory: str = ""
    started_at: str = ""  # local time and its offset from UTC
    launches_s: list[float] = field(default_factory=list)  # all starts and submissions by a person, since 1970
    ranks: int | None = None
    total_steps: int | None = None
    job_id: str | None = None  # None, and not in the file, if it was started without Slurm
    successor_ids: list[str] = field(default_factory=list)  # with --no-requeue: the jobs of later starts
    git_commit: str | None = None
    git_diff: str | None = None
    packages: dict[str, str] = field(default_factory=dict)  # versions
    python: str = ""
    code: list[CodeRecord] = field(default_factory=list)  # all that the run was ever given, newest last

    @property
    def newest_code(self) -> CodeRecord | None:
        """What the run runs; None of a run that was launched before code was frozen."""
        return self.code[-1] if self.code else None

    @property
    def started_at_s(self) -> float | None:
        """When it was started last, in seconds since 1970."""
        try:
            return datetime.strptime(self.started_at, TIME_FORMAT).timestamp()  # noqa: DTZ007  the format has %z
        except ValueError:
            return None

    def to_json(self) -> Json:
        return {name: value for name, value in asdict(self).items() if name not in OPTIONAL or value}

    @property
    def jobs(self) -> list[str]:
        """Of all starts that were submitted together, in their order."""
        return [self.job_id, *self.successor_ids] if self.job_id else []


def write_launch(path: Path, record: LaunchRecord) -> None:
    """Replace launch.json.

    Raises:
        OSError: it cannot be written.
    """
    write_json(path, record.to_json())


def read_launch(path: Path) -> LaunchRecord:
    """The record of a run; an empty one if it has none.

    Raises:
        JetmaeError: it is damaged.
    """
    content = parse_object(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else {}
    if content is None:
        raise JetmaeError(f"{path} is not a JSON object: expected what the launch command writes; move it away")
    return _record(content)


def readable_launch(path: Path) -> LaunchRecord:
    """As `read_launch`, for those who only look: an empty record if it cannot be read."""
    try:
        return _record(parse_object(path.read_text(encoding="utf-8", errors="replace")) or {})
    except OSError:
        return LaunchRecord()


def _record(content: Json) -> LaunchRecord:
    listed = content.get("code")
    objects = [part for part in listed if isinstance(part, Mapping)] if isinstance(listed, list) else []
    codes = [code for part in objects if (code := record_of(CodeRecord, dict(part)))]
    return record_of(LaunchRecord, {**content, "code": codes}) or LaunchRecord()
