"""What is left of an attempt in the run folder: its lines in attempts.jsonl, metrics.jsonl and timeline.jsonl."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from jetmae.run_folder import WITHOUT_A_WORD

NEEDED = {  # what a line must tell to be of use
    "restore": {"step", "duration_s", "time_s"},
    "save": {"step", "stall_s", "write_s", "outcome", "time_s"},
}


@dataclass(frozen=True)
class Mark:
    """A sign of life: `step` was done, and a save held the training for a while after it."""

    step: int
    done_at_s: float
    held_until_s: float


@dataclass
class Trace:
    """What was written of one attempt. The end may be missing; in place of a torn start stands the end."""

    start: dict
    end: dict | None
    runs: bool = False
    lines: list[dict] = field(default_factory=list)  # of training
    restores: list[dict] = field(default_factory=list)
    saves: list[dict] = field(default_factory=list)

    @property
    def started_at_s(self) -> float:
        """Its first record: the ranks have met."""
        return self.start["time_s"]

    @property
    def number(self) -> int:
        return self.start.get("attempt", 0)

    @property
    def job_id(self) -> str | None:
        return self.start.get("job_id")

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.start.get("hosts") or ()))

    @property
    def num_ranks(self) -> int:
        return self.start.get("world_size") or 1

    @property
    def message(self) -> str:
        """What rank 0 or the batch shell said of its end, in one line; empty where there was nothing to say."""
        return " ".join(str((self.end or {}).get("message") or "").split())

    @property
    def was_silent(self) -> bool:
        """Nobody saw its end; a line about it was written, if at all, by the attempt after it."""
        return not self.runs and (self.end is None or self.message.startswith(WITHOUT_A_WORD))

    @property
    def cause(self) -> str:
        """Why it ended, or `running`, or `lost` where nobody was left to write why."""
        return "running" if self.runs else (self.end or {}).get("cause") or "lost"

    @property
    def left_by_itself(self) -> bool:
        """Rank 0 came to the end of its work, whatever that was; otherwise there is a message."""
        return self.end is not None and not self.message and self.cause != "crashed"

    @property
    def resumed_step(self) -> int | None:
        """Where its training began, as far as it is told."""
        told = [*(line["step"] for line in self.restores), (self.end or {}).get("resumed_step")]
        told.append(self.start.get("committed_step"))
        return next((step for step in told if step is not None), None)

    @property
    def committed_step(self) -> int | None:
        """The newest checkpoint at its end, as far as it is told."""
        return (self.end or {}).get("last_committed_step")

    def marks(self) -> list[Mark]:
        """Its signs of life in the order of time. A save begins when its step is done."""
        lines = [Mark(line["step"], line["time_s"], line["time_s"]) for line in self.lines]
        begins = [(line, line["time_s"] - line["write_s"]) for line in self.saves]
        saves = [Mark(line["step"], begin_s, begin_s + line["stall_s"]) for line, begin_s in begins]
        return sorted([*lines, *saves], key=lambda mark: mark.done_at_s)

    def last_sign_of_life_s(self) -> float:
        """Of any kind: a step, a save that ends, a checkpoint that is read, the start."""
        times_s = [line["time_s"] for line in (*self.lines, *self.restores, *self.saves)]
        return max([self.started_at_s, *times_s])


def traces_of(events: Iterable[dict], train_lines: Iterable[dict], timeline: Iterable[dict]) -> list[Trace]:
    """The attempts of a run, oldest first, each with its lines."""
    traces: list[Trace] = []
    for line in (line for line in events if "time_s" in line):
        if line.get("event") == "start":
            traces.append(Trace(line, None))
        elif traces and traces[-1].end is None:
            traces[-1].end = line
        else:
            traces.append(Trace(line, line))
    for line in train_lines:
        if owner := _owner(traces, line):
            owner.lines.append(line)
    for line in timeline:
        if not NEEDED.get(line.get("event", ""), {""}) <= line.keys():
            continue
        if owner := _owner(traces, line):
            (owner.restores if line["event"] == "restore" else owner.saves).append(line)
    return traces


def _owner(traces: list[Trace], line: dict) -> Trace | None:
    """The attempt that wrote a line: the one of that number, whatever the clocks of the nodes say. Where a torn start
    has confused the numbers, the last one that had begun by then."""
    same = [trace for trace in traces if trace.number == line.get("attempt")] or traces
    if len(same) == 1:
        return same[0]
    return next((trace for trace in reversed(same) if trace.started_at_s <= line["time_s"]), None)


def step_times_s(train_lines: Iterable[dict]) -> list[float]:
    """How long a step took by each line that tells it: without validations, averaged since the line before."""
    known = [line for line in train_lines if line.get("samples") and line.get("jets_per_s")]
    return [line["samples"] / line["step"] / line["jets_per_s"] for line in known]


def typical_step_s(train_lines: Iterable[dict]) -> float | None:
    times_s = step_times_s(train_lines)
    return statistics.median(times_s) if times_s else None
