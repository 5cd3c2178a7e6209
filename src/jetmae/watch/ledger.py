"""A run's attempts, and where its time went.

Pure functions of what attempts.jsonl, metrics.jsonl, timeline.jsonl, launch.json and Slurm's accounting say. The parts
add up to the wall time: from the first submission to the end of the last attempt, or to now while it runs.

Where the records are silent:

- An attempt that nobody saw ending ended when Slurm's accounting says; without that, at its last record.
- Between the end of an attempt and the next start of a job the run is queued, also when it was in no queue but waited
  for a person, who came at the time of launch.json: nothing ran.
- What then lies before an attempt's first record is starting. Of a job that Slurm says nothing of, all of it counts as
  queued; of a local run, which knows no queue, as starting from the moment it was launched.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jetmae.records.attempts import AttemptLine
from jetmae.records.metrics import TrainLine
from jetmae.records.timeline import TimelineLine
from jetmae.slurm.queue import JobStart
from jetmae.watch.breakdown import StepRange, TimeSpan, breakdown
from jetmae.watch.parts import Parts
from jetmae.watch.trace import Trace, traces_of, typical_step_s

CLOCK_SKEW_S = 2.0  # between the node that writes a record and the controller


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of a run. `parts` go from the end of the attempt before, or the first submission, to its own end."""

    trace: Trace
    steps: StepRange
    num_gpus: int  # as Slurm gave them; 0 where it does not say
    ended_at_s: float
    parts: Parts

    @property
    def ran_s(self) -> float:
        return self.ended_at_s - self.trace.started_at_s

    @property
    def rank_hours(self) -> float:
        return self.trace.num_ranks * self.ran_s / 3600

    @property
    def wasted_rank_hours(self) -> float:
        """Time after the last commit of a failed attempt, and steps that were done again after a failure."""
        return self.trace.num_ranks * (self.parts.lost_s + self.parts.replayed_s) / 3600

    @property
    def failed(self) -> bool:
        return not self.trace.runs and not self.steps.ended_in_a_commit

    @property
    def lost_steps(self) -> int:
        """Steps that have to be done again."""
        return 0 if self.trace.runs else max(0, self.steps.reached - self.steps.committed)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    attempts: tuple[Attempt, ...]

    @property
    def parts(self) -> Parts:
        return sum((attempt.parts for attempt in self.attempts), Parts())

    @property
    def rank_hours(self) -> float:
        return sum(attempt.rank_hours for attempt in self.attempts)

    @property
    def wasted_rank_hours(self) -> float:
        return sum(attempt.wasted_rank_hours for attempt in self.attempts)


def make_ledger(
    attempt_lines: Iterable[AttemptLine],
    train_lines: Iterable[TrainLine],
    timeline: Iterable[TimelineLine] = (),
    *,
    launches_s: Sequence[float] = (),
    now_s: float | None = None,
    newest_commit: int = 0,
    job_starts: Mapping[str, list[JobStart]] | None = None,
) -> Ledger:
    """The attempts of a run.

    `launches_s` are the times at which somebody started or submitted it; `now_s` is given while the last attempt runs;
    `newest_commit` is the newest checkpoint in the run folder.
    """
    train_lines = list(train_lines)
    traces = traces_of(attempt_lines, train_lines, timeline)
    if not traces:
        return Ledger(attempts=())
    if now_s is not None:
        traces[-1].runs = traces[-1].end is None
    jobs = [_job_start(trace, job_starts or {}) for trace in traces]
    spans = _spans(traces, jobs, launches_s, now_s)
    steps = _step_ranges(traces, newest_commit)
    step_s = typical_step_s(train_lines)
    rows = zip(traces, jobs, spans, steps, strict=True)
    return Ledger(attempts=tuple(_attempt(*row, step_s) for row in rows))


def _job_start(trace: Trace, job_starts: Mapping[str, list[JobStart]]) -> JobStart | None:
    """The start of a job that led to an attempt: the last one before the attempt's first record."""
    starts = job_starts.get(str(trace.job_id), [])
    before = [start for start in starts if start.started_at_s <= trace.started_at_s + CLOCK_SKEW_S]
    return before[-1] if before else None


def _spans(
    traces: list[Trace], jobs: list[JobStart | None], launches_s: Sequence[float], now_s: float | None
) -> list[TimeSpan]:
    """The time of each attempt. Each ends before the next one begins, even if the clocks of their nodes disagree."""
    next_s = [*(trace.started_at_s for trace in traces[1:]), float("inf")]
    attempts = list(zip(traces, jobs, strict=True))
    ends_s = [min(_end_s(*attempt, now_s), limit_s) for attempt, limit_s in zip(attempts, next_s, strict=True)]
    begins_s = [_first_submission_s(*attempts[0], launches_s), *ends_s[:-1]]
    begun = zip(attempts, begins_s, strict=True)
    queued_until_s = [_queued_until_s(*attempt, begin_s, launches_s) for attempt, begin_s in begun]
    return [TimeSpan(*row) for row in zip(begins_s, queued_until_s, ends_s, strict=True)]


def _end_s(trace: Trace, job: JobStart | None, now_s: float | None) -> float:
    if trace.runs and now_s is not None:
        return max(trace.started_at_s, now_s)
    if trace.ended_at_s is not None and not trace.was_silent:
        return max(trace.started_at_s, trace.ended_at_s)
    accounted_s = job.ended_at_s if job and job.ended_at_s else 0.0
    return max(accounted_s, trace.last_record_s())


def _first_submission_s(trace: Trace, job: JobStart | None, launches_s: Sequence[float]) -> float:
    return min([*launches_s, *([job.submitted_at_s] if job else []), trace.started_at_s])


def _queued_until_s(trace: Trace, job: JobStart | None, begin_s: float, launches_s: Sequence[float]) -> float:
    """When the job of an attempt started, or when a local run was launched."""
    if job:
        return min(job.started_at_s, trace.started_at_s)
    if trace.job_id:
        return trace.started_at_s
    return max([begin_s, *(launch_s for launch_s in launches_s if launch_s <= trace.started_at_s)])


def _step_ranges(traces: list[Trace], newest_commit: int) -> list[StepRange]:
    """The steps of each attempt. What a killed one had committed is told by the start of the next one."""
    committed: list[int] = []
    after = newest_commit
    for trace in reversed(traces):
        committed.insert(0, after if trace.committed_step is None else trace.committed_step)
        after = committed[0] if trace.resumed_step is None else trace.resumed_step
    ranges: list[StepRange] = []
    for trace, own, before in zip(traces, committed, [0, *committed], strict=False):
        resumed = before if trace.resumed_step is None else trace.resumed_step
        reached = max([resumed, own, *(mark.step for mark in trace.marks())])
        good = trace.cause == "completed" or (trace.left_by_itself and own >= reached > resumed)
        done_before = max((steps.reached for steps in ranges), default=0)
        ranges.append(StepRange(resumed, reached, own, done_before, good))
    return ranges


def _attempt(trace: Trace, job: JobStart | None, span: TimeSpan, steps: StepRange, step_s: float | None) -> Attempt:
    parts = breakdown(trace, span, steps, step_s)
    num_gpus = job.num_gpus if job else 0
    return Attempt(trace=trace, steps=steps, num_gpus=num_gpus, ended_at_s=span.end_s, parts=parts)
