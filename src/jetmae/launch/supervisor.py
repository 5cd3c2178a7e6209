"""After all ranks have ended: what happened, and does the job come back?

    python -m jetmae.launch.supervisor RUN_DIR... EXIT_CODE

runs in the batch shell of a Slurm job, after srun. Each element of an array handles the run of its own index. It
completes attempts.jsonl if the ranks died too fast to do so, and requeues the job within its budget. Preemptions cost
nothing. After a time limit or a crash the job comes back as long as its steps advance: three starts in a row without a
new committed step are the end.

Standard library only: it has to work in the seconds before a node is taken away.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from jetmae.attempts import complete_record, said_cause
from jetmae.errors import EXIT_BAD_CONFIG, EXIT_BAD_DATA, EXIT_BUSY, EXIT_STOPPED, JetmaeError, exit_with_one_line
from jetmae.launch import successors
from jetmae.launch.budget import FREE, STARTS_WITHOUT_PROGRESS, starts_without_progress
from jetmae.records.attempts import AttemptLine, EndLine, StartLine, amend_last_attempt, read_attempts
from jetmae.run_folder import RunFolder
from jetmae.slurm.command import answer_of
from jetmae.slurm.job import (
    cause_of_stop,
    is_taken_away,
    job_facts,
    job_id,
    lost_a_node,
    restart_count,
)

T = TypeVar("T")
REQUEUE_TRIES = 10
RETRY_S = 6.0  # a controller that is being restarted is back in less than a minute


@dataclass(frozen=True)
class Ending:
    """One start that is over: the exit code of srun, Slurm's facts of the job, and its restart count."""

    code: int
    facts: dict[str, str]
    restarts: int = 0

    @property
    def job_is_running(self) -> bool:
        """Whether Slurm regards the job as running, and not as cancelled or on its way back into the queue."""
        return self.facts.get("JobState", "RUNNING") == "RUNNING"


def main() -> int:
    *run_dirs, code = sys.argv[1:]
    os.environ.pop("JETMAE_START", None)  # of a rank; if there is one here, it came from where the job was submitted
    element = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")) if len(run_dirs) > 1 else 0
    return supervise(RunFolder(Path(run_dirs[element])), int(code))


def supervise(folder: RunFolder, code: int) -> int:
    """Find out why a start has ended, complete its record, and requeue the job if it is to come back."""
    job = job_id() or ""
    ending = Ending(code, job_facts(job), restart_count())
    start = StartLine(job_id=job, restart_count=ending.restarts)  # as far as it is known here
    cause = cause_of(ending, said=read_or(None, lambda: said_cause(folder, start)))
    if cause == "crashed" and job and lost_a_node():
        cause = "node_failure"
    if code != EXIT_BUSY:  # then the record belongs to the start that has the folder
        write_down(folder, start, ending, cause)
    lines: list[AttemptLine] = read_or([], lambda: read_attempts(folder.attempts))
    again, reason = comes_back(ending, cause, lines, unrecorded=unrecorded_starts(lines, start))
    print(f"jetmae: exit code {code}, {cause}: {reason}", flush=True)
    if successors.are_used():
        taken = not ending.job_is_running and cause not in ("cancelled", "completed")
        hand_over(folder, start, again=again or taken)
    elif again and job and (refusal := requeue_job(job)):
        say_not_requeued(folder, start, refusal)
    return 0 if cause == "completed" else code


def read_or(otherwise: T, read: Callable[[], T]) -> T:
    """What the records say, or `otherwise` if the storage fails: the job comes back all the same."""
    try:
        return read()
    except OSError as error:
        print(f"jetmae: the records cannot be read: {error}", flush=True)
        return otherwise


def write_down(folder: RunFolder, start: StartLine, ending: Ending, cause: str) -> None:
    """Complete the record of this start. If it cannot be written, the job comes back all the same."""
    try:
        complete_record(folder, start, start=token_of(start), code=ending.code, cause=cause)
    except (JetmaeError, OSError) as error:
        print(f"jetmae: {folder.attempts} is not complete: {error}", flush=True)


