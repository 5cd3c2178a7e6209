"""runs cancel: end the job of a run, which does not come back by itself."""

import argparse

from jetmae.cli.commands.chosen_runs import chosen_runs
from jetmae.cli.commands.job_of_run import status_now
from jetmae.errors import JetmaeError
from jetmae.slurm.command import tell


def run(arguments: argparse.Namespace) -> None:
    """Of every run that is named."""
    for folder in chosen_runs(arguments):
        status = status_now(folder)
        if status.job_id is None and status.state == "running":
            raise JetmaeError(f"{folder.root} is trained by processes of {' '.join(status.hosts)}, not by a Slurm job: "
                              "press Ctrl-C where it was launched")  # fmt: skip
        if status.has_ended or status.job_id is None:
            print(f"{folder.root} is {status.state}: nothing to cancel")
            continue
        tell("scancel", status.job_id)
        kept = f"{folder.root} keeps its checkpoints, and its launch command goes on there"
        print(f"job {status.job_id} cancelled; {kept}")
