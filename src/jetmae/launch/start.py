"""Stages are started: one run after the other as processes of this machine, or all of them as Slurm jobs."""

import os
import secrets
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from jetmae.attempts import complete_record, said_cause
from jetmae.errors import (
    EXIT_BAD_CONFIG,
    EXIT_BAD_DATA,
    EXIT_BUSY,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    JetmaeError,
)
from jetmae.launch import submission
from jetmae.launch.freeze import write_launch_record
from jetmae.launch.layout import Layout
from jetmae.launch.local_processes import POLL_S, LocalRun, passing_on_signals
from jetmae.launch.resources import Resources, after
from jetmae.launch.run_code import check_code, code_environment
from jetmae.launch.stages import Member, Stage, check_member
from jetmae.plan import make_plan
from jetmae.records.attempts import StartLine
from jetmae.records.launch import read_launch, write_launch
from jetmae.run_folder import RunFolder
from jetmae.slurm import queue
from jetmae.slurm.job import job_facts


def record_start(member: Member, layout: Layout, *, job_id: str | None = None) -> None:
    """Write launch.json."""
    ranks = layout.num_ranks(member.experiment)
    place = {} if job_id is None else {"job_id": job_id}
    write_launch_record(member.run, ranks=ranks, total_steps=make_plan(member.experiment, ranks).total_steps, **place)


def report_command(stages: list[Stage], folder: Path) -> list[str]:
    """`jetmae runs report` for all runs of a chain, into report/ of its folder.

    At the end of a chain it is run with the code of the chain: it reads what that has written, hours after somebody
    typed the command, when the live code may be half edited. Who wants the live one's report types the command.
    """
    runs = [str(member.run.root) for stage in stages for member in stage.members]
    place = ["--out", str(folder / "report"), "--title", folder.name]
    return [sys.executable, "-m", "jetmae", "runs", "report", *place, *runs]


def first_run(stages: list[Stage]) -> RunFolder:
    """The run whose code the report of a chain is made with: all of them have the same."""
    return stages[0].members[0].run


def chain_folder(stages: list[Stage]) -> Path:
    """The folder that holds the runs of a chain."""
    return first_run(stages).root.parent


# -- on this machine ---------------------------------------------------------------------------------------------------


def train_here(stages: list[Stage], layout: Layout, *, report: bool, at_once: int = 1) -> int:
    """One run after the other, or `at_once` runs of a stage side by side; at the end the report, for a chain.

    Ends with the first run that does not complete, after those beside it have ended.
    """
    for stage in stages:
        for member in stage.members:
            if member.run.completed.exists():
                print(f"{member.run.root} is complete; another --name starts anew")
        missing = [member for member in stage.members if not member.run.completed.exists()]
        if code := _train_stage(missing, layout, at_once):
            return code
    return make_report(stages, chain_folder(stages)) if report else 0


def make_report(stages: list[Stage], folder: Path) -> int:
    """The report of all runs of the stages, on this machine, into report/ of a folder."""
    environment = code_environment(first_run(stages), os.environ)
    return subprocess.run(report_command(stages, folder), env=environment, check=False).returncode


def _train_stage(members: list[Member], layout: Layout, at_once: int) -> int:
    """Exit code of the first run that did not complete, or 0."""
    for member in members:
        check_member(member, layout)
        check_code(member.run)
    waiting, codes = list(members), [0]
    started: dict[LocalRun, tuple[Member, str]] = {}
    running: list[LocalRun] = []
    with passing_on_signals(running) as received:
        while running or (waiting and not any(codes) and not received):
            while waiting and len(running) < at_once and not any(codes) and not received:
                member, start = waiting.pop(0), secrets.token_hex(8)
                run = _start_here(member, layout, start, at_once)
                started[run] = member, start
                running.append(run)
            time.sleep(POLL_S)
            for run in [run for run in running if run.has_ended()]:
                running.remove(run)
                codes.append(_end_of(run, *started[run]))
    return next(filter(None, codes), EXIT_STOPPED if waiting else 0)


def _start_here(member: Member, layout: Layout, start: str, at_once: int) -> LocalRun:
    record_start(member, layout)
    if at_once > 1:
        print(f"{member.run.root.name}: started, output in {member.run.logs / 'rank-0.log'}", flush=True)
    ranks = layout.num_ranks(member.experiment)
    return LocalRun(member.run.root, ranks=ranks, logs=member.run.logs, start=start, at_once=at_once)


def _end_of(run: LocalRun, member: Member, start: str) -> int:
    """The exit code of a run that has ended, after its record is complete."""
    return report_end(member.run, start, run.exit_code) if run.exit_code else 0


def report_end(run: RunFolder, start: str, code: int) -> int:
    """Complete the record of a start that did not complete the run, and say what to do."""
    if code == EXIT_BUSY:  # the record belongs to the start that has the folder
        return code
    known = StartLine(start_token=start)
    message = complete_record(run, known, start=start, code=code, cause=said_cause(run, known) or "crashed")
    if code == EXIT_STOPPED:
        print(f"stopped, everything is saved in {run.root}; the same command again goes on")
    elif code not in (EXIT_BAD_CONFIG, EXIT_BAD_DATA, EXIT_INTERRUPTED):  # of these the ranks have told
        print(f"crashed: {message}; the same command again goes on from the last checkpoint", file=sys.stderr)
    return code


