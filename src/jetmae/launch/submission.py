"""Runs as Slurm jobs, through submitit: the exact sbatch script, and its submission."""

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError

from jetmae.errors import JetmaeError
from jetmae.launch import successors
from jetmae.launch.resources import Resources
from jetmae.launch.run_code import code_in_shell
from jetmae.launch.train_job import CommandJob, TrainJob
from jetmae.slurm.command import Answer
from jetmae.slurm.environment import submitting
from jetmae.slurm.job_terms import SUCCESSORS

PATH = re.compile(r"/[A-Za-z0-9_.,:@+=/-]*")  # what a run folder may look like when its path stands in a script
WITHOUT_CLUSTER = "no cluster answers: try again later, or train on this machine with --cluster local"
OUTLIVE_THE_TASKS = "trap : TERM USR2  # the shell outlives its tasks, to decide whether the job comes back"


def submit(run_dirs: list[Path], resources: Resources, *, name: str) -> list[str]:
    """Submit frozen runs, several of them as one array, and return the job id of each.

    Raises:
        JetmaeError: sbatch refused; its message says why.
    """
    executor = executor_for(run_dirs, resources, name=name)
    with sbatch_as_asked(name):
        if len(run_dirs) == 1:
            return [executor.submit(TrainJob(run_dirs[0])).job_id]
        with executor.batch():
            jobs = [executor.submit(TrainJob(run_dir)) for run_dir in run_dirs]
        return [job.job_id for job in jobs]


def submit_starts(run_dir: Path, resources: Resources, *, name: str) -> list[str]:
    """Submit all starts that a run may have, where none can be requeued; they begin one after the other.

    Returns the job id of each.

    Raises:
        JetmaeError: sbatch refused; its message says why.
    """
    executor = executor_for([run_dir], resources, name=name)
    with sbatch_as_asked(name), executor.batch():
        jobs = [executor.submit(TrainJob(run_dir)) for _ in range(resources.no_requeue or 1)]
    return [job.job_id for job in jobs]


def submit_command(
    command: list[str], folder: Path, resources: Resources, *, code_of: Path, name: str | None = None
) -> str:
    """Submit one command as a job of one task without GPUs. It runs the code of the run `code_of`."""
    alone = resources.model_copy(update={"nodes": 1, "ranks_per_node": 1, "gpus_per_node": 0})
    executor = executor_for([folder], alone, name=name or f"{folder.name}-report", supervised=False, code_of=code_of)
    with sbatch_as_asked(folder.name):
        return executor.submit(CommandJob(command)).job_id


def script(run_dirs: list[Path], resources: Resources, *, name: str) -> str:
    """The sbatch script that `submit` would give to Slurm."""
    executor = executor_for(run_dirs, resources, name=name)
    num_elements = resources.no_requeue or len(run_dirs)
    if num_elements > 1:
        executor.parameters["map_count"] = num_elements
    return executor._make_submission_file_text(executor._submitit_command_str, "dry-run")  # noqa: SLF001  no public one


def executor_for(
    run_dirs: list[Path], resources: Resources, *, name: str, supervised: bool = True, code_of: Path | None = None
) -> submitit.SlurmExecutor:
    """A submitit executor that writes its files into the run's logs folder; of an array, beside the runs.

    The code of the job is that of its run, or of the run `code_of`.

    Raises:
        JetmaeError: a folder's path could not stand in a script.
    """
    for run_dir in run_dirs:
        if not PATH.fullmatch(str(run_dir)):
            raise JetmaeError(f"run folder {str(run_dir)!r}: expected a path of letters, digits and _ . , : @ + = / -")
    folder = run_dirs[0] if len(run_dirs) == 1 else run_dirs[0].parent
    executor = submitit.SlurmExecutor(folder=folder / "logs")
    optional = {
        field: getattr(resources, field)
        for field in ("cpus_per_task", "mem", "partition", "account", "qos", "constraint", "dependency")
        if getattr(resources, field) is not None
    }
    if resources.no_requeue:
        optional["array_parallelism"] = 1
    gpus = {"gpus_per_node": resources.gpus_per_node} if resources.gpus_per_node else {}
    executor.update_parameters(
        job_name=re.sub(r"[^A-Za-z0-9_.+-]", ".", name),
        nodes=resources.nodes,
        ntasks_per_node=resources.tasks_per_node,
        time=resources.time_min,
        signal_delay_s=resources.lead_time_s,
        setup=[
            *_setup(resources),
            *code_in_shell([code_of] if code_of else run_dirs),
            *(_begin(run_dirs[0], resources) if supervised else []),
        ],
        teardown=_supervise(run_dirs) if supervised else None,
        srun_args=["--export=ALL", "--kill-on-bad-exit=1", "--wait=60", *_cpus(resources)],
        stderr_to_stdout=True,
        additional_parameters=_options(resources),
        **optional,
        **gpus,
    )
    return executor


@contextlib.contextmanager
def sbatch_as_asked(name: str) -> Iterator[None]:
    """While submitit submits: variables that are options of sbatch do not count, and a refusal is one line.

    Raises:
        JetmaeError: sbatch refused.
    """
    try:
        with submitting(), contextlib.redirect_stderr(io.StringIO()):  # submitit prints all that sbatch says
            yield
    except FailedJobError as error:
        refusal = Answer(1, error=str(error))
        todo = "see what the cluster offers with sinfo" if refusal.is_refusal else WITHOUT_CLUSTER
        raise JetmaeError(f"sbatch refused {name}: {refusal.reason}; {todo}") from None


def _cpus(resources: Resources) -> list[str]:
    """Since Slurm 22.05 srun does not take this from the job it runs in."""
    return [f"--cpus-per-task={resources.cpus_per_task}"] if resources.cpus_per_task else []


def _options(resources: Resources) -> dict[str, object]:
    """sbatch options that submitit has no parameter for. A dead parent must not leave children pending for ever."""
    dependent = {"kill-on-invalid-dep": "yes"} if resources.dependency else {}
    switched_on = {key: value for key, value in resources.extra.items() if value is not False}
    return {"no-requeue" if resources.no_requeue else "requeue": True, "export": "ALL", **dependent, **switched_on}


def _setup(resources: Resources) -> list[str]:
    modules = [f"module load {shlex.quote(module)}" for module in resources.modules]
    return [OUTLIVE_THE_TASKS, f"export JETMAE_LEAD_TIME_S={resources.lead_time_s}", *modules]


def _begin(run_dir: Path, resources: Resources) -> list[str]:
    """Of one of several starts that were submitted together: it may have nothing left to do."""
    if not resources.no_requeue:
        return []
    command = shlex.join([sys.executable, "-m", "jetmae.launch.successors", str(run_dir)])
    return [f"export {SUCCESSORS}=1", command, f"[ $? -eq {successors.NOTHING_TO_DO} ] && exit 0"]


def _supervise(run_dirs: list[Path]) -> list[str]:
    command = shlex.join([sys.executable, "-m", "jetmae.launch.supervisor", *map(str, run_dirs)])
    return [f'{command} "$?"', "exit $?"]
