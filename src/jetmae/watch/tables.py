"""What `runs.py list` and `runs.py status` print."""

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from jetmae.watch.ledger import Attempt, Ledger
from jetmae.watch.parts import Parts
from jetmae.watch.status import RunStatus

PIPE_WIDTH = 2000  # columns where no terminal says how wide it is
NOTHING = "-"
BAR_WIDTH = 40  # characters
EIGHTHS = " ▏▎▍▌▋▊▉"  # of a character


def print_list(rows: list[tuple[str, str, RunStatus]]) -> None:
    """One line for each (name, task, status)."""
    table = Table("run", "task", "state", "step", "ETA", "jets/s", "starts", "job", box=None, pad_edge=False)
    for name, task, status in rows:
        speed = rate(status.jets_per_s) if status.state == "running" else NOTHING
        table.add_row(
            name,
            task,
            status.state,
            progress(status),
            duration(status.eta_s),
            speed,
            str(status.starts),
            status.job_id or NOTHING,
        )
    console().print(table)


def print_status(name: str, task: str, status: RunStatus, ledger: Ledger | None) -> None:
    """Everything about one run."""
    facts = {
        "run": f"{name} ({task}) in {status.run.root}",
        "state": _state(status),
        "where": _where(status),
        "step": f"{progress(status)}, ETA {duration(status.eta_s)}" if status.eta_s is not None else progress(status),
        "speed": f"{rate(status.jets_per_s)} jets/s",
        "loss": NOTHING if status.loss is None else f"{status.loss:.5g}",
    }
    if ledger:
        facts |= _times(ledger)
    out = console()
    for fact, text in facts.items():
        out.print(f"{fact:<12}{text}", soft_wrap=True)
    if ledger:
        out.print(_parts(ledger.parts))
        out.print()
        out.print(_attempts(ledger))


def progress(status: RunStatus) -> str:
    if not status.total_steps:
        return f"{status.step} of an unknown number"
    return f"{status.step}/{status.total_steps} {100 * status.step / status.total_steps:.0f} %"


def duration(seconds: float | None) -> str:
    """`1 day, 2:03:04`."""
    return NOTHING if seconds is None else str(timedelta(seconds=round(seconds)))


def short_duration(seconds: float) -> str:
    """Below a minute with tenths of a second: `12.3 s`, else `1 day, 2:03:04`."""
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def percent(share: float) -> str:
    """With one more digit near 0 and near 100 %: 0.04 %, 97.1 %, 99.93 %."""
    return f"{100 * share:.2f} %" if min(share, 1 - share) < 0.01 else f"{100 * share:.1f} %"


def bar(share: float) -> str:
    """A bar as long as the share; a small share still shows."""
    eighths = max(1, round(share * BAR_WIDTH * len(EIGHTHS)))
    whole, rest = divmod(eighths, len(EIGHTHS))
    return "\N{FULL BLOCK}" * whole + (EIGHTHS[rest] if rest else "")


def rate(per_s: float | None) -> str:
    return NOTHING if per_s is None else f"{per_s:.0f}"


def console() -> Console:
    """The console that tables are printed on."""
    # A message may hold brackets, which are no markup here. Into a pipe, lines are not folded.
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(markup=False, highlight=False, emoji=False, width=width)


def _state(status: RunStatus) -> str:
    if status.state == "unknown" and status.job_id:
        return f"unknown: Slurm does not say what became of job {status.job_id}"
    job = status.queued_job
    if job is None or not job.waits:
        return status.state
    since = "" if job.submitted_at_s is None else f" for {duration(max(0.0, time.time() - job.submitted_at_s))}"
    return f"{status.state}{since}; Slurm says: {job.reason}"


def _where(status: RunStatus) -> str:
    job = f"job {status.job_id}" if status.job_id else "local processes"
    return f"{job} on {' '.join(status.hosts)}" if status.hosts else job


def _times(ledger: Ledger) -> dict[str, str]:
    unit = "GPU-hours" if any(attempt.num_gpus for attempt in ledger.attempts) else "rank-hours"  # a rank has one
    parts = ledger.parts
    running = f", {percent(parts.goodput_outside_queue)} while anything ran" if parts.queued_s else ""
    return {
        unit: f"{ledger.rank_hours:.3g} used, {ledger.wasted_rank_hours:.2g} of them lost or replayed",
        "time": f"{duration(parts.wall_s)} since the first submission, goodput {percent(parts.goodput)}{running}",
    }


def _parts(parts: Parts) -> Table:
    """Where the time went, without the parts that took none."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    for name, seconds, share in parts.shown():
        if seconds > 0:
            table.add_row(f"{name:<11}", short_duration(seconds), percent(share), bar(share))
    return table


def _attempts(ledger: Ledger) -> Table:
    names = ("attempt", "job", "hosts", "queued", "ran", "resumed at", "last commit", "lost", "cause")
    table = Table(*names, box=None, pad_edge=False)
    table.add_column("message", no_wrap=True, overflow="ellipsis")  # one line; all of it is in attempts.jsonl
    for attempt in ledger.attempts:
        table.add_row(*_attempt_row(attempt))
    return table


def _attempt_row(attempt: Attempt) -> tuple[str, ...]:
    return (
        str(attempt.trace.number),
        attempt.trace.job_id or NOTHING,
        " ".join(attempt.trace.hosts),
        duration(attempt.parts.queued_s),
        duration(attempt.ran_s),
        str(attempt.steps.resumed),
        str(attempt.steps.committed),
        _lost(attempt),
        attempt.trace.cause.replace("_", " "),
        attempt.trace.message or NOTHING,
    )


def _lost(attempt: Attempt) -> str:
    steps = [f"{attempt.lost_steps} steps"] if attempt.lost_steps else []
    time = [short_duration(attempt.parts.lost_s)] if attempt.parts.lost_s else []
    return ", ".join([*steps, *time]) or "0"
