"""runs list: one line for each run."""

import argparse
import sys

from jetmae.cli.commands.job_of_run import task_and_steps
from jetmae.errors import JetmaeError
from jetmae.run_folder import RunFolder, runs_below, runs_folder
from jetmae.watch.status import queue_for, status_of
from jetmae.watch.tables import print_list


def run(arguments: argparse.Namespace) -> None:
    """All runs below the runs folder."""
    runs_dir = runs_folder(arguments.runs_dir)
    runs = [RunFolder(folder) for folder in runs_below(runs_dir)]
    if not runs:
        print(f"no runs in {runs_dir.resolve()}")
        return
    queue = queue_for(runs)
    rows = []
    for folder in runs:
        name = str(folder.root.relative_to(runs_dir))
        try:
            task, total_steps = task_and_steps(folder)
            rows.append((name, task, status_of(folder, queue, total_steps=total_steps)))
        except (JetmaeError, OSError) as error:  # of one run, which must not hide the others
            print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
    print_list(rows)
