"""What a run is doing, from its folder and from Slurm."""

import socket
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jetmae.records.attempts import AttemptLine, EndLine, StartLine, parse_attempts
from jetmae.records.json_lines import readable_lines
from jetmae.records.launch import LaunchRecord, readable_launch
from jetmae.records.metrics import TrainLine, parse_train_lines
from jetmae.records.timeline import parse_timeline
from jetmae.run_folder import RunFolder
from jetmae.runtime.lease import is_trained_here
from jetmae.slurm.job import cause_of_last_end
from jetmae.slurm.queue import QueuedJob, queue_of, starts_of
from jetmae.watch.ledger import Ledger, make_ledger

TAIL_BYTES = 64 * 1024
RECENT_LINES = 50  # of one attempt, for the present speed
ENDED = ("complete", "crashed", "stopped", "cancelled")
COMES_BACK = ("preempted", "node_failure", "time_limit")  # causes after which a job waits to be started again

Queue = dict[str, QueuedJob] | None  # None: Slurm does not answer


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """`state` is for people: what the run is doing, and in some states why."""

    run: RunFolder
    state: str
    job_id: str | None
    queued_job: QueuedJob | None
    hosts: tuple[str, ...]
    starts: int
    step: int
    total_steps: int | None
    loss: float | None
    jets_per_s: float | None
    eta_s: float | None

    @property
    def has_ended(self) -> bool:
        """Nothing will happen in this run any more unless somebody starts it again."""
        return self.state.split(" ")[0] in ENDED


def queue_for(runs: Iterable[RunFolder]) -> Queue:
    """All queued jobs of the owners of these runs. If all runs are local, Slurm is not asked and the queue is empty."""
    owners = {run.root.stat().st_uid for run in runs if job_of(_attempt_lines(run), readable_launch(run.launch))}
    return queue_of(owners) if owners else {}


def status_of(run: RunFolder, queue: Queue, *, total_steps: int | None = None) -> RunStatus:
    """What a run is doing. `total_steps` is the length by today's plan, used if launch.json does not tell it."""
    lines, launch = _attempt_lines(run), readable_launch(run.launch)
    steps = parse_train_lines(readable_lines(run.metrics, last_bytes=TAIL_BYTES))
    job = job_now(lines, launch, queue)
    starts = [line for line in lines if isinstance(line, StartLine)]
    state = state_of(run, lines, job, queue, jobs=launch.jobs)
    total_steps = launch.total_steps or total_steps
    recent = [line for line in steps if line.attempt == steps[-1].attempt][-RECENT_LINES:]
    runs_now = state == "running" and bool(recent) and bool(starts) and recent[-1].time_s >= (starts[-1].time_s or 0)
    return RunStatus(
        run=run,
        state=state,
        job_id=job,
        queued_job=(queue or {}).get(job or ""),
        hosts=tuple(dict.fromkeys(starts[-1].hosts or ())) if starts else (),
        starts=len(starts),
        step=_step(run, steps),
        total_steps=total_steps,
        loss=steps[-1].loss if steps else None,
        jets_per_s=statistics.median(line.jets_per_s or 0.0 for line in recent) if recent else None,
        eta_s=_eta_s(recent, total_steps) if runs_now else None,
    )


def ledger_of(status: RunStatus) -> Ledger | None:
    """The times of a run that has started at least once."""
    run = status.run
    lines = _attempt_lines(run)
    jobs = {line.job_id for line in lines if line.job_id}
    ledger = make_ledger(
        lines,
        parse_train_lines(readable_lines(run.metrics)),
        parse_timeline(readable_lines(run.timeline)),
        launches_s=_launches_s(readable_launch(run.launch)),
        now_s=time.time() if status.state == "running" else None,
        newest_commit=run.last_commit(),
        job_starts={job: starts for job in jobs if (starts := starts_of(job)) is not None},
    )
    return ledger if ledger.attempts else None


