"""What the time of one attempt went into, from its records.

Steps are seen where something was written of them: at the lines of metrics.jsonl, which come every log.every_steps
steps, and where a save begins. What was done after the last record is booked as lost. When the next attempt comes to
those steps, they count as done for the first time, and not as replayed.
"""

from dataclasses import dataclass

from jetmae.watch.parts import Parts, Stopwatch
from jetmae.watch.trace import Mark, Trace


@dataclass(frozen=True)
class TimeSpan:
    """From the end of the attempt before, or the first submission, to the end of this one."""

    begin_s: float
    queued_until_s: float
    end_s: float


@dataclass(frozen=True)
class StepRange:
    """The steps of one attempt."""

    resumed: int  # the step it began from
    reached: int  # the last step that was done
    committed: int  # the step of the newest checkpoint at its end
    done_before: int  # the last step that any attempt before it had done
    ended_in_a_commit: bool


def breakdown(trace: Trace, span: TimeSpan, steps: StepRange, step_s: float | None) -> Parts:
    """The parts of a span.

    The first step is taken to have begun `step_s`, the time of a typical one, before it was done: what it took longer
    was starting.
    """
    watch = Stopwatch(span.begin_s, span.end_s)
    watch.until(span.queued_until_s, "queued_s")
    watch.until(trace.started_at_s, "starting_s")
    for line in trace.restores:
        watch.until(line.time_s - line.duration_s, "starting_s")
        watch.until(line.time_s, "restoring_s")
    marks = _marks(trace, span, steps)
    if marks and marks[0].step > steps.resumed and step_s is not None:
        watch.until(marks[0].done_at_s - step_s * (marks[0].step - steps.resumed), "starting_s")
    for before, mark in zip([steps.resumed, *(mark.step for mark in marks)], marks, strict=False):
        _book_steps(watch, before, mark, steps.done_before)
        watch.until(mark.held_until_s, "saving_s")
    watch.until(span.end_s, _rest(trace, marks, steps.done_before))
    return watch.parts()


def _marks(trace: Trace, span: TimeSpan, steps: StepRange) -> list[Mark]:
    """The marks of an attempt; a good end is one more."""
    end = [Mark(steps.reached, span.end_s, span.end_s)] if steps.ended_in_a_commit else []
    return [*trace.marks(), *end]


def _book_steps(watch: Stopwatch, first: int, mark: Mark, done_before: int) -> None:
    """Book the time since the mark before, in which the steps from `first` on were done; all take equally long."""
    num_steps = mark.step - first
    if num_steps <= 0:  # a validation, or the closing of the run
        watch.until(mark.done_at_s, _kind(first, done_before))
        return
    again = min(max(0, done_before - first), num_steps)
    watch.until(watch.now_s + max(0.0, mark.done_at_s - watch.now_s) * again / num_steps, "replayed_s")
    watch.until(mark.done_at_s, "productive_s")


def _kind(step: int, done_before: int) -> str:
    """What the time after a step is."""
    return "replayed_s" if step < done_before else "productive_s"


def _rest(trace: Trace, marks: list[Mark], done_before: int) -> str:
    """What the time after the last mark is. Nothing is lost as long as the attempt runs."""
    if not trace.runs:
        return "lost_s"
    return _kind(marks[-1].step, done_before) if marks else "starting_s"
