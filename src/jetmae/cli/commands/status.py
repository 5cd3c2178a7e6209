"""runs status: everything about a run."""

import argparse

from jetmae.cli.commands.chosen_runs import chosen_runs
from jetmae.cli.commands.job_of_run import task_and_steps
from jetmae.watch.status import ledger_of, queue_for, status_of
from jetmae.watch.tables import print_status


def run(arguments: argparse.Namespace) -> None:
    """One after the other, with an empty line between them."""
    runs = chosen_runs(arguments)
    queue = queue_for(runs)
    for folder in runs:
        task, total_steps = task_and_steps(folder)
        status = status_of(folder, queue, total_steps=total_steps)
        if folder is not runs[0]:
            print()
        print_status(folder.root.name, task, status, ledger_of(status))
