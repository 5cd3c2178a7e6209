"""The two lines of an attempt in attempts.jsonl: as rank 0 writes them while the run lives, and as they are completed
when it is over.

What the ranks could not write is added by whoever started them, the batch shell (launch/supervisor.py) or the launcher,
or else by the next attempt. Their last words (runtime/liveness/) become the message. Standard library only.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jetmae.errors import EXIT_BAD_CONFIG, EXIT_BAD_DATA, EXIT_STOPPED, JetmaeError
from jetmae.run_folder import WITHOUT_A_WORD, RunFolder, read_lines
from jetmae.runtime.liveness.rank_report import CAUSE, FOLLOWED, await_cause, read_report
from jetmae.runtime.preemption import StopRequest
from jetmae.slurm.job import cause_of_earlier_start, cause_of_stop, job_facts, job_id, restart_count

if TYPE_CHECKING:
    from jetmae.runtime.world import World

AGREED = (0, EXIT_BAD_CONFIG, EXIT_BAD_DATA, EXIT_STOPPED)  # exit codes of ranks that knew why


@dataclass
class AttemptLines:
    """What the end line will say, as far as it is known."""

    number: int = 0
    resumed_step: int | None = None
    cause: str = "crashed"


@contextmanager
def attempt_lines(folder: RunFolder, world: "World") -> Iterator[AttemptLines]:
    """Write the start line of this attempt, and when the context is left the end line. Rank 0 writes."""
    place = {"start_token": os.environ.get("JETMAE_START"), "job_id": job_id(), "restart_count": restart_count(),
             "world_size": world.size}  # fmt: skip
    place["hosts"] = world.gather(socket.gethostname())

    def begin() -> dict:
        end_silent_attempt(folder)
        return folder.start_attempt(**place)

    start = world.together(begin if world.is_main else dict)
    lines = AttemptLines(number=start.get("attempt", 0))

    def end(message: str | None) -> None:
        if world.is_main:
            folder.end_attempt(start, cause=lines.cause, message=message, resumed_step=lines.resumed_step)

    try:
        yield lines
    except BaseException as error:
        lines.cause = "cancelled" if isinstance(error, KeyboardInterrupt) else "crashed"
        with suppress(JetmaeError):  # a full disk must not hide why this attempt ends
            end(f"{type(error).__name__}: {error}")
        raise
    world.together(lambda: end(None))


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
        words = read_report(folder.logs, CAUSE, last.get("start_token") or "unknown")
        folder.end_attempt(last, cause=cause, message=WITHOUT_A_WORD + (f"; {words}" if words else ""))
    elif cause == "node_failure":  # what looked like a crash to the ranks that were left
        folder.amend_last_attempt(cause=cause)


def said_cause(folder: RunFolder, place: dict) -> str | None:
    """The cause that the ranks of a start wrote down themselves; `place` are values by which its lines are known."""
    own = _lines_of(folder, place)
    return own[-1]["cause"] if own and own[-1]["event"] == "end" else None


def complete_record(folder: RunFolder, place: dict, *, start: str, code: int, cause: str) -> str:
    """Write what the ranks of a start that is over could not, and the cause and the message that became known later.

    `start` is its token, which may hold wildcards, and `code` the exit code of its ranks. Returns the message.
    """
    own = _lines_of(folder, place)
    if own and own[-1]["event"] == "end":
        message = message_of(folder, start, code, said=own[-1]["message"])
        if own[-1] == read_lines(folder.attempts)[-1]:  # or else the next attempt has begun already
            folder.amend_last_attempt(cause=cause, message=message)
        return message
    message = message_of(folder, start, code, said=None)
    unknown = dict.fromkeys(("start_token", "job_id", "world_size", "hosts")) | {"restart_count": 0}
    begun = own[-1] if own else folder.start_attempt(**unknown | place)
    folder.end_attempt(begun, cause=cause, message=message)
    return message


def message_of(folder: RunFolder, start: str, code: int, *, said: str | None) -> str:
    """Why a start ended: the words of the rank to blame, or else what its peers `said`."""
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
    return changed_shards(Path(yaml.safe_load(folder.config.read_text())["data"]["path"]))


def _lines_of(folder: RunFolder, place: dict) -> list[dict]:
    lines = read_lines(folder.attempts)
    return [line for line in lines if all(line.get(name) == value for name, value in place.items())]
