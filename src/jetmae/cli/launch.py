#!/usr/bin/env python3
"""Start an experiment, or go on with it.

    python jobs/launch.py pretrain --nodes 2
    python jobs/launch.py finetune init_from=pretrain-small optim.lr=1e-4 --array seed=0..4
    python jobs/launch.py chain data.path=data/mine          pretrain, finetune, scratch, both probes, report

The resolved configuration is frozen in the run folder, and the run is started in it: as a Slurm job where there is
Slurm, otherwise as processes of this machine. The same command again continues the run, or says that it is complete.
"""

import argparse
import glob
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from jetmae.errors import (
    EXIT_BAD_CONFIG,
    EXIT_BAD_DATA,
    EXIT_BUSY,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    JetmaeError,
    exit_with_one_line,
)

TASKS = ("pretrain", "finetune", "scratch", "probe")
CHAIN = {  # run name below the chain's folder: (task, where its weights come from)
    "pretrain": ("pretrain", None),
    "finetune": ("finetune", "pretrain"),
    "scratch": ("scratch", None),
    "probe": ("probe", "pretrain"),
    "probe-random": ("probe", "random"),
}


def main() -> int:
    arguments = parse_arguments()
    if site(arguments) == "local":
        refuse_slurm_options(arguments)
    else:
        resources(arguments)  # an option that Slurm cannot take ends here, before anything is written
    stages = chain_stages(arguments) if arguments.task == "chain" else [single_stage(arguments)]
    for stage in stages:  # all of them before the first starts: hours may lie between
        for member in stage.members:
            check(member, arguments, pretraining=stages[0].members[0].experiment if stage.after else None)
    if arguments.dry_run:
        return print_dry_run(stages, arguments)
    for stage in stages:
        for member in stage.members:
            freeze_member(member)
    if arguments.freeze:
        print(*(member.run.root for stage in stages for member in stage.members), sep="\n")
        return 0
    return train_here(stages, arguments) if site(arguments) == "local" else submit(stages, arguments)


# -- what is to be done ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """One run: an experiment and its folder."""

    experiment: object
    run: object


@dataclass
class Stage:
    """Runs that may be trained at the same time, after the stage named `after` is complete."""

    name: str
    members: list[Member]
    after: str | None = None


def single_stage(arguments: argparse.Namespace) -> Stage:
    from jetmae.run_folder import runs_folder

    runs_dir = runs_folder(arguments.runs_dir)
    name = arguments.name or f"{arguments.task}-{Path(arguments.config).stem}"
    members = [
        make_member(arguments, arguments.task, [*arguments.overrides, *more], name + suffix, runs_dir)
        for suffix, more in array_elements(arguments.array)
    ]
    return Stage(name, members)


def chain_stages(arguments: argparse.Namespace) -> list[Stage]:
    """The five runs of a chain. An array varies the supervised ones; all of them start from one pretraining."""
    from jetmae.run_folder import new_run, runs_folder

    name = arguments.name or f"chain-{Path(arguments.config).stem}"
    root = new_run(name, runs_folder(arguments.runs_dir)).root
    stages = []
    for stage, (task, source) in CHAIN.items():
        init_from = [] if source is None else [f"init_from={source if source == 'random' else root / source}"]
        overrides = [*overrides_for(task, arguments.overrides), *init_from]
        elements = array_elements(None if stage == "pretrain" else arguments.array)
        members = [make_member(arguments, task, [*overrides, *more], stage + suffix, root) for suffix, more in elements]
        stages.append(Stage(stage, members, after="pretrain" if source == "pretrain" else None))
    return stages


def make_member(arguments: argparse.Namespace, task: str, overrides: list[str], name: str, runs_dir: Path) -> Member:
    from jetmae.config import load_experiment
    from jetmae.launch.freeze import located
    from jetmae.run_folder import new_run

    return Member(located(load_experiment(task, arguments.config, overrides), runs_dir), new_run(name, runs_dir))


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


def check(member: Member, arguments: argparse.Namespace, *, pretraining: object = None) -> None:
    """Everything that can be found wrong before the job starts; `pretraining` is what comes before it in a chain."""
    from jetmae.plan import check_pretrain_run, check_pretraining, make_plan

    plan = make_plan(member.experiment, num_ranks(member.experiment, arguments))
    if pretraining:
        check_pretraining(member.experiment, plan.manifest, pretraining)
    else:
        check_pretrain_run(member.experiment, plan.manifest)


def freeze_member(member: Member) -> None:
    from jetmae.launch.freeze import freeze

    freeze(member.experiment, member.run)


def record_start(member: Member, arguments: argparse.Namespace, **start: object) -> None:
    from jetmae.launch.freeze import write_launch_record
    from jetmae.plan import make_plan

    ranks = num_ranks(member.experiment, arguments)
    total_steps = make_plan(member.experiment, ranks).total_steps
    write_launch_record(member.run, ranks=ranks, total_steps=total_steps, **start)


# -- on this machine ---------------------------------------------------------------------------------------------------