def job_of(lines: list[AttemptLine], launch: LaunchRecord) -> str | None:
    """The Slurm job that has this run or had it last; None for a run of local processes, or one that never started."""
    if not lines:
        return launch.job_id
    launched_after_last = (launch.started_at_s or 0.0) >= (lines[-1].time_s or 0.0)
    return launch.job_id if launch.job_id and launched_after_last else lines[-1].job_id or None


def job_now(lines: list[AttemptLine], launch: LaunchRecord, queue: Queue) -> str | None:
    """As `job_of`; of several jobs that were submitted together, the first that is still queued or running."""
    job = job_of(lines, launch)
    return next((other for other in launch.jobs if other in (queue or {})), job) if job in launch.jobs else job


def state_of(
    run: RunFolder, lines: list[AttemptLine], job: str | None, queue: Queue, *, jobs: Sequence[str] = ()
) -> str:
    """What a run is doing; `jobs` were submitted together with its job. It is one of these.

    complete, queued, starting, running, ending, `CAUSE, waiting`, crashed, cancelled, `stopped (CAUSE)`, unknown,
    not started
    """
    if run.completed.exists():
        return "complete"
    last = lines[-1] if lines else None
    if job is None:
        return _state_of_local_run(run, last)
    if queue is None:
        return "unknown"
    of_this_job = last if last and last.job_id in (job, *jobs) else None
    if job in queue:
        return _state_of_queued_run(queue[job], of_this_job)
    return _state_without_job(job, of_this_job)


def _state_of_queued_run(queued: QueuedJob, last: AttemptLine | None) -> str:
    if queued.waits:
        return f"{_readable(last.cause)}, waiting" if isinstance(last, EndLine) and last.cause else "queued"
    if queued.state == "COMPLETING":
        return "ending"
    return "running" if isinstance(last, StartLine) else "starting"


def _state_without_job(job: str, last: AttemptLine | None) -> str:
    """Of a run whose job has left the queue; `last` is what the job has written last."""
    if isinstance(last, EndLine) and last.cause not in COMES_BACK:
        return _ended(last)
    cause = cause_of_last_end(job)
    if last is None:
        if cause == "crashed":
            return "crashed (before its first record)"
        if cause is None:
            return "cancelled or lost before it began"
        return "cancelled (before it began)" if cause == "cancelled" else f"stopped ({_readable(cause)})"
    if cause == "cancelled":
        return "cancelled" if isinstance(last, StartLine) else "cancelled (while it waited)"
    if isinstance(last, StartLine) and cause in COMES_BACK:
        return f"stopped ({_readable(cause)})"
    return _ended(last)


def _state_of_local_run(run: RunFolder, last: AttemptLine | None) -> str:
    if isinstance(last, StartLine) and socket.gethostname() not in (last.hosts or ()):
        return "unknown"  # its process is on another machine
    if is_trained_here(run.root):
        return "running"
    return _ended(last) if last else "not started"


def _ended(last: AttemptLine) -> str:
    if isinstance(last, StartLine):
        return "crashed (lost)"
    cause = last.cause or "crashed"
    return "crashed" if cause == "crashed" else f"stopped ({_readable(cause)})"


def _readable(cause: str) -> str:
    return cause.replace("_", " ")


def _attempt_lines(run: RunFolder) -> list[AttemptLine]:
    return parse_attempts(readable_lines(run.attempts))


def _step(run: RunFolder, lines: list[TrainLine]) -> int:
    finished = run.completed.read_text(encoding="utf-8").strip() if run.completed.exists() else ""
    if finished.isdigit():
        return int(finished)
    return lines[-1].step if lines else 0


def _eta_s(recent: list[TrainLine], total_steps: int | None) -> float | None:
    """Time until the last step at the recent pace, with its validations and saves."""
    steps = recent[-1].step - recent[0].step
    if total_steps is None or steps < 1:
        return None
    pace_s = (recent[-1].time_s - recent[0].time_s) / steps
    return max(0, total_steps - recent[-1].step) * pace_s


def _launches_s(launch: LaunchRecord) -> list[float]:
    """All times at which somebody started or submitted the run. Older versions recorded only the last one."""
    last_s = launch.started_at_s
    return launch.launches_s or ([] if last_s is None else [last_s])
