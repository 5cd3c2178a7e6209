"""runs cancel: end the job of a run, which does not come back by itself."""

import argparse

from jetmae.cli.commands.chosen_runs import chosen_runs
from jetmae.cli.commands.job_of_run import status_now
from jetmae.errors import JetmaeError
from jetmae.records.launch import readable_launch
from jetmae.run_folder import RunFolder
from jetmae.slurm.command import tell
from jetmae.watch.status import queue_for


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
        tell("scancel", *dict.fromkeys([status.job_id, *later_starts(folder)]))
        kept = f"{folder.root} keeps its checkpoints, and its launch command goes on there"
        print(f"job {status.job_id} cancelled; {kept}")


def later_starts(run: RunFolder) -> list[str]:
    """Jobs that were submitted together with the run's, to go on when it stops, and that are still in the queue."""
    others = readable_launch(run.launch).successor_ids
    queue = (queue_for([run]) if others else None) or {}
    return [job for job in others if job in queue]
