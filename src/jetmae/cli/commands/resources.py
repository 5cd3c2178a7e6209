"""The options of launch.py and doctor.py that concern Slurm, as resources of a job."""

import argparse

from jetmae.errors import JetmaeError
from jetmae.launch.layout import Layout, site_of
from jetmae.launch.resources import Resources, resources_for

FIELDS = sorted(set(Resources.model_fields) - {"extra", "modules"})
LOCAL = ("nodes", "ranks_per_node")  # fields that mean something without Slurm too


def layout_of(arguments: argparse.Namespace) -> Layout:
    """Where the command wants to train.

    Raises:
        JetmaeError: an option that Slurm cannot take, or one for Slurm where there is none.
    """
    if site_of(arguments.cluster) != "local":
        return Layout(resources_of(arguments))
    refuse_slurm_options(arguments)
    return Layout(nodes=arguments.nodes or 1, ranks_per_node=arguments.ranks_per_node)


def resources_of(arguments: argparse.Namespace) -> Resources:
    """What the job asks Slurm for: the site's preset, and over it what was typed."""
    extra: dict[str, str | bool] = {}
    for option in arguments.sbatch:
        key, equals, value = option.partition("=")
        extra[key] = value if equals else True
    given = {name: getattr(arguments, name, None) for name in FIELDS}
    return resources_for(site_of(arguments.cluster), given, extra)


def refuse_slurm_options(arguments: argparse.Namespace) -> None:
    """Options for Slurm that were given for a run of this machine."""
    options = {"--time" if name == "time_min" else f"--{name.replace('_', '-')}": name for name in FIELDS}
    options = {option: name for option, name in options.items() if name not in LOCAL} | {"--sbatch": "sbatch"}
    given = [option for option, name in options.items() if getattr(arguments, name) not in (None, [])]
    if given:
        raise JetmaeError(f"{given[0]} is for Slurm, and this run is local: leave it out, or add --cluster slurm")
