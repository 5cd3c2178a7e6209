"""The runs that a command names, and what they are doing now."""

import argparse
import shlex
import subprocess
from pathlib import Path

from jetmae.config import read_experiment
from jetmae.errors import JetmaeError
from jetmae.plan import make_plan
from jetmae.run_folder import RunFolder, find_run, runs_folder
from jetmae.watch.status import RunStatus, queue_for, status_of

COMMAND_TIMEOUT_S = 60


def chosen_runs(arguments: argparse.Namespace) -> list[RunFolder]:
    """The runs named on the command line, each once, in that order.

    Raises:
        JetmaeError: there is no such run.
    """
    runs_dir = runs_folder(arguments.runs_dir)
    folders = [folder for name in arguments.runs for folder in run_folders(name, runs_dir)]
    return [RunFolder(folder) for folder in dict.fromkeys(folders)]


def only_run(arguments: argparse.Namespace) -> RunFolder:
    """The one run named on the command line.

    Raises:
        JetmaeError: there is no such run, or the name stands for several.
    """
    runs = chosen_runs(arguments)
    if len(runs) != 1:
        names = ", ".join(run.root.name for run in runs)
        raise JetmaeError(f"{arguments.runs[0]} holds {len(runs)} runs: expected one of {names}")
    return runs[0]


def run_folders(name: str, runs_dir: Path) -> list[Path]:
    """The run called `name`, or all runs below a folder of that name, in the order of their first start."""
    for folder in (Path(name), runs_dir / name):
        if not (folder / "config.yaml").exists() and (inside := list(folder.glob("*/config.yaml"))):
            return sorted(
                (path.parent.resolve() for path in inside), key=lambda run: (run / "config.yaml").stat().st_mtime
            )
    return [find_run(name, runs_dir).root]


def task_and_steps(run: RunFolder) -> tuple[str, int | None]:
    """A run's task and how long it is planned to be; its data may have moved since."""
    experiment = read_experiment(run.config)
    try:
        return experiment.task, make_plan(experiment, 1).total_steps
    except JetmaeError:
        return experiment.task, experiment.optim.steps


def status_now(run: RunFolder) -> RunStatus:
    """A run's status, from a Slurm that has to answer if the run has a job.

    Raises:
        JetmaeError: Slurm does not answer.
    """
    queue = queue_for([run])
    status = status_of(run, queue)
    if queue is None and not status.has_ended:
        raise JetmaeError(f"Slurm does not say what job {status.job_id} of {run.root} is doing: expected an answer of"
                          " squeue; try again, on a machine that has Slurm's commands")  # fmt: skip
    return status


def command_slurm(*command: str) -> None:
    """A Slurm command that has to succeed.

    Raises:
        JetmaeError: with what it said.
    """
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JetmaeError(f"{shlex.join(command)}: {error}; try again where Slurm answers") from None
    if finished.returncode:
        raise JetmaeError(f"{shlex.join(command)} was refused: {finished.stderr.strip()}; see squeue --me")
