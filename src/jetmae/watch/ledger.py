"""Where a run's time went: what was kept, what was lost and done again, what was spent waiting and starting.

Pure functions of what attempts.jsonl, metrics.jsonl and Slurm's accounting say. The parts add up to the wall time
between the first submission and the end of the last attempt.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jetmae.watch.slurm_jobs import JobStart

CLOCK_SKEW_S = 2.0  # between the node that writes a record and the controller


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of a run. `waited_s` lies between the end before it, or the submission, and its first record."""

    number: int
    job_id: str | None
    hosts: tuple[str, ...]
    num_ranks: int
    num_gpus: int  # as Slurm gave them; 0 where it does not say
    started_at_s: float
    ended_at_s: float
    cause: str  # or `running`, or `lost` where nobody was left to write why
    message: str
    resumed_step: int
    reached_step: int
    committed_step: int
    waited_s: float
    queued_s: float | None  # the part of waited_s in Slurm's queue; None: Slurm does not say
    lost_s: float

    @property
    def ran_s(self) -> float:
        return self.ended_at_s - self.started_at_s

    @property
    def lost_steps(self) -> int:
        """Steps that have to be done again."""
        return 0 if self.cause == "running" else max(0, self.reached_step - self.committed_step)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    attempts: tuple[Attempt, ...]

    @property
    def wall_s(self) -> float:
        """From the first submission to the end of the last attempt, or to now while it runs."""
        first, last = self.attempts[0], self.attempts[-1]
        return last.ended_at_s - (first.started_at_s - first.waited_s)

    @property
    def kept_s(self) -> float:
        return sum(attempt.ran_s - attempt.lost_s for attempt in self.attempts)

    @property
    def lost_s(self) -> float:
        return sum(attempt.lost_s for attempt in self.attempts)

    @property
    def waited_s(self) -> float:
        return sum(attempt.waited_s for attempt in self.attempts)

    @property
    def queued_s(self) -> float | None:
        known = [attempt.queued_s for attempt in self.attempts if attempt.queued_s is not None]
        return sum(known) if known else None

    @property
    def used_rank_hours(self) -> float:
        return sum(attempt.num_ranks * attempt.ran_s for attempt in self.attempts) / 3600

    @property
    def lost_rank_hours(self) -> float:
        return sum(attempt.num_ranks * attempt.lost_s for attempt in self.attempts) / 3600


def make_ledger(
    events: Iterable[dict],
    train_lines: Iterable[dict],
    *,
    submitted_at_s: float | None = None,
    now_s: float | None = None,
    newest_commit: int = 0,
    job_starts: Mapping[str, list[JobStart]] | None = None,
) -> Ledger:
    """The attempts of a run.

    `now_s` is given while the last one runs; `newest_commit` is the newest checkpoint in the run folder.
    """
    records = _records(list(events), list(train_lines))
    if records and now_s is not None:
        records[-1].runs = records[-1].end is None
    known = job_starts or {}
    jobs = [_job_start(known.get(str(record.start.get("job_id")), []), record.started_at_s) for record in records]
    ends_s = _ends_s(records, now_s)
    before_s = [_first_submission(submitted_at_s, jobs[0], records[0].started_at_s), *ends_s] if records else []
    rows = zip(records, jobs, _steps(records, newest_commit), before_s, ends_s, strict=False)
    return Ledger(attempts=tuple(_attempt(*row) for row in rows))


@dataclass
class _Record:
    """What was written of one attempt. The end may be missing; in place of a torn start stands the end."""

    start: dict
    end: dict | None
    lines: list[dict] = field(default_factory=list)  # of training
    runs: bool = False

    @property
    def started_at_s(self) -> float:
        return self.start["time_s"]

    def step(self, name: str) -> int | None:
        """A step that one of its lines tells."""
        values = [line[name] for line in (self.start, self.end or {}) if line.get(name) is not None]
        return values[-1] if values else None


