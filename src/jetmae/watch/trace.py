"""What is left of an attempt in the run folder: its lines in attempts.jsonl, metrics.jsonl and timeline.jsonl."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from jetmae.records.attempts import SILENT_END, AttemptLine, EndLine, StartLine
from jetmae.records.metrics import TrainLine
from jetmae.records.timeline import RestoreLine, SaveLine, TimelineLine


@dataclass(frozen=True)
class Mark:
    """A moment of which there is a record: `step` was done, and a save held the training for a while after it."""

    step: int
    done_at_s: float
    held_until_s: float


@dataclass
class Trace:
    """What was written of one attempt.

    `first` is its start line, or its end line if the start line is lost; `started_at_s` is the time of that line, when
    the ranks had met. `end` is None if nobody has written it.
    """

    first: AttemptLine
    started_at_s: float
    end: EndLine | None = None
    runs: bool = False
    lines: list[TrainLine] = field(default_factory=list)
    restores: list[RestoreLine] = field(default_factory=list)
    saves: list[SaveLine] = field(default_factory=list)

    @property
    def ended_at_s(self) -> float | None:
        """When its end line was written, which may be long after it; None without one."""
        return self.end.time_s if self.end else None

    @property
    def number(self) -> int:
        return self.first.attempt

    @property
    def job_id(self) -> str | None:
        return self.first.job_id

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.first.hosts or ()))

    @property
    def num_ranks(self) -> int:
        return self.first.world_size or 1

    @property
    def message(self) -> str:
        """What rank 0 or the batch shell said of its end, in one line; empty where there was nothing to say."""
        return " ".join((self.end.message or "").split()) if self.end else ""

    @property
    def was_silent(self) -> bool:
        """Nobody saw its end. If there is an end line, the next attempt has written it."""
        return not self.runs and (self.end is None or self.message.startswith(SILENT_END))

    @property
    def cause(self) -> str:
        """Why it ended; `running`; or `lost` if there is no line that says why."""
        if self.runs:
            return "running"
        return (self.end.cause if self.end else None) or "lost"

    @property
    def left_by_itself(self) -> bool:
        """Rank 0 ended in good order: it completed the run or stopped on request. Otherwise there is a message."""
        return self.end is not None and not self.message and self.cause != "crashed"

    @property
    def resumed_step(self) -> int | None:
        """The step its training began from; None if no line tells it."""
        if self.restores:
            return self.restores[0].step
        if self.end and self.end.resumed_step is not None:
            return self.end.resumed_step
        return self.first.committed_step if isinstance(self.first, StartLine) else None

    @property
    def committed_step(self) -> int | None:
        """The step of the newest checkpoint at its end; None if no line tells it."""
        return self.end.last_committed_step if self.end else None

    def marks(self) -> list[Mark]:
        """The moments of which there is a record, in the order of time. A save begins when its step is done."""
        lines = [Mark(line.step, line.time_s, line.time_s) for line in self.lines]
        begins = [(line, line.time_s - line.write_s) for line in self.saves]
        saves = [Mark(line.step, begin_s, begin_s + line.stall_s) for line, begin_s in begins]
        return sorted([*lines, *saves], key=lambda mark: mark.done_at_s)

    def last_record_s(self) -> float:
        """The time of its last line: a step, a save that ends, a checkpoint that is read, or the start."""
        records: list[TrainLine | TimelineLine] = [*self.lines, *self.restores, *self.saves]
        return max([self.started_at_s, *(record.time_s for record in records)])


def traces_of(
    attempts: Iterable[AttemptLine], train_lines: Iterable[TrainLine], timeline: Iterable[TimelineLine]
) -> list[Trace]:
    """The attempts of a run, oldest first, each with its lines. Starts and ends without a time are left out."""
    traces: list[Trace] = []
    for line in attempts:
        if line.time_s is not None:
            _add_attempt_line(traces, line, line.time_s)
    for train_line in train_lines:
        if owner := _owner(traces, train_line):
            owner.lines.append(train_line)
    for event in timeline:
        owner = _owner(traces, event)
        if owner and isinstance(event, RestoreLine):
            owner.restores.append(event)
        elif owner and isinstance(event, SaveLine):
            owner.saves.append(event)
    return traces


def _add_attempt_line(traces: list[Trace], line: AttemptLine, time_s: float) -> None:
    if isinstance(line, StartLine):
        traces.append(Trace(line, time_s))
    elif traces and traces[-1].end is None:
        traces[-1].end = line
    else:
        traces.append(Trace(line, time_s, end=line))


def _owner(traces: list[Trace], line: TrainLine | TimelineLine) -> Trace | None:
    """The attempt that wrote a line: the one of its number.

    If a lost start line has left several attempts with that number, or none, it is the last one that had begun by then.
    """
    same = [trace for trace in traces if trace.number == line.attempt] or traces
    if len(same) == 1:
        return same[0]
    return next((trace for trace in reversed(same) if trace.started_at_s <= line.time_s), None)


def step_times_s(lines: Iterable[TrainLine]) -> list[float]:
    """The time of one step by each line that tells it: a mean since the line before, without validations."""
    return [line.samples / line.step / line.jets_per_s for line in lines if line.samples and line.jets_per_s]


def typical_step_s(lines: Iterable[TrainLine]) -> float | None:
    times_s = step_times_s(lines)
    return statistics.median(times_s) if times_s else None