def train_here(stages: list[Stage], arguments: argparse.Namespace) -> int:
    """One run after the other as processes of this machine; ends with the first that does not complete."""
    from jetmae.launch.local_processes import run_ranks

    for member in (member for stage in stages for member in stage.members):
        if member.run.completed.exists():
            print(f"{member.run.root} is complete; another --name starts anew")
            continue
        check(member, arguments)
        record_start(member, arguments)
        start = secrets.token_hex(8)
        ranks = num_ranks(member.experiment, arguments)
        if code := run_ranks(member.run.root, ranks=ranks, logs=member.run.logs, start=start):
            return report_end(member.run, start, code)
    return subprocess.run(report_command(stages)).returncode if arguments.task == "chain" else 0


def report_end(run, start: str, code: int) -> int:
    """Complete the record of a start that did not complete the run, and say what to do."""
    from jetmae.attempts import complete_record, said_cause

    if code == EXIT_BUSY:  # the record belongs to the start that has the folder
        return code
    place = {"start_token": start}
    message = complete_record(run, place, start=start, code=code, cause=said_cause(run, place) or "crashed")
    if code == EXIT_STOPPED:
        print(f"stopped, everything is saved in {run.root}; the same command again goes on")
    elif code not in (EXIT_BAD_CONFIG, EXIT_BAD_DATA, EXIT_INTERRUPTED):  # of these the ranks have told
        print(f"crashed: {message}; the same command again goes on from the last checkpoint", file=sys.stderr)
    return code


def report_command(stages: list[Stage]) -> list[str]:
    """`jobs/runs.py report` for all runs of a chain."""
    runs = [str(member.run.root) for stage in stages for member in stage.members]
    return [sys.executable, "-m", "jetmae.cli.runs", "report", *runs]


def num_ranks(experiment, arguments: argparse.Namespace) -> int:
    if site(arguments) != "local":
        asked = resources(arguments)
        return asked.nodes * asked.tasks_per_node
    per_node = arguments.ranks_per_node or (1 if experiment.engine.device == "cpu" else max(1, num_gpus()))
    return (arguments.nodes or 1) * per_node


def num_gpus() -> int:
    """GPUs of this machine, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(glob.glob("/dev/nvidia[0-9]*"))
    return present if visible is None else min(present, len([name for name in visible.split(",") if name.strip()]))


# -- on Slurm ----------------------------------------------------------------------------------------------------------


def site(arguments: argparse.Namespace) -> str:
    """`local`, or the name of a cluster preset."""
    if arguments.cluster == "auto":
        return "slurm" if shutil.which("sbatch") else "local"
    return arguments.cluster


def submit(stages: list[Stage], arguments: argparse.Namespace) -> int:
    """Submit every run that is not complete, each stage after the one it needs, and say what to type next."""
    from jetmae.launch import submission

    asked, jobs = resources(arguments), {}
    warn_of_the_cluster(asked)
    for stage in stages:
        jobs[stage.name] = submit_stage(stage, submission.after(asked, jobs.get(stage.after, [])), arguments)
    if arguments.task == "chain":
        everything = [job for stage in stages for job in jobs[stage.name]]
        job = submission.submit_command(
            report_command(stages), chain_folder(stages), submission.after(asked, everything)
        )
        print(f"job {job} writes {chain_folder(stages) / 'report' / 'report.html'}")
    print_next_steps(stages)
    return 0


def submit_stage(stage: Stage, asked, arguments: argparse.Namespace) -> list[str]:
    """Submit the runs that are neither complete nor have a job; a later stage waits for the jobs returned, old and new.

    Raises:
        JetmaeError: the command is for this stage alone, and all that is left of it has a job.
    """
    alive, missing = {}, []
    for member in stage.members:
        if member.run.completed.exists():
            print(f"{member.run.root.name}: complete")
        elif job := live_job(member.run):
            print(f"{member.run.root.name}: has job {job}")
            alive[member.run.root] = job
        else:
            missing.append(member)
    if alive and not missing and arguments.task != "chain":
        found = ", ".join(f"run {root} has job {job}" for root, job in alive.items())
        raise JetmaeError(f"{found}, queued or running: scancel {' '.join(alive.values())}, or wait")
    return [*alive.values(), *(submit_members(missing, asked, arguments) if missing else [])]


def submit_members(members: list[Member], asked, arguments: argparse.Namespace) -> list[str]:
    """Submit runs, several of them as one array, and return the job of each."""
    from jetmae.launch import submission

    roots = [member.run.root for member in members]
    jobs = submission.submit(roots, asked, name=roots[0].name)
    for member, job in zip(members, jobs, strict=True):
        record_start(member, arguments, job_id=job)
        print(f"job {job} submitted; run folder {member.run.root}")
    return jobs


def warn_of_the_cluster(asked) -> None:
    """What doctor would find in Slurm's configuration, if it is not well: a preemption without a warning, say."""
    from jetmae.doctor import cluster, verdict
    from jetmae.launch import submission
    from jetmae.slurm import cluster_facts as slurm_facts

    facts = slurm_facts.ask_cluster()
    for found in cluster.check_cluster(submission.request_of(asked), facts, None) if facts else ():
        if found.level != verdict.OK:
            print(f"{found.level}: {found.name}: {found.found}: {found.meaning}; {found.todo}")


