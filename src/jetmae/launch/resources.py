"""What a job may ask Slurm for: a site's preset, and over it what was typed.

Everything a user gives ends up in a shell script, so every field has a pattern that leaves no room for a newline, a
quote, or an expansion; sbatch options beyond the fields pass through an allow-list.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from jetmae.errors import JetmaeError
from jetmae.presets import FOLDER, preset_names
from jetmae.slurm.cluster_facts import mebibytes_of

SITES = FOLDER / "cluster"
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.@+-]*$"
VALUE = r"^[A-Za-z0-9(][A-Za-z0-9_.,:@%+=/&|()*\[\]-]*$"
ALLOWED_EXTRA = frozenset(
    """begin comment cores-per-socket core-spec cpus-per-gpu deadline delay-boot distribution exclude exclusive gpu-bind
    gpu-freq gpus-per-task gres gres-flags hint licenses mail-type mail-user mem-per-cpu mem-per-gpu network nice
    nodelist power priority reservation sockets-per-node switches thread-spec threads-per-core tmp wckey""".split()  # noqa: SIM905
)
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
    no_requeue: int | None = Field(None, ge=1, le=100, description="instead of requeues, so many starts at most")
    modules: tuple[Value, ...] = Field((), description="environment modules to load first")
    extra: dict[str, str | int | bool] = Field(default_factory=dict, description="further sbatch options")

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
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


def resources_for(site: str, given: dict[str, Any], extra: dict[str, str | bool]) -> Resources:
    """The site's preset with what was given on the command line over it; `extra` are further sbatch options.

    Raises:
        JetmaeError: no such site, or a field that cannot be what it says.
    """
    path = SITES / f"{site}.yaml"
    if not re.fullmatch(NAME, site) or not path.is_file():
        known = ", ".join(["auto", "local", *preset_names("cluster")])
        raise JetmaeError(f"--cluster {site!r}: expected one of {known}")
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    typed = {name: value for name, value in given.items() if value is not None}
    try:
        return Resources(**{**content, **typed, "extra": {**content.get("extra", {}), **extra}})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]).replace("_", "-")
        message = first["msg"].removeprefix("Value error, ")
        option = {"extra": "sbatch", "time-min": "time"}.get(field, field)
        raise JetmaeError(
            f"{site}: {field} = {first['input']!r}: {message}; correct --{option} or {path.name}"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a job asks for."""

    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    memory_mib: int | None = None
    time_min: int = 60
    lead_time_s: int = 120
    partition: str | None = None
    account: str | None = None
    qos: str | None = None


def request_of(resources: Resources) -> Request:
    """The resources as plain numbers."""
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
