"""The times that a simulation of a run's goodput needs: measured on a run, or given by a person."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jetmae.errors import JetmaeError
from jetmae.watch.ledger import Ledger
from jetmae.watch.trace import step_times_s


@dataclass(frozen=True)
class MeasuredTime:
    """A time, and where it comes from."""

    value_s: float
    origin: str


def measured_times(ledger: Ledger, *, checkpoint_steps: int) -> dict[str, MeasuredTime]:
    """Medians over what a run has done so far. Their names are those of the options of `runs.py goodput`."""
    attempts = ledger.attempts
    lines = [line for attempt in attempts for line in attempt.trace.lines]
    restores = [line for attempt in attempts for line in attempt.trace.restores]
    saves = [line for attempt in attempts for line in attempt.trace.saves if line.outcome == "committed"]
    trained = [attempt for attempt in attempts if attempt.steps.reached > attempt.steps.resumed]
    failures = [
        attempt for attempt in attempts if attempt.failed and attempt.parts.lost_s
    ]  # no lost time: when it ended is not known
    times = {
        "step_s": _median(step_times_s(lines), "logged steps"),
        "save_stall_s": _median((line.stall_s for line in saves), "saves"),
        "save_s": _median((line.write_s for line in saves), "saves"),
        "restore_s": _median((line.duration_s for line in restores), "restores"),
        "start_s": _median((attempt.parts.starting_s for attempt in trained), "starts"),
        "requeue_s": _median((attempt.parts.queued_s for attempt in attempts[1:]), "restarts"),
        "lost_s": _median((attempt.parts.lost_s for attempt in failures), "failures"),
    }
    if step := times["step_s"]:
        times["interval_s"] = MeasuredTime(checkpoint_steps * step.value_s, f"log.checkpoint_steps={checkpoint_steps}")
    return {name: time for name, time in times.items() if time}


def _median(values_s: Iterable[float], of: str) -> MeasuredTime | None:
    values_s = list(values_s)
    return MeasuredTime(statistics.median(values_s), f"median of {len(values_s)} {of}") if values_s else None


def chosen_times(given_s: Mapping[str, float | None], measured: Mapping[str, MeasuredTime]) -> dict[str, MeasuredTime]:
    """The times that a person gave, and the measured ones for the rest, in the order of `given_s`.

    Raises:
        JetmaeError: something is neither given nor measured.
    """
    missing = [option(name) for name, value_s in given_s.items() if value_s is None and name not in measured]
    if missing:
        source = "the run has not shown" if measured else "no RUN is named to measure"
        raise JetmaeError(f"{source} {' '.join(missing)}: expected each of them in seconds, e.g. {missing[0]} 10")
    typed = {name: MeasuredTime(value_s, option(name)) for name, value_s in given_s.items() if value_s is not None}
    return {name: typed.get(name) or measured[name] for name in given_s}


def option(name: str) -> str:
    return "--" + name.replace("_", "-")
