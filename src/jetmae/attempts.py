"""An attempt's start line and end line: rank 0 writes them while the run lives, and others complete them afterwards.

What the ranks could not write is added by whoever started them, the batch shell (launch/supervisor.py) or the launcher,
or else by the next attempt. What the ranks reported of their failure (runtime/liveness/rank_report.py) becomes the
message. Standard library only.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jetmae.errors import EXIT_BAD_CONFIG, EXIT_BAD_DATA, EXIT_STOPPED, JetmaeError
from jetmae.records.attempts import SILENT_END, AttemptLine, EndLine, StartLine, amend_last_attempt, read_attempts
from jetmae.records.json_lines import append_line
from jetmae.run_folder import RunFolder
from jetmae.runtime.liveness.phases import heartbeat
from jetmae.runtime.liveness.rank_report import CAUSE, FOLLOWED, await_cause, read_report
from jetmae.runtime.preemption import StopRequest
from jetmae.slurm.job import cause_of_earlier_start, cause_of_stop, job_facts, job_id, restart_count
from jetmae.slurm.job_terms import broken_terms

if TYPE_CHECKING:
    from jetmae.runtime.world import World

AGREED = (0, EXIT_BAD_CONFIG, EXIT_BAD_DATA, EXIT_STOPPED)  # exit codes of ranks that knew why


# -- while the run lives -----------------------------------------------------------------------------------------------


@dataclass
class OpenAttempt:
    """An attempt under way: its number, and what its end line will say, as far as it is known."""

    number: int = 0
    resumed_step: int | None = None
    cause: str = "crashed"
    cpu_s: float | None = None


@contextmanager
def attempt_lines(folder: RunFolder, world: "World") -> Iterator[OpenAttempt]:
    """Write the start line of this attempt, and when the context is left the end line. Rank 0 writes."""
    place = StartLine(
        start_token=os.environ.get("JETMAE_START"),
        job_id=job_id(),
        restart_count=restart_count(),
        world_size=world.size,
        hosts=world.gather(socket.gethostname()),
    )

    def begin() -> StartLine:
        end_silent_attempt(folder)
        return start_attempt(folder, replace(place, warnings=said_warnings(place.job_id)))

    start = world.together(begin if world.is_main else lambda: place)
    attempt = OpenAttempt(number=start.attempt)

    def end(message: str | None) -> None:
        if world.is_main:
            end_attempt(folder, start, cause=attempt.cause, message=message, resumed_step=attempt.resumed_step,
                        cpu_s=attempt.cpu_s)  # fmt: skip

    try:
        yield attempt
    except BaseException as error:
        heartbeat()  # a peer that hung has just been ended: what follows must not be taken for the hang
        attempt.cause = "cancelled" if isinstance(error, KeyboardInterrupt) else "crashed"
        with suppress(JetmaeError):  # a full disk must not hide why this attempt ends
            end(f"{type(error).__name__}: {error}")
        raise
    attempt.cpu_s = sum(world.gather(time.process_time()))
    world.together(lambda: end(None))


def said_warnings(job: str | None) -> list[str] | None:
    """What breaks a job's promises, as its log says it too."""
    if job is None:
        return None
    warnings = broken_terms(job)
    for warning in warnings:
        print(f"warning: {warning}", flush=True)
    return warnings


def start_attempt(folder: RunFolder, place: StartLine) -> StartLine:
    """Append the line of a start, and return it. `place` says where the ranks run; the rest is filled in here.

    Raises:
        JetmaeError: it cannot be written.
    """
    attempt = 1 + sum(isinstance(line, StartLine) for line in read_attempts(folder.attempts))
    line = replace(place, attempt=attempt, committed_step=folder.last_commit(), time_s=time.time())
    append_line(folder.attempts, line.to_json())
    return line


def end_attempt(
    folder: RunFolder,
    start: StartLine,
    *,
    cause: str,
    message: str | None,
    resumed_step: int | None = None,
    cpu_s: float | None = None,
) -> None:
    """Append the line of the end of a start; what was committed is read from the checkpoints.

    Raises:
        JetmaeError: it cannot be written.
    """
    line = EndLine(
        attempt=start.attempt,
        start_token=start.start_token,
        job_id=start.job_id,
        restart_count=start.restart_count,
        world_size=start.world_size,
        hosts=start.hosts,
        cause=cause,
        message=message,
        resumed_step=start.committed_step if resumed_step is None else resumed_step,
        last_committed_step=folder.last_commit(),
        time_s=time.time(),
        cpu_s=cpu_s,
    )
    append_line(folder.attempts, line.to_json())


