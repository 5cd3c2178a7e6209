"""Runs as Slurm jobs, through submitit: what may be asked for, the exact sbatch script, and its submission.

Everything a user gives ends up in a shell script, so every field has a pattern that leaves no room for a newline, a
quote, or an expansion; sbatch options beyond the fields pass through an allow-list.
"""

import contextlib
import difflib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from jetmae.errors import JetmaeError
from jetmae.launch.train_job import CommandJob, TrainJob

SITES = Path(__file__).resolve().parents[1] / "presets" / "cluster"
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.@+-]*$"
VALUE = r"^[A-Za-z0-9(][A-Za-z0-9_.,:@%+=/&|()*\[\]-]*$"
PATH = re.compile(r"/[A-Za-z0-9_.,:@+=/-]*")  # what a run folder may look like when its path stands in a script
ALLOWED_EXTRA = frozenset(
    """begin comment cores-per-socket core-spec cpus-per-gpu deadline delay-boot distribution exclude exclusive gpu-bind
    gpu-freq gpus-per-task gres gres-flags hint licenses mail-type mail-user mem-per-cpu mem-per-gpu network nice
    nodelist power priority reservation sockets-per-node switches thread-spec threads-per-core tmp wckey""".split()  # noqa: SIM905
)
OUTLIVE_THE_TASKS = "trap : TERM USR2  # the shell outlives its tasks, to decide whether the job comes back"
Name = Annotated[str, Field(pattern=NAME)]
Value = Annotated[str, Field(pattern=VALUE)]


class Resources(BaseModel):
    """What a job asks Slurm for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int = Field(1, ge=1)
    ranks_per_node: int | None = Field(None, ge=1, description="default: gpus_per_node, or 1")
    gpus_per_node: int = Field(0, ge=0)
    cpus_per_task: int | None = Field(None, ge=1)
    mem: Annotated[str, Field(pattern=r"^[0-9]+[KMGT]?$")] | None = Field(None, description="memory per node, e.g. 64G")
    time_min: int = Field(60, ge=1, description="time limit in minutes")
    lead_time_s: int = Field(120, ge=1, le=3600, description="warning before the time limit: a step and a save fit in")
    partition: Value | None = None
    account: Name | None = None
    qos: Name | None = None
    constraint: Value | None = None
    dependency: Value | None = None
    modules: tuple[Value, ...] = Field((), description="environment modules to load first")
    extra: dict[str, str | int | bool] = Field(default_factory=dict, description="further sbatch options")

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict) -> dict:
        for key, value in extra.items():
            if key not in ALLOWED_EXTRA:
                near = difflib.get_close_matches(key, ALLOWED_EXTRA, n=1)
                hint = f"did you mean {near[0]!r}" if near else f"allowed are {', '.join(sorted(ALLOWED_EXTRA))}"
                raise ValueError(f"sbatch option {key!r} is not passed through: {hint}")
            if not isinstance(value, bool) and not re.fullmatch(VALUE, str(value)):
                raise ValueError(
                    f"sbatch option {key}={value!r}: expected letters, digits and _ . , : @ % + = / & | ( ) * [ ] -"
                )
        return extra

    @property
    def tasks_per_node(self) -> int:
        return self.ranks_per_node or max(1, self.gpus_per_node)


def resources_for(site: str, given: dict[str, object]) -> Resources:
    """The site's preset with what was given on the command line over it.

    Raises:
        JetmaeError: no such site, or a field that cannot be what it says.
    """
    path = SITES / f"{site}.yaml"
    if not re.fullmatch(NAME, site) or not path.is_file():
        known = ", ".join(["auto", "local", *sorted(file.stem for file in SITES.glob("*.yaml"))])
        raise JetmaeError(f"--cluster {site!r}: expected one of {known}")
    content = yaml.safe_load(path.read_text()) or {}
    extra = {**content.pop("extra", {}), **given.pop("extra", {})}
    try:
        return Resources(
            **{**content, **{name: value for name, value in given.items() if value is not None}}, extra=extra
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]).replace("_", "-")
        message = first["msg"].removeprefix("Value error, ")
        option = {"extra": "sbatch", "time-min": "time"}.get(field, field)
        raise JetmaeError(
            f"{site}: {field} = {first['input']!r}: {message}; correct --{option} or {path.name}"
        ) from None


def minutes(text: str) -> int:
    """A Slurm time limit in minutes: `90`, `1:30:00`, `2-12`, `2-12:30`.

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise ValueError(f"{text!r}: expected minutes, H:MM:SS, D-H or D-H:MM")
    days, first, second, third = (int(part) if part else None for part in match.groups())
    if days is not None:
        return days * 1440 + first * 60 + (second or 0) + (1 if third else 0)
    if third is not None:
        return first * 60 + second + (1 if third else 0)
    return first + (1 if second else 0)


