"""runs requeue: stop the job of a run and let it start again."""

import argparse
import shlex

from jetmae.cli.commands.chosen_runs import only_run
from jetmae.cli.commands.job_of_run import status_now
from jetmae.errors import JetmaeError
from jetmae.records.launch import readable_launch
from jetmae.run_folder import RunFolder
from jetmae.slurm.command import tell


def run(arguments: argparse.Namespace) -> None:
    """It gives up its nodes, and goes on from its last checkpoint when Slurm lets it."""
    folder = only_run(arguments)
    status = status_now(folder)
    if status.state == "complete":
        raise JetmaeError(f"{folder.root} is complete: another --name starts anew")
    if status.queued_job is None or status.job_id is None:
        hint = launch_hint(folder)
        raise JetmaeError(f"{folder.root} is {status.state} and has no job to requeue: start it again{hint}")
    if status.queued_job.waits:
        raise JetmaeError(f"job {status.job_id} waits in the queue already ({status.queued_job.reason}): expected a"
                          " running one; see squeue --start for when it begins")  # fmt: skip
    tell("scontrol", "requeue", status.job_id)
    print(f"job {status.job_id} requeued; it goes on from its last checkpoint")


def launch_hint(run: RunFolder) -> str:
    """How the run was launched, as far as its folder tells."""
    launch = readable_launch(run.launch)
    if not launch.command:
        return ", as it was submitted before"
    python = "python " if launch.command[0].endswith(".py") else ""
    return f": cd {shlex.quote(launch.working_directory)} && {python}{shlex.join(launch.command)}"