def cause_of_this_stop(request: StopRequest) -> str:
    """Why this job was asked to stop, as far as Slurm tells."""
    job = job_id()
    if job is None:
        return "cancelled" if request.signal_name == "SIGINT" else "preempted"
    return cause_of_stop(job_facts(job), restarts=restart_count())


# -- when the ranks are gone -------------------------------------------------------------------------------------------


def end_silent_attempt(folder: RunFolder) -> None:
    """Complete the attempt before this one: if it lost its node, nobody was left to write its end, or why it ended."""
    lines = read_attempts(folder.attempts)
    last = lines[-1] if lines else None
    if isinstance(last, StartLine):
        report = read_report(folder.logs, CAUSE, last.start_token or "unknown")
        message = SILENT_END + (f"; {report}" if report else "")
        end_attempt(folder, last, cause=_cause_by_slurm(last), message=message)
    elif last and last.cause == "crashed" and _cause_by_slurm(last) == "node_failure":
        # It looked like a crash to the ranks that were left.
        amend_last_attempt(folder.attempts, cause="node_failure", message=last.message)


def _cause_by_slurm(line: AttemptLine) -> str:
    return cause_of_earlier_start(line.job_id, line.restart_count) if line.job_id else "crashed"


def said_cause(folder: RunFolder, known: StartLine) -> str | None:
    """The cause that the ranks of a start wrote down themselves, if they did.

    `known` is what is known of the start: its token, or else its job and restart count.
    """
    last = _last_line_of(folder, known)
    return last.cause if isinstance(last, EndLine) else None


def complete_record(folder: RunFolder, known: StartLine, *, start: str, code: int, cause: str) -> str | None:
    """Write what the ranks of a start that is over could not, and the cause and the message that became known later.

    `known` is what is known of the start: its token, or else its job and restart count. `start` is its token, which may
    hold wildcards, and `code` the exit code of its ranks. Returns the message, None of a normal
    end.

    Raises:
        JetmaeError: it cannot be written.
    """
    last = _last_line_of(folder, known)
    if isinstance(last, EndLine):
        is_normal = cause == "completed" or (code == EXIT_STOPPED and cause != "crashed")
        message = last.message if is_normal else message_of(folder, start, code, said=last.message)
        if last == read_attempts(folder.attempts)[-1]:  # or else the next attempt has begun in the meantime
            amend_last_attempt(folder.attempts, cause=cause, message=message)
        return message
    message = None if code == 0 else message_of(folder, start, code, said=None)
    end_attempt(folder, last or start_attempt(folder, known), cause=cause, message=message)
    return message


def _last_line_of(folder: RunFolder, known: StartLine) -> AttemptLine | None:
    def is_known(line: AttemptLine) -> bool:
        if known.start_token:
            return line.start_token == known.start_token
        return (line.job_id, line.restart_count) == (known.job_id, known.restart_count)

    return next(filter(is_known, reversed(read_attempts(folder.attempts))), None)


def message_of(folder: RunFolder, start: str, code: int, *, said: str | None) -> str:
    """Why a start ended: what the rank to blame reported, or else what rank 0 `said` in its end line."""
    unknown = f"the ranks ended with exit code {code} before they could say why; look into {folder.logs}"
    cause = read_report(folder.logs, CAUSE, start) if code in AGREED and said else await_cause(folder.logs, start)
    message = cause or said or read_report(folder.logs, FOLLOWED, start) or unknown
    if code == 128 + signal.SIGBUS or "Bus error" in message:
        message = "; ".join([message, *changed_shards_of(folder)[:3]])
    return message


def changed_shards_of(folder: RunFolder) -> list[str]:
    """What to say of a bus error: a memory-mapped file was cut short under its reader.

    Nothing where the batch shell lacks a package: the requeue that follows must not depend on it.
    """
    try:
        import yaml

        from jetmae.data.integrity import changed_shards
    except ImportError:
        return []
    return changed_shards(Path(yaml.safe_load(folder.config.read_text(encoding="utf-8"))["data"]["path"]))
