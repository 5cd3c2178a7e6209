"""The options of launch.py and doctor.py that concern Slurm, as resources of a job."""

import argparse
import os
import sys
from collections.abc import Mapping

from jetmae.errors import JetmaeError
from jetmae.launch.layout import Layout, site_of
from jetmae.launch.resources import Resources, resources_for
from jetmae.slurm.environment import left_out
from jetmae.slurm.time_limit import minutes

FIELDS = sorted(set(Resources.model_fields) - {"extra", "modules"})
LOCAL = ("nodes", "ranks_per_node")  # fields that mean something without Slurm too
TAKEN = {  # sbatch's variables that a person sets for all jobs, and what they are here; below `extra`, by sbatch's name
    "SBATCH_ACCOUNT": "account",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_TIMELIMIT": "time_min",
    "SBATCH_WCKEY": "wckey",
}


def layout_of(arguments: argparse.Namespace) -> Layout:
    """Where the command wants to train.

    Raises:
        JetmaeError: an option that Slurm cannot take, or one for Slurm where there is none.
    """
    if site_of(arguments.cluster) != "local":
        if getattr(arguments, "parallel", None):
            raise JetmaeError("--parallel is for runs of this machine: Slurm decides how many jobs run; leave it out")
        return Layout(resources_of(arguments, os.environ))
    refuse_slurm_options(arguments)
    return Layout(nodes=arguments.nodes or 1, ranks_per_node=arguments.ranks_per_node)


def resources_of(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Resources:
    """What the job asks Slurm for: the site's preset, over it sbatch's variables, and over both what was typed.

    It is said which variables count, and which do not.

    Raises:
        JetmaeError: something in it cannot be what it says.
    """
    extra: dict[str, str | bool] = {}
    for option in arguments.sbatch:
        key, equals, value = option.partition("=")
        extra[key] = value if equals else True
    given = {name: getattr(arguments, name, None) for name in FIELDS}
    set_by = variables_taken(environment, {name for name, value in given.items() if value is not None} | set(extra))
    if not getattr(arguments, "freeze", False):  # nothing is submitted: it is for sbatch to heed its variables
        say_what_counts(environment, set_by)
    for name, field in set_by.items():
        if field in FIELDS:
            given[field] = _minutes(name, environment[name]) if field == "time_min" else environment[name]
        else:
            extra[field] = environment[name]
    try:
        return resources_for(site_of(arguments.cluster), given, extra)
    except JetmaeError as error:
        hint = f"; {', '.join(set_by)} counted as typed" if set_by else ""
        raise JetmaeError(f"{error}{hint}") from None


def variables_taken(environment: Mapping[str, str], typed: set[str]) -> dict[str, str]:
    """The variables of sbatch that count, and the fields or options that they stand for."""
    return {name: field for name, field in TAKEN.items() if environment.get(name) and field not in typed}


def say_what_counts(environment: Mapping[str, str], set_by: dict[str, str]) -> None:
    """On stderr: stdout is what --freeze and --dry-run print for others to read."""
    for name, field in set_by.items():
        print(f"{field.removesuffix('_min')} {environment[name]} from {name}", file=sys.stderr)
    if line := left_out(environment, taken=frozenset(set_by)):
        print(line, file=sys.stderr)


def _minutes(name: str, text: str) -> int:
    try:
        return minutes(text)
    except ValueError as error:
        raise JetmaeError(f"{name}={error}; unset it, or type --time") from None


def refuse_slurm_options(arguments: argparse.Namespace) -> None:
    """Options for Slurm that were given for a run of this machine."""
    options = {"--time" if name == "time_min" else f"--{name.replace('_', '-')}": name for name in FIELDS}
    options = {option: name for option, name in options.items() if name not in LOCAL} | {"--sbatch": "sbatch"}
    given = [option for option, name in options.items() if getattr(arguments, name) not in (None, [])]
    if given:
        raise JetmaeError(f"{given[0]} is for Slurm, and this run is local: leave it out, or add --cluster slurm")