# -- on Slurm ----------------------------------------------------------------------------------------------------------


def submit(stages: list[Stage], layout: Layout, resources: Resources, *, report: bool) -> None:
    """Submit every run that is not complete, each stage after the one it needs; at the end the report, for a chain.

    Raises:
        JetmaeError: sbatch refused, or all that is left of a command for one stage has a job.
    """
    if not report:
        refuse_all_alive(stages)
    everything = submit_stages(stages, layout, resources)
    if report:
        folder, waits, code_of = chain_folder(stages), after(resources, everything), first_run(stages).root
        job = submission.submit_command(report_command(stages, folder), folder, waits, code_of=code_of)
        print(f"job {job} writes {folder / 'report' / 'report.html'}")


def submit_stages(stages: list[Stage], layout: Layout, resources: Resources) -> list[str]:
    """Submit every run that is not complete, each stage after the one it needs; the jobs of all, old and new.

    Raises:
        JetmaeError: sbatch refused.
    """
    jobs: dict[str, list[str]] = {}
    for stage in stages:
        needed = jobs.get(stage.after, []) if stage.after else []
        jobs[stage.name] = _submit_stage(stage, layout, after(resources, needed))
    return [job for stage in stages for job in jobs[stage.name]]


def _submit_stage(stage: Stage, layout: Layout, resources: Resources) -> list[str]:
    """Submit the runs that are neither complete nor have a job; the jobs that a later stage waits for, old and new."""
    alive, missing = [], []
    for member in stage.members:
        if member.run.completed.exists():
            print(f"{member.run.root.name}: complete")
        elif job := live_job(member.run):
            print(f"{member.run.root.name}: has job {job}")
            alive.append(job)
        else:
            missing.append(member)
    return [*alive, *(_submit_members(missing, layout, resources) if missing else [])]


def _submit_members(members: list[Member], layout: Layout, resources: Resources) -> list[str]:
    """Submit runs, several of them as one array, and return the job of each."""
    roots = [member.run.root for member in members]
    if resources.no_requeue:
        starts = [submission.submit_starts(root, resources, name=root.name) for root in roots]
    else:
        starts = [[job] for job in submission.submit(roots, resources, name=roots[0].name)]
    for member, jobs in zip(members, starts, strict=True):
        record_start(member, layout, job_id=jobs[0])
        record_successors(member.run, jobs[1:])
        more = f", and {len(jobs) - 1} more to go on if it stops" if len(jobs) > 1 else ""
        print(f"job {jobs[0]} submitted{more}; run folder {member.run.root}")
    if not resources.no_requeue:
        warn_of_no_requeue(starts[0][0])
    return [job for jobs in starts for job in jobs]


def record_successors(run: RunFolder, jobs: list[str]) -> None:
    """Add to launch.json the jobs of later starts."""
    if jobs:
        write_launch(run.launch, replace(read_launch(run.launch), successor_ids=jobs))


def warn_of_no_requeue(job: str) -> None:
    """A site may take --requeue away from every job; Slurm then shows it."""
    if job_facts(job).get("Requeue") == "0":
        print(f"warning: the site has made job {job} one that is not requeued: it does not come back by itself after a"
              " stop; cancel it, and give the command with --no-requeue")  # fmt: skip


def refuse_all_alive(stages: list[Stage]) -> None:
    """A command that could submit nothing says why.

    Raises:
        JetmaeError: every run that is not complete has a job.
    """
    left = [member.run for stage in stages for member in stage.members if not member.run.completed.exists()]
    jobs = {str(run.root): live_job(run) for run in left}
    if jobs and all(jobs.values()):
        found = ", ".join(f"run {root} has job {job}" for root, job in jobs.items())
        raise JetmaeError(f"{found}, queued or running: scancel {' '.join(filter(None, jobs.values()))}, or wait")


def refuse_queued(stages: list[Stage], option: str) -> None:
    """The code of a run is not changed under a job that will run it.

    Raises:
        JetmaeError: a run has a job that is queued or running.
    """
    for run in (member.run for stage in stages for member in stage.members):
        if not run.completed.exists() and (job := live_job(run)):
            raise JetmaeError(
                f"{run.root} has job {job}, queued or running, which needs its code as it is: scancel {job}, then"
                f" launch again with {option}"
            )


def live_job(run: RunFolder) -> str | None:
    """The job that was submitted last for this run, if it is still queued or running.

    Raises:
        JetmaeError: Slurm does not answer, so that a second job in the same folder cannot be ruled out.
    """
    launch = read_launch(run.launch)
    job = launch.job_id
    if job is None:
        return None
    queued = queue.queue_of([os.getuid()])
    if queued is None:
        raise JetmaeError(f"Slurm does not answer whether job {job} of {run.root} is still alive: try again later")
    return next((job for job in launch.jobs if job in queued), None)
