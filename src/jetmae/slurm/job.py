"""What Slurm knows of the job this process belongs to. Standard library only."""

import os
import re
from datetime import datetime

from jetmae.slurm.command import ask

DEFAULT_LEAD_TIME_S = 120.0
EARLY_S = 90.0  # Slurm's warning comes up to 60 s earlier than it was asked for
CAUSES = {  # of the end of a start, by Slurm's state
    "CANCELLED": "cancelled",
    "NODE_FAIL": "node_failure",
    "PREEMPTED": "preempted",
    "REQUEUED": "preempted",
    "TIMEOUT": "time_limit",
}
NOT_ENDED = {"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING"}
SENTINELS = {"None", "N/A", "Unknown", "(null)"}


def is_visitor() -> bool:
    """Whether somebody has started this process by hand inside an allocation: the shell of salloc goes on after it.

    The start token of a rank that belongs to a job is made from the job's id (launch/train_job.py).
    """
    job, token = os.environ.get("SLURM_JOB_ID"), os.environ.get("JETMAE_START")
    return token is not None and not token.startswith(f"{job}.")


def job_id() -> str | None:
    """The id under which this job can be requeued alone; array elements have their own. None outside Slurm."""
    if is_visitor():
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restart_count() -> int:
    """How often Slurm has restarted this job; Slurm leaves it unset at the first start."""
    return 0 if is_visitor() else int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def lead_time_s() -> float:
    """How long before its time limit the job is warned, as whoever submitted it has said."""
    try:
        return float(os.environ["JETMAE_LEAD_TIME_S"])
    except (KeyError, ValueError):
        return DEFAULT_LEAD_TIME_S


def job_facts(job: str) -> dict[str, str]:
    """`scontrol show job` as a mapping; empty if there is no answer."""
    text = ask("scontrol", "--oneliner", "show", "job", job)
    return dict(re.findall(r"(?:^|\s)([A-Za-z:/]+)=(\S+)", text or ""))


def is_taken_away(facts: dict[str, str], *, restarts: int) -> bool:
    """Whether Slurm is preempting or requeueing the job."""
    being_requeued = int(facts.get("Restarts", restarts)) > restarts
    return being_requeued or facts.get("PreemptTime", "None") not in SENTINELS


def cause_of_earlier_start(job: str, restarts: int) -> str:
    """How a start of this job ended, by Slurm's accounting; `crashed` if that does not know."""
    states = _states_of_starts(job)
    return CAUSES.get(states[restarts] if restarts < len(states) else "", "crashed")


def cause_of_last_end(job: str) -> str | None:
    """Why a job that is not in the queue any more has ended; None if Slurm has forgotten it or does not answer."""
    array = job.partition("_")[0]  # an element that never began may have no line of its own
    states = _states_of_starts(job) or _states_of_starts(array)
    state = job_facts(job).get("JobState") or (states[-1] if states else None)
    if state is None or state in NOT_ENDED:  # accounting learns of an end a little later
        return None
    return CAUSES.get(state, "crashed")


def _states_of_starts(job: str) -> list[str]:
    text = ask("sacct", "-X", "--duplicates", "--noheader", "--parsable2", "--format=State", "--jobs", job) or ""
    return [line.partition(" ")[0] for line in text.splitlines()]


def lost_a_node() -> bool:
    """Whether a node of this job is down. Asked after a crash: a dead peer looks like a dead node to other ranks."""
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    states = (ask("sinfo", "--noheader", "--Node", "--format=%T", f"--nodes={nodes}") or "").split()
    return any(state.startswith(("down", "fail", "unknown")) or state.endswith("*") for state in states)


def cause_of_stop(facts: dict[str, str], *, restarts: int, now: datetime | None = None) -> str:
    """Why a job was asked to stop: `cancelled`, `time_limit`, or else `preempted`.

    A job that an administrator requeues counts as preempted. `restarts` is the restart count that this start began
    with: Slurm raises it when it requeues.
    """
    if is_taken_away(facts, restarts=restarts):
        return "preempted"
    if facts.get("JobState", "RUNNING") in ("CANCELLED", "COMPLETING"):
        return "cancelled"
    end = facts.get("EndTime", "Unknown")
    if end not in SENTINELS:
        left_s = (datetime.fromisoformat(end).astimezone() - (now or datetime.now().astimezone())).total_seconds()
        if left_s < lead_time_s() + EARLY_S:
            return "time_limit"
    return "preempted"
