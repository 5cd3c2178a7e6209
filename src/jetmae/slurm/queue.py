"""What Slurm knows of jobs that wait, run, or have run. Standard library only.

None means that Slurm did not answer, whatever the reason. It never means that there is no such job.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from jetmae.slurm.command import EPOCH_TIMES, ask

WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "STOPPED"}


@dataclass(frozen=True)
class QueuedJob:
    """A line of squeue. `reason` is what a waiting job waits for, as Slurm calls it."""

    state: str
    reason: str
    submitted_at_s: float | None

    @property
    def waits(self) -> bool:
        return self.state in WAITING


@dataclass(frozen=True)
class JobStart:
    """A line of sacct: one for each time that a job was started, the last one perhaps still to come."""

    submitted_at_s: float
    started_at_s: float
    ended_at_s: float | None
    num_gpus: int


def queue_of(user_ids: Iterable[int]) -> dict[str, QueuedJob] | None:
    """All jobs of these users by id, array elements under their own: 7_2."""
    users = ",".join(str(user) for user in sorted(set(user_ids)))
    text = ask("squeue", "--noheader", "--array", "--format=%i|%T|%V|%r", f"--user={users}", times=EPOCH_TIMES)
    if text is None:
        return None
    rows = (line.split("|", 3) for line in text.splitlines())
    return {row[0]: QueuedJob(row[1], row[3], _seconds(row[2])) for row in rows if len(row) == 4}


def starts_of(job: str) -> list[JobStart] | None:
    """Every start of a job, oldest first; needs the site's accounting."""
    options = ("--parsable2", "--noheader", "--allocations", "--duplicates")
    text = ask("sacct", *options, "--format=Submit,Start,End,AllocTRES", f"--jobs={job}", times=EPOCH_TIMES)
    if text is None:
        return None
    starts = (_start(line.split("|")) for line in text.splitlines() if line.count("|") == 3)
    return sorted((start for start in starts if start), key=lambda start: start.started_at_s)


def _start(row: list[str]) -> JobStart | None:
    submitted, started, ended = map(_seconds, row[:3])
    if submitted is None or started is None:
        return None
    resources = dict(part.split("=", 1) for part in row[3].split(",") if "=" in part)
    num_gpus = resources.get("gres/gpu", "0")
    return JobStart(submitted, started, ended, int(num_gpus) if num_gpus.isdigit() else 0)


def _seconds(text: str) -> float | None:
    return float(text) if text.isdigit() and int(text) > 0 else None