def live_job(run) -> str | None:
    """The job that was submitted last for this run, if it is still queued or running.

    Raises:
        JetmaeError: Slurm does not answer, so that a second job in the same folder cannot be ruled out.
    """
    from jetmae.slurm.queue import queue_of

    job = json.loads(run.launch.read_text()).get("job_id") if run.launch.exists() else None
    queue = queue_of([os.getuid()]) if job else {}
    if queue is None:
        raise JetmaeError(f"Slurm does not answer whether job {job} of {run.root} is still alive: try again later")
    return job if job in queue else None


def chain_folder(stages: list[Stage]) -> Path:
    return stages[0].members[0].run.root.parent


def print_next_steps(stages: list[Stage]) -> None:
    script = Path(sys.argv[0]).with_name("runs.py")
    folder = stages[0].members[0].run.root if len(stages) == 1 else chain_folder(stages)
    print(f"  how far:  python {script} status {folder}")
    print(f"  output:   python {script} logs {stages[0].members[0].run.root} -f")
    print(f"  curves:   python {script} tensorboard {folder}")
    print(f"  compare:  python {script} report {folder}")


def resources(arguments: argparse.Namespace):
    """What the job asks Slurm for: the site's preset, and over it what was typed."""
    from jetmae.launch import submission

    fields = set(submission.Resources.model_fields) - {"extra", "modules"}
    given: dict[str, object] = {name: getattr(arguments, name) for name in fields}
    extra = {}
    for option in arguments.sbatch:
        key, equals, value = option.partition("=")
        extra[key] = value if equals else True
    return submission.resources_for(site(arguments), {**given, "extra": extra})


def refuse_slurm_options(arguments: argparse.Namespace) -> None:
    given = [option for option, name in SLURM_OPTIONS.items() if getattr(arguments, name) not in (None, [])]
    if given:
        raise JetmaeError(f"{given[0]} is for Slurm, and this run is local: leave it out, or add --cluster slurm")


def print_dry_run(stages: list[Stage], arguments: argparse.Namespace) -> int:
    """The resolved configuration of every run, and the exact sbatch script of every job."""
    from jetmae.config import as_yaml

    for stage in stages:
        for member in stage.members:
            print(f"# run folder: {member.run.root}\n# ranks: {num_ranks(member.experiment, arguments)}")
            print(as_yaml(member.experiment))
        if site(arguments) != "local":
            from jetmae.launch import submission

            roots = [member.run.root for member in stage.members]
            print(submission.script(roots, resources(arguments), name=roots[0].name))
    return 0


# -- what is typed -----------------------------------------------------------------------------------------------------

SLURM_WORDS = ("partition", "account", "qos", "constraint", "mem", "dependency")
SLURM_OPTIONS = {f"--{name.replace('_', '-')}": name
                 for name in (*SLURM_WORDS, "lead_time_s", "gpus_per_node", "cpus_per_task", "sbatch")}  # fmt: skip
SLURM_OPTIONS["--time"] = "time_min"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=(*TASKS, "chain"))
    overrides_help = "a setting, e.g. optim.lr=3e-4; in a chain, pretrain.optim.lr=3e-4 is for that task alone"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=overrides_help)
    parser.add_argument("--config", default="small", help="preset configs/TASK/NAME.yaml, or a file (default: small)")
    parser.add_argument("--nodes", type=_positive, help="machines (locally: nodes x ranks processes here)")
    parser.add_argument("--ranks-per-node", type=_positive, help="default: one per GPU, or 1")
    parser.add_argument("--name", help="run name below the runs folder (default: TASK-CONFIG)")
    parser.add_argument("--runs-dir", help="default: $JETMAE_RUNS, or runs/")
    parser.add_argument("--array", metavar="KEY=VALUES", help="one run per value, e.g. seed=0..4")
    cluster_help = (
        "local: processes of this machine; slurm, or a site of configs/cluster/; auto: slurm if sbatch exists"
    )
    parser.add_argument("--cluster", default="auto", help=cluster_help)
    parser.add_argument("--dry-run", action="store_true", help="print configuration and sbatch script, start nothing")
    parser.add_argument("--freeze", action="store_true", help="write the run folder, print its path, start nothing")
    slurm = parser.add_argument_group("Slurm", "what the job asks for; the site's preset gives the rest")
    for option in SLURM_WORDS:
        slurm.add_argument(f"--{option}", metavar=option.upper())
    slurm.add_argument("--time", dest="time_min", type=_minutes, metavar="TIME", help="minutes, H:MM:SS or D-H")
    slurm.add_argument("--lead-time-s", type=_positive, help="warning before the time limit")
    slurm.add_argument("--gpus-per-node", type=_positive)
    slurm.add_argument("--cpus-per-task", type=_positive)
    sbatch_help = "a further sbatch option, of an allow-list"
    slurm.add_argument("--sbatch", action="append", default=[], metavar="KEY=VALUE", help=sbatch_help)
    return parser.parse_intermixed_args()


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return value


def _minutes(text: str) -> int:
    from jetmae.launch.submission import minutes

    try:
        return minutes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    exit_with_one_line(main)
