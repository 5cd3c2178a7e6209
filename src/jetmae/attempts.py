"""The two lines of an attempt in attempts.jsonl, as rank 0 writes them while the run lives.

What the ranks could not write is added by the batch shell (runtime/supervisor.py) or by the next attempt.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jetmae.run_folder import RunFolder, read_lines
from jetmae.runtime.preemption import StopRequest
from jetmae.runtime.scheduler import cause_of_earlier_start, cause_of_stop, job_facts, job_id, restart_count
from jetmae.runtime.world import World


@dataclass
class AttemptLines:
    """What the end line will say, as far as it is known."""

    number: int = 0
    resumed_step: int | None = None
    cause: str = "crashed"


@contextmanager
def attempt_lines(folder: RunFolder, world: World) -> Iterator[AttemptLines]:
    """Write the start line of this attempt, and when the context is left the end line. Rank 0 writes."""
    place = {"job_id": job_id(), "restart_count": restart_count(), "world_size": world.size}
    place["hosts"] = world.gather(socket.gethostname())
    if world.is_main:
        end_silent_attempt(folder)
    start = folder.start_attempt(**place) if world.is_main else {}
    lines, message = AttemptLines(number=start.get("attempt", 0)), None
    try:
        yield lines
    except BaseException as error:
        lines.cause = "cancelled" if isinstance(error, KeyboardInterrupt) else "crashed"
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        if world.is_main:
            folder.end_attempt(start, cause=lines.cause, message=message, resumed_step=lines.resumed_step)


def cause_of_this_stop(request: StopRequest) -> str:
    """Why this job was asked to stop, as far as Slurm tells."""
    job = job_id()
    if job is None:
        return "cancelled" if request.signal_name == "SIGINT" else "preempted"
    return cause_of_stop(job_facts(job), restarts=restart_count())


def end_silent_attempt(folder: RunFolder) -> None:
    """The attempt before this one may have lost its node, and with it everything that could have written its end."""
    last = (read_lines(folder.attempts) or [{}])[-1]
    silent, crashed = last.get("event") == "start", last.get("cause") == "crashed"
    if not silent and not crashed:
        return
    cause = cause_of_earlier_start(last["job_id"], last["restart_count"]) if last["job_id"] else "crashed"
    if silent:
        folder.end_attempt(last, cause=cause, message="ended without a word")
    elif cause == "node_failure":  # what looked like a crash to the ranks that were left
        folder.amend_last_attempt(cause=cause)
