"""What a run is doing, from its folder and from Slurm."""

import socket
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from jetmae.run_folder import RunFolder
from jetmae.runtime.lease import is_trained_here
from jetmae.slurm.queue import QueuedJob, queue_of, starts_of
from jetmae.watch.ledger import Ledger, make_ledger
from jetmae.watch.records import read_object, readable_lines

TAIL_BYTES = 64 * 1024
RECENT_LINES = 50  # of one attempt, for the present speed
ENDED = ("complete", "crashed", "stopped")

Queue = dict[str, QueuedJob] | None  # None: Slurm does not answer


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """`state` is for people: what it is, and where it matters why."""

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
    """Slurm's queue as far as it concerns these runs; empty, without asking, if all of them are local."""
    owners = {run.root.stat().st_uid for run in runs if job_of(run, readable_lines(run.attempts))}
    return queue_of(owners) if owners else {}


def status_of(run: RunFolder, queue: Queue, *, total_steps: int | None = None) -> RunStatus:
    """`total_steps` is what the plan says now; what was recorded when the run was started comes first."""
    events = readable_lines(run.attempts)
    lines = _train_lines(readable_lines(run.metrics, last_bytes=TAIL_BYTES))
    job = job_of(run, events)
    starts = [line for line in events if line.get("event") == "start"]
    last_start = starts[-1] if starts else {}
    state = state_of(run, events, job, queue)
    step = _step(run, lines)
    total_steps = last_start.get("total_steps") or read_object(run.launch).get("total_steps") or total_steps
    recent = [line for line in lines if line.get("attempt") == lines[-1].get("attempt")][-RECENT_LINES:]
    runs_now = state == "running" and bool(recent) and recent[-1]["time_s"] >= last_start.get("time_s", 0)
    return RunStatus(
        run=run,
        state=state,
        job_id=job,
        queued_job=(queue or {}).get(job or ""),
        hosts=tuple(dict.fromkeys(last_start.get("hosts") or ())),
        starts=len(starts),
        step=step,
        total_steps=total_steps,
        loss=lines[-1].get("loss") if lines else None,
        jets_per_s=statistics.median(line.get("jets_per_s", 0.0) for line in recent) if recent else None,
        eta_s=_eta_s(recent, total_steps) if runs_now else None,
    )


def ledger_of(status: RunStatus) -> Ledger | None:
    """The times of a run that has started at least once."""
    run = status.run
    events = readable_lines(run.attempts)
    jobs = {str(line["job_id"]) for line in events if line.get("job_id")}
    ledger = make_ledger(
        events,
        train_lines_of(run),
        readable_lines(run.timeline),
        launches_s=_launches_s(run),
        now_s=time.time() if status.state == "running" else None,
        newest_commit=_newest_commit(run),
        job_starts={job: starts for job in jobs if (starts := starts_of(job)) is not None},
    )
    return ledger if ledger.attempts else None


def train_lines_of(run: RunFolder) -> list[dict]:
    """Every line about a step of training, steps that were done twice in both versions."""
    return _train_lines(readable_lines(run.metrics))


def job_of(run: RunFolder, events: list[dict]) -> str | None:
    """The Slurm job that has this run or had it last; None for a run of local processes, or one that never started."""
    last = events[-1] if events else {}
    launch = read_object(run.launch)
    launched_after_last = (_launched_at_s(run) or 0.0) >= last.get("time_s", 0.0)
    chosen = launch if launched_after_last and ("job_id" in launch or not last) else last
    return str(chosen["job_id"]) if chosen.get("job_id") else None


def state_of(run: RunFolder, events: list[dict], job: str | None, queue: Queue) -> str:
    """What a run does, in a word or two.

    complete, queued, starting, running, ending, `CAUSE, waiting`, crashed, `stopped (CAUSE)`, unknown, not started
    """
    if run.completed.exists():
        return "complete"
    last = events[-1] if events else {}
    if job is None:
        return _state_of_local_run(run, last)
    if queue is None:
        return "unknown"
    of_this_job = str(last.get("job_id")) == job
    if job in queue:
        return _state_of_queued_run(queue[job], last if of_this_job else {})
    return _ended(last) if of_this_job else "crashed (before its first record)"


def _state_of_queued_run(queued: QueuedJob, last: dict) -> str:
    if queued.waits:
        return f"{_words(last['cause'])}, waiting" if last.get("cause") else "queued"
    if queued.state == "COMPLETING":
        return "ending"
    return "running" if last.get("event") == "start" else "starting"


def _state_of_local_run(run: RunFolder, last: dict) -> str:
    if not last:
        return "running" if is_trained_here(run.root) else "not started"
    if last.get("event") == "end":
        return "running" if is_trained_here(run.root) else _ended(last)
    if socket.gethostname() not in (last.get("hosts") or ()):
        return "unknown"
    return "running" if is_trained_here(run.root) else _ended(last)


def _ended(last: dict) -> str:
    if last.get("event") == "start":
        return "crashed (lost)"
    cause = str(last.get("cause") or "crashed")
    return "crashed" if cause == "crashed" else f"stopped ({_words(cause)})"


def _words(cause: str) -> str:
    return cause.replace("_", " ")


def _train_lines(lines: list[dict]) -> list[dict]:
    return [line for line in lines if line.get("split") == "train" and "step" in line and "time_s" in line]


def _step(run: RunFolder, lines: list[dict]) -> int:
    finished = run.completed.read_text().strip() if run.completed.exists() else ""
    if finished.isdigit():
        return int(finished)
    return lines[-1]["step"] if lines else 0


def _eta_s(recent: list[dict], total_steps: int | None) -> float | None:
    """From the recent pace, validations and saves included."""
    steps = recent[-1]["step"] - recent[0]["step"]
    if total_steps is None or steps < 1:
        return None
    pace_s = (recent[-1]["time_s"] - recent[0]["time_s"]) / steps
    return max(0, total_steps - recent[-1]["step"]) * pace_s


def _launches_s(run: RunFolder) -> list[float]:
    """Whenever somebody started or submitted the run, as far as launch.json knows."""
    last_s = _launched_at_s(run)
    return read_object(run.launch).get("launches_s") or ([] if last_s is None else [last_s])


def _launched_at_s(run: RunFolder) -> float | None:
    try:
        return datetime.strptime(read_object(run.launch).get("started_at", ""), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return None


def _newest_commit(run: RunFolder) -> int:
    return max((int(path.name.removeprefix("step-")) for path in run.checkpoints.glob("step-????????")), default=0)