def _records(events: list[dict], train_lines: list[dict]) -> list[_Record]:
    records: list[_Record] = []
    for line in (line for line in events if "time_s" in line):
        if line.get("event") == "start":
            records.append(_Record(line, None))
        elif records and records[-1].end is None:
            records[-1].end = line
        else:
            records.append(_Record(line, line))
    for line in train_lines:
        owner = next((record for record in reversed(records) if record.started_at_s <= line["time_s"]), None)
        if owner:
            owner.lines.append(line)
    return records


def _ends_s(records: list[_Record], now_s: float | None) -> list[float]:
    """When each attempt ended: before the next one began, whatever the clocks of their nodes say."""
    following_s = [*(record.started_at_s for record in records[1:]), float("inf")]
    return [min(_end_s(record, now_s), next_s) for record, next_s in zip(records, following_s, strict=False)]


def _end_s(record: _Record, now_s: float | None) -> float:
    """As recorded; or now, while it runs; or its last sign of life."""
    if record.runs and now_s is not None:
        return max(record.started_at_s, now_s)
    last = record.end or (record.lines[-1] if record.lines else record.start)
    return max(record.started_at_s, last["time_s"])


def _steps(records: list[_Record], newest_commit: int) -> list[tuple[int, int]]:
    """(resumed, committed) of each attempt. What a killed one committed, the next one's start tells."""
    committed: list[int] = []
    after = newest_commit
    for record in reversed(records):
        own, resumed = record.step("last_committed_step"), record.step("resumed_step")
        committed.insert(0, after if own is None else own)
        after = committed[0] if resumed is None else resumed
    resumed_steps = [record.step("resumed_step") for record in records]
    begins = [before if step is None else step for step, before in zip(resumed_steps, [0, *committed], strict=False)]
    return list(zip(begins, committed, strict=True))


def _job_start(starts: list[JobStart], attempt_started_at_s: float) -> JobStart | None:
    """The start of a job that led to an attempt: the last one before the attempt's first record."""
    before = [start for start in starts if start.started_at_s <= attempt_started_at_s + CLOCK_SKEW_S]
    return before[-1] if before else None


def _first_submission(recorded_at_s: float | None, job: JobStart | None, started_at_s: float) -> float:
    submitted_at_s = job.submitted_at_s if job else recorded_at_s
    return started_at_s if submitted_at_s is None else min(submitted_at_s, started_at_s)


def _attempt(
    record: _Record, job: JobStart | None, steps: tuple[int, int], before_s: float, ended_at_s: float
) -> Attempt:
    start, end = record.start, record.end or {}
    resumed, committed = steps
    waited_s = record.started_at_s - before_s
    cause = "running" if record.runs else end.get("cause") or "lost"
    return Attempt(
        number=start.get("attempt", 0),
        job_id=start.get("job_id"),
        hosts=tuple(dict.fromkeys(start.get("hosts") or ())),
        num_ranks=start.get("world_size") or 1,
        num_gpus=job.num_gpus if job else 0,
        started_at_s=record.started_at_s,
        ended_at_s=ended_at_s,
        cause=cause,
        message=" ".join(str(end.get("message") or "").split()),
        resumed_step=resumed,
        reached_step=max((line["step"] for line in record.lines), default=resumed),
        committed_step=committed,
        waited_s=waited_s,
        queued_s=min(max(0.0, job.started_at_s - job.submitted_at_s), waited_s) if job else None,
        lost_s=0.0 if cause in ("running", "completed") else _lost_s(record, resumed, committed, ended_at_s),
    )


def _lost_s(record: _Record, resumed: int, committed: int, ended_at_s: float) -> float:
    """All of an attempt that committed nothing; of another, the time after the last committed step was done.

    A save at the very end loses nothing: no step comes after it.
    """
    if committed <= resumed:
        return ended_at_s - record.started_at_s
    if all(line["step"] <= committed for line in record.lines):
        return 0.0
    kept_until_s = max(
        (line["time_s"] for line in record.lines if line["step"] <= committed), default=record.started_at_s
    )
    return ended_at_s - min(kept_until_s, ended_at_s)
