"""What a run is doing now, and what is known of its plan."""

from jetmae.config import read_experiment
from jetmae.errors import JetmaeError
from jetmae.plan import make_plan
from jetmae.run_folder import RunFolder
from jetmae.watch.status import RunStatus, queue_for, status_of


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
