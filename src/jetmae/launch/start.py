"""Stages are started: one run after the other as processes of this machine, or all of them as Slurm jobs."""

import os
import secrets
import subprocess
import sys
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
from jetmae.launch.local_processes import run_ranks
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


def report_command(stages: list[Stage]) -> list[str]:
    """`jetmae runs report` for all runs of a chain.

    At the end of a chain it is run with the code of the chain: it reads what that has written, hours after somebody
    typed the command, when the live code may be half edited. Who wants the live one's report types the command.
    """
    runs = [str(member.run.root) for stage in stages for member in stage.members]
    return [sys.executable, "-m", "jetmae", "runs", "report", *runs]


def first_run(stages: list[Stage]) -> RunFolder:
    """The run whose code the report of a chain is made with: all of them have the same."""
    return stages[0].members[0].run


def chain_folder(stages: list[Stage]) -> Path:
    """The folder that holds the runs of a chain."""
    return first_run(stages).root.parent


# -- on this machine ---------------------------------------------------------------------------------------------------


def train_here(stages: list[Stage], layout: Layout, *, report: bool) -> int:
    """One run after the other; ends with the first that does not complete. At the end the report, for a chain."""
    for member in (member for stage in stages for member in stage.members):
        if member.run.completed.exists():
            print(f"{member.run.root} is complete; another --name starts anew")
            continue
        check_member(member, layout)
        check_code(member.run)
        record_start(member, layout)
        start = secrets.token_hex(8)
        ranks = layout.num_ranks(member.experiment)
        if code := run_ranks(member.run.root, ranks=ranks, logs=member.run.logs, start=start):
            return report_end(member.run, start, code)
    if not report:
        return 0
    environment = code_environment(first_run(stages), os.environ)
    return subprocess.run(report_command(stages), env=environment, check=False).returncode


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
    jobs: dict[str, list[str]] = {}
    for stage in stages:
        needed = jobs.get(stage.after, []) if stage.after else []
        jobs[stage.name], missing = _submit_stage(stage, layout, after(resources, needed))
        if jobs[stage.name] and not missing and not report:
            raise JetmaeError(_all_alive(stage, jobs[stage.name]))
    if report:
        everything = [job for stage in stages for job in jobs[stage.name]]
        waits, code_of = after(resources, everything), first_run(stages).root
        job = submission.submit_command(report_command(stages), chain_folder(stages), waits, code_of=code_of)
        print(f"job {job} writes {chain_folder(stages) / 'report' / 'report.html'}")


def _submit_stage(stage: Stage, layout: Layout, resources: Resources) -> tuple[list[str], list[Member]]:
    """Submit the runs that are neither complete nor have a job.

    Returns the jobs that a later stage waits for, old and new, and the runs that were submitted.
    """
    alive, missing = [], []
    for member in stage.members:
        if member.run.completed.exists():
            print(f"{member.run.root.name}: complete")
        elif job := live_job(member.run):
            print(f"{member.run.root.name}: has job {job}")
            alive.append(job)
        else:
            missing.append(member)
    return [*alive, *(_submit_members(missing, layout, resources) if missing else [])], missing


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


def _all_alive(stage: Stage, jobs: list[str]) -> str:
    roots = [member.run.root for member in stage.members if not member.run.completed.exists()]
    found = ", ".join(f"run {root} has job {job}" for root, job in zip(roots, jobs, strict=True))
    return f"{found}, queued or running: scancel {' '.join(jobs)}, or wait"


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
