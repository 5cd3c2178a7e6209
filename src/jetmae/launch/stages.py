"""What a command asks for: one run, an array of them, or a chain, as stages that follow one another.

Runs of one stage may be trained at the same time.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from jetmae.config import NO_RUN, OBSERVABLES, RANDOM, Experiment, load_experiment
from jetmae.data.manifest import read_manifest
from jetmae.errors import DataError, JetmaeError
from jetmae.launch.default_dataset import is_default, provide_default_dataset
from jetmae.launch.freeze import located
from jetmae.launch.layout import Layout
from jetmae.plan import check_observables, check_pretrain_run, check_pretraining, make_plan
from jetmae.presets import TASKS
from jetmae.run_folder import RunFolder, new_run

CHAIN: dict[str, tuple[str, str | None]] = {  # run name below the chain's folder: task, where its weights come from
    "pretrain": ("pretrain", None),
    "finetune": ("finetune", "pretrain"),
    "scratch": ("scratch", None),
    "probe": ("probe", "pretrain"),
    "probe-random": ("probe", RANDOM),
    "probe-observables": ("probe", OBSERVABLES),
}


@dataclass(frozen=True)
class Member:
    """One run: an experiment and its folder."""

    experiment: Experiment
    run: RunFolder


@dataclass(frozen=True)
class Stage:
    """Runs that may be trained at the same time, after the stage named `after` is complete."""

    name: str
    members: list[Member]
    after: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What a person typed of the experiment. `array` is KEY=FIRST..LAST or KEY=A,B,C."""

    config: str
    overrides: list[str]
    name: str | None
    array: str | None
    runs_dir: Path


def stages_of(task: str, wanted: Wanted) -> list[Stage]:
    """The stages of a task, or of `chain`.

    Raises:
        JetmaeError: something in it is not what it should be.
    """
    return _chain_stages(wanted) if task == "chain" else [_single_stage(task, wanted)]


def check_stages(stages: list[Stage], layout: Layout) -> None:
    """Everything that can be found wrong, in all stages, before the first starts: hours may lie between."""
    members = [member for stage in stages for member in stage.members]
    planned = {str(member.run.root): member.experiment for member in members}
    for member in members:
        check_member(member, layout, pretraining=planned.get(str(member.experiment.init_from)))


def check_member(member: Member, layout: Layout, *, pretraining: Experiment | None = None) -> None:
    """`pretraining` is what the run starts from, if that is trained by the same command.

    Raises:
        JetmaeError: the experiment does not fit its data, the number of ranks, or the run it starts from.
    """
    plan = make_plan(member.experiment, layout.num_ranks(member.experiment))
    if pretraining:
        check_pretraining(member.experiment, plan.manifest, pretraining)
    else:
        check_pretrain_run(member.experiment, plan.manifest)


def array_elements(array: str | None) -> list[tuple[str, list[str]]]:
    """`seed=0..2` as [("-seed-0", ["seed=0"]), ...]; one element that changes nothing without an array.

    Raises:
        JetmaeError: it is neither KEY=FIRST..LAST nor KEY=A,B,C.
    """
    if array is None:
        return [("", [])]
    key, _, values = array.partition("=")
    span = re.fullmatch(r"(\d{1,6})\.\.(\d{1,6})", values)
    listed = [str(n) for n in range(int(span[1]), int(span[2]) + 1)] if span else values.split(",")
    plain = all(re.fullmatch(r"[A-Za-z0-9.+-]+", value) for value in listed)
    if not re.fullmatch(r"[a-z_.]+", key) or not listed or not plain:
        raise JetmaeError(f"--array {array!r}: expected KEY=FIRST..LAST or KEY=A,B,C, such as seed=0..4")
    return [(f"-{key.rpartition('.')[2]}-{value}", [f"{key}={value}"]) for value in listed]


def overrides_for(task: str, overrides: list[str]) -> list[str]:
    """Overrides of a chain that concern one task: those without a task's name in front, and those with its own."""
    chosen = []
    for override in overrides:
        first, _, rest = override.partition(".")
        if first not in TASKS:
            chosen.append(override)
        elif first == task:
            chosen.append(rest)
    return chosen


def _single_stage(task: str, wanted: Wanted) -> Stage:
    name = wanted.name or f"{task}-{Path(wanted.config).stem}"
    members = [
        make_member(task, wanted.config, [*wanted.overrides, *more], name + suffix, wanted.runs_dir)
        for suffix, more in array_elements(wanted.array)
    ]
    return Stage(name, members)


def _chain_stages(wanted: Wanted) -> list[Stage]:
    """The six runs of a chain. An array varies the supervised ones; all of them start from one pretraining."""
    root = new_run(wanted.name or f"chain-{Path(wanted.config).stem}", wanted.runs_dir).root
    stages = []
    for name, (task, source) in CHAIN.items():
        init_from = [] if source is None else [f"init_from={source if source in NO_RUN else root / source}"]
        overrides = [*overrides_for(task, wanted.overrides), *init_from]
        members = [
            make_member(task, wanted.config, [*overrides, *more], name + suffix, root)
            for suffix, more in array_elements(None if name == "pretrain" else wanted.array)
        ]
        if source == OBSERVABLES and not _can_be_observed(name, members[0]):
            continue
        stages.append(Stage(name, members, after="pretrain" if source == "pretrain" else None))
    return stages


def _can_be_observed(name: str, member: Member) -> bool:
    """Whether a chain has this run: images of unknown units are no reason to do without the others."""
    manifest = read_manifest(Path(member.experiment.data.path))
    try:
        check_observables(manifest)
    except DataError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return False
    return True


def make_member(task: str, config: str, overrides: list[str], name: str, runs_dir: Path) -> Member:
    """The run `name` below `runs_dir`, of a preset and its overrides.

    Raises:
        JetmaeError: something in it is not what it should be.
    """
    experiment, run = load_experiment(task, config, overrides), new_run(name, runs_dir)
    if is_default(experiment):
        provide_default_dataset(Path(experiment.data.path))
    return Member(located(experiment, runs_dir), run)