def request_of(resources):
    """The resources as plain numbers."""
    from jetmae.doctor.cluster import Request
    from jetmae.slurm.cluster_facts import mebibytes_of

    same = ("nodes", "tasks_per_node", "gpus_per_node", "time_min", "lead_time_s", "partition", "account", "qos")
    return Request(
        **{name: getattr(resources, name) for name in same},
        cpus_per_task=resources.cpus_per_task or 1,
        memory_mib=mebibytes_of(resources.mem),
    )


def after(resources: Resources, jobs: list[str]) -> Resources:
    """The same resources for a job that waits until all `jobs` have succeeded."""
    if not jobs:
        return resources
    waits = [*filter(None, [resources.dependency]), f"afterok:{':'.join(jobs)}"]
    return resources.model_copy(update={"dependency": ",".join(waits)})


def submit(run_dirs: list[Path], resources: Resources, *, name: str) -> list[str]:
    """Submit frozen runs, several of them as one array, and return the job id of each.

    Raises:
        JetmaeError: sbatch refused; its message says why.
    """
    executor = executor_for(run_dirs, resources, name=name)
    with _refusals_in_one_line(name):
        if len(run_dirs) == 1:
            return [executor.submit(TrainJob(run_dirs[0])).job_id]
        with executor.batch():
            jobs = [executor.submit(TrainJob(run_dir)) for run_dir in run_dirs]
        return [job.job_id for job in jobs]


def submit_command(command: list[str], folder: Path, resources: Resources) -> str:
    """Submit one command as a job of one task without GPUs."""
    alone = resources.model_copy(update={"nodes": 1, "ranks_per_node": 1, "gpus_per_node": 0})
    executor = executor_for([folder], alone, name=f"{folder.name}-report", supervised=False)
    with _refusals_in_one_line(folder.name):
        return executor.submit(CommandJob(command)).job_id


def script(run_dirs: list[Path], resources: Resources, *, name: str) -> str:
    """The sbatch script that `submit` would give to Slurm."""
    executor = executor_for(run_dirs, resources, name=name)
    if len(run_dirs) > 1:
        executor.parameters["map_count"] = len(run_dirs)
    return executor._make_submission_file_text(executor._submitit_command_str, "dry-run")


def executor_for(run_dirs: list[Path], resources: Resources, *, name: str, supervised: bool = True):
    """A submitit executor that writes its files into the run's logs folder; of an array, beside the runs.

    Raises:
        JetmaeError: a folder's path could not stand in a script.
    """
    import submitit

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
    gpus = {"gpus_per_node": resources.gpus_per_node} if resources.gpus_per_node else {}
    executor.update_parameters(
        job_name=re.sub(r"[^A-Za-z0-9_.+-]", ".", name),
        nodes=resources.nodes,
        ntasks_per_node=resources.tasks_per_node,
        time=resources.time_min,
        signal_delay_s=resources.lead_time_s,
        setup=_setup(resources),
        teardown=_supervise(run_dirs) if supervised else None,
        srun_args=["--kill-on-bad-exit=1", "--wait=60", *_cpus(resources)],
        stderr_to_stdout=True,
        additional_parameters=_options(resources),
        **optional,
        **gpus,
    )
    return executor


@contextlib.contextmanager
def _refusals_in_one_line(name: str) -> Iterator[None]:
    from submitit.core.utils import FailedJobError

    try:
        yield
    except FailedJobError as error:
        last = str(error).strip().splitlines()[-1]
        raise JetmaeError(f"sbatch refused {name}: {last}; see what the cluster offers with sinfo") from None


def _cpus(resources: Resources) -> list[str]:
    """Since Slurm 22.05 srun does not take this from the job it runs in."""
    return [f"--cpus-per-task={resources.cpus_per_task}"] if resources.cpus_per_task else []


def _options(resources: Resources) -> dict[str, object]:
    """sbatch options that submitit has no parameter for. A dead parent must not leave children pending for ever."""
    dependent = {"kill-on-invalid-dep": "yes"} if resources.dependency else {}
    switched_on = {key: value for key, value in resources.extra.items() if value is not False}
    return {"requeue": True, **dependent, **switched_on}


def _setup(resources: Resources) -> list[str]:
    modules = [f"module load {shlex.quote(module)}" for module in resources.modules]
    return [OUTLIVE_THE_TASKS, f"export JETMAE_LEAD_TIME_S={resources.lead_time_s}", *modules]


def _supervise(run_dirs: list[Path]) -> list[str]:
    command = shlex.join([sys.executable, "-m", "jetmae.launch.supervisor", *map(str, run_dirs)])
    return [f'{command} "$?"', "exit $?"]