def requeue_job(job: str) -> str | None:
    """Ask Slurm to requeue the job; when it does, it ends this process. Returns why it does not.

    A controller that does not answer is asked again for about a minute. One that refuses is not.
    """
    for _ in range(REQUEUE_TRIES):
        answer = answer_of("scontrol", "requeue", job)
        if answer.code == 0:
            return None
        if answer.is_refusal:
            return answer.reason
        time.sleep(RETRY_S)
    return f"Slurm does not answer ({answer.reason})"


def say_not_requeued(folder: RunFolder, start: StartLine, reason: str) -> None:
    """In the log and in the record of this start, whose cause stays."""
    print(f"jetmae: NOT requeued: {reason}; give the launch command again, with --no-requeue where the site forbids"
          " requeues", flush=True)  # fmt: skip
    try:
        last = read_attempts(folder.attempts)[-1]
        if isinstance(last, EndLine) and (last.job_id, last.restart_count) == (start.job_id, start.restart_count):
            message = "; ".join(filter(None, [last.message, f"not requeued: {reason}"]))
            amend_last_attempt(folder.attempts, cause=last.cause or "crashed", message=message)
    except (JetmaeError, OSError, IndexError) as error:
        print(f"jetmae: {folder.attempts} does not say so: {error}", flush=True)


def hand_over(folder: RunFolder, start: StartLine, *, again: bool) -> None:
    """To the next of the starts that were submitted together; if none is to come, they are cancelled."""
    if not again:
        successors.cancel_later_starts()
    elif later := successors.later_starts():
        print(f"jetmae: goes on in the next of {later}", flush=True)
    else:
        say_not_requeued(folder, start, "this was the last start that was submitted")


def token_of(start: StartLine) -> str:
    """The token of this start as its ranks have made it (launch/train_job.py), with a wildcard for their step."""
    return f"{os.environ.get('SLURM_JOB_ID', start.job_id)}.{start.restart_count}.*"


def cause_of(ending: Ending, *, said: str | None) -> str:
    """Why a start ended; `said` is the cause that its ranks wrote down, if they could."""
    if ending.code == 0 or said == "completed":  # a rank may still fail on its way out
        return "completed"
    asked_to_stop = ending.code == EXIT_STOPPED or (said is None and died_of_a_stop_signal(ending))
    if asked_to_stop or not ending.job_is_running:
        return said or cause_of_stop(ending.facts, restarts=ending.restarts)
    return said or "crashed"


def died_of_a_stop_signal(ending: Ending) -> bool:
    """Whether the ranks were asked to stop before our handlers were in place.

    SIGTERM is no proof: srun sends it to the peers of a rank that has died.
    """
    if ending.code == 128 + signal.SIGTERM:
        return is_taken_away(ending.facts, restarts=ending.restarts)
    return ending.code == 128 + signal.SIGUSR2


def comes_back(ending: Ending, cause: str, lines: list[AttemptLine], *, unrecorded: int = 0) -> tuple[bool, str]:
    """Whether to requeue the job, and the reason for a person to read.

    `lines` are those of attempts.jsonl, with the end of this start; `unrecorded` starts of the job have no end line.
    """
    if cause == "completed":
        return False, "the run is complete"
    if not ending.job_is_running:
        return False, f"the job is {ending.facts.get('JobState')}: Slurm decides whether it comes back"
    if ending.code in (EXIT_BAD_CONFIG, EXIT_BAD_DATA):
        return False, "what is wrong needs a person; see the message in attempts.jsonl"
    if ending.code == EXIT_BUSY:
        return False, "another start trains in the run folder"
    if cause in FREE:
        return True, "requeued, at no cost to its budget"
    fruitless = starts_without_progress(lines) + unrecorded
    if fruitless >= STARTS_WITHOUT_PROGRESS:
        return False, f"{fruitless} starts in a row without a new committed step: not requeued"
    return True, f"requeued; {fruitless} start(s) in a row without a new committed step"


def unrecorded_starts(lines: list[AttemptLine], start: StartLine) -> int:
    """How many starts of the job have no end line; 0 if this start has one.

    If the storage takes no lines, these starts count as without progress. Otherwise the job would come back for ever.
    """
    ends = {line.restart_count for line in lines if isinstance(line, EndLine) and line.job_id == start.job_id}
    return 0 if start.restart_count in ends else start.restart_count + 1 - len(ends)


if __name__ == "__main__":
    exit_with_one_line(main)
