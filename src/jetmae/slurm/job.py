"""What Slurm knows of the job this process belongs to. Standard library only.

Every question has a time limit, and callers go on without an answer: a busy controller must not delay a checkpoint.
"""

import os
import re
import subprocess
from datetime import datetime

QUESTION_TIMEOUT_S = 10.0
EARLY_S = 90.0  # Slurm's warning comes up to 60 s earlier than it was asked for
SENTINELS = {"None", "N/A", "Unknown", "(null)"}


def job_id() -> str | None:
    """The id under which this job can be requeued alone; array elements have their own. None outside Slurm."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restart_count() -> int:
    """How often Slurm has restarted this job; Slurm leaves it unset at the first start."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


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
    text = ask("sacct", "-X", "--duplicates", "--noheader", "--parsable2", "--format=State", "--jobs", job) or ""
    states = text.split("\n")
    state = states[restarts].partition(" ")[0] if restarts < len(states) else ""
    causes = {"PREEMPTED": "preempted", "REQUEUED": "preempted", "NODE_FAIL": "node_failure", "TIMEOUT": "time_limit"}
    return {**causes, "CANCELLED": "cancelled"}.get(state, "crashed")


def lost_a_node() -> bool:
    """Whether a node of this job is down. Asked after a crash: a dead peer looks like a dead node to other ranks."""
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    states = (ask("sinfo", "--noheader", "--Node", "--format=%T", f"--nodes={nodes}") or "").split()
    return any(state.startswith(("down", "fail", "unknown")) or state.endswith("*") for state in states)


def ask(*command: str) -> str | None:
    """What a Slurm command prints, or None if it fails or does not answer in time."""
    try:
        environment = {**os.environ, "SLURM_TIME_FORMAT": "standard"}  # a user's own would not be ISO 8601
        finished = subprocess.run(command, capture_output=True, text=True, timeout=QUESTION_TIMEOUT_S, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return finished.stdout if finished.returncode == 0 else None


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
        left_s = (datetime.fromisoformat(end) - (now or datetime.now())).total_seconds()
        if left_s < float(os.environ.get("JETMAE_LEAD_TIME_S", "120")) + EARLY_S:
            return "time_limit"
    return "preempted"
