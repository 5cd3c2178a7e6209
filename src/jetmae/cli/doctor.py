#!/usr/bin/env python3
"""Find out what is wrong before a job waits in the queue for hours.

    python jobs/doctor.py                                  this machine, the cluster, the run folder
    python jobs/doctor.py --data data/mine --nodes 2 --gpus-per-node 4 --time 12:00:00
    python jobs/doctor.py --job --nodes 2 --gpus-per-node 4     also a short job (two minutes) on such nodes

Give it the same Slurm options as the job it is for. Every line says ok, warning or FAILED; below the last two, what it
means and what to do. Exit code 0 if nothing failed.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Nothing heavy here: --help must answer at once.
from jetmae.cli import launch
from jetmae.errors import JetmaeError, exit_with_one_line

BYTES_PER_PARAMETER = 16  # of a checkpoint: weights 4, AdamW's two moments 8, moving average 4
JOB_TIME_MIN = 5  # it takes two; an import from slow storage may take the rest
JOB_LEAD_TIME_S = 30
JOB_WAIT_S = 90.0  # for ranks that do not come, and for collectives that do not end


def main() -> int:
    from jetmae.doctor.verdict import exit_code

    arguments = parse_arguments()
    show = print_as_json if arguments.json else make_printer()
    verdicts = []
    for verdict in examine(arguments):
        show(verdict)
        verdicts.append(verdict)
    if not arguments.json:
        print(summary(verdicts))
    return exit_code(verdicts)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", help="where runs will be kept (default: $JETMAE_RUNS, or runs/)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a converted dataset to look at")
    size_help = "size of the network, for the size of a checkpoint (%(default)s: the seed preset)"
    parser.add_argument("--million-parameters", type=float, default=70.0, metavar="M", help=size_help)
    parser.add_argument("--checkpoints", type=int, default=2, help="checkpoints a run keeps (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--job", action="store_true", help="submit a short job and see what its ranks find")
    parser.add_argument("--wait-min", type=float, default=30.0, help="minutes to wait for that job (%(default)s)")
    cluster_help = "local, slurm, or a site of configs/cluster/; auto: slurm where sbatch exists"
    parser.add_argument("--cluster", default="auto", help=cluster_help)
    slurm = parser.add_argument_group("Slurm", "what the job will ask for, as for launch.py")
    for option in ("nodes", "ranks-per-node", "gpus-per-node", "cpus-per-task", "lead-time-s"):
        slurm.add_argument(f"--{option}", type=int, metavar="N")
    for option in ("partition", "account", "qos", "constraint", "mem"):
        slurm.add_argument(f"--{option}", metavar=option.upper())
    slurm.add_argument("--time", dest="time_min", type=_minutes, metavar="TIME", help="minutes, H:MM:SS or D-H")
    slurm.add_argument("--sbatch", action="append", default=[], metavar="KEY=VALUE", help="as for launch.py")
    parser.set_defaults(dependency=None)  # of launch.py's Slurm options the only one that makes no sense here
    return parser.parse_args()


def _minutes(text: str) -> int:
    from jetmae.launch.submission import minutes

    try:
        return minutes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def examine(arguments: argparse.Namespace) -> Iterator:
    """All verdicts, as they are reached."""
    from jetmae.doctor.machine import check_machine
    from jetmae.run_folder import runs_folder

    on_slurm = launch.site(arguments) != "local"
    resources = launch.resources(arguments) if on_slurm else None  # first of all: a misspelt option ends here
    runs_dir = runs_folder(arguments.runs_dir).resolve()
    yield from check_machine()
    storage, save_s = yield from examine_storage(runs_dir, resources, arguments)
    if arguments.data:
        from jetmae.doctor.dataset import check_dataset

        yield from check_dataset(arguments.data)
    if resources is None:
        yield from without_slurm(arguments)
    else:
        yield from examine_cluster(runs_dir, resources, save_s, arguments, storage_works=storage)


def without_slurm(arguments: argparse.Namespace) -> Iterator:
    from jetmae.doctor.verdict import failed, ok

    if arguments.job:
        todo = "load Slurm's module, or leave out --job and --cluster local"
        yield failed("Slurm", "no sbatch on PATH, or --cluster local", "no job can be submitted", todo)
    else:
        yield ok("Slurm", "not used: runs are processes of this machine")


def checkpoint_bytes(arguments: argparse.Namespace) -> int:
    return int(arguments.million_parameters * 1e6 * BYTES_PER_PARAMETER)


def examine_storage(runs_dir: Path, resources, arguments: argparse.Namespace) -> Iterator:
    """Yields verdicts; returns whether the folder can be used, and the seconds a save takes from here."""
    from jetmae.doctor import machine, storage
    from jetmae.doctor.verdict import has_failed

    size_bytes, nodes = checkpoint_bytes(arguments), resources.nodes if resources else 1
    ranks = nodes * resources.tasks_per_node if resources else 1
    verdicts, save_s = [], None
    for verdict in storage.check_storage(
        runs_dir, checkpoint_bytes=size_bytes, num_checkpoints=arguments.checkpoints, nodes=nodes, ranks=ranks
    ):
        yield verdict
        verdicts.append(verdict)
    if not has_failed(verdicts[:1]):
        speed, save_s = storage.measure_save(runs_dir, size_bytes)
        yield speed
        verdicts.append(speed)
        yield machine.check_hdf5_locking(machine.hdf5_locking_setting(), locks_work=storage.flock_works(runs_dir))
    return not has_failed(verdicts[:1]), save_s


def examine_cluster(
    runs_dir: Path, resources, save_s: float | None, arguments: argparse.Namespace, *, storage_works: bool
) -> Iterator:
    """Slurm's commands, its configuration against the request, its own opinion, and the job."""
    from jetmae.doctor import cluster, machine
    from jetmae.doctor.verdict import failed, has_failed, warning
    from jetmae.launch import submission
    from jetmae.slurm import cluster_facts as slurm_facts

    verdicts = list(machine.check_slurm())
    yield from verdicts
    facts = None if has_failed(verdicts) else slurm_facts.ask_cluster()
    if facts is None:
        yield failed("cluster", "not examined", "Slurm does not answer from here", "mend what failed above first")
        return
    request = submission.request_of(resources)
    yield from cluster.check_cluster(request, facts, save_s)
    try:
        script = submission.script([runs_dir], resources, name="doctor")
    except JetmaeError as error:
        accepted = failed("sbatch script", str(error), "launch.py refuses the run", "another --runs-dir")
    else:
        accepted = cluster.check_submission(*cluster.ask_sbatch(script))
    yield accepted
    if arguments.job and storage_works and not has_failed([accepted]):
        yield from examine_job(runs_dir, resources, warned_s(request, facts), arguments)
    elif arguments.job:
        yield warning("job", "not submitted", "it could not run", "mend what failed above first")


def warned_s(request, facts) -> dict[str, float]:
    """The times, by their names, in which a save must fit; where there is none at all, that has been said."""
    from jetmae.doctor import cluster

    times, qos = {"lead time": float(request.lead_time_s)}, cluster.qos_of(request, facts)
    for name in cluster.partitions_asked(request, facts):
        partition = facts.partitions.get(name)
        if partition and cluster.preempt_mode(partition, facts, qos) != "OFF":
            times[f"GraceTime of {name}"] = cluster.grace_s(partition, facts, qos)
    return {name: time_s for name, time_s in times.items() if time_s}


def examine_job(runs_dir: Path, resources, warned_s: dict[str, float], arguments: argparse.Namespace) -> Iterator:
    """Submit, wait, judge. The folder stays if anything failed: the logs are in it."""
    from jetmae.doctor.job import await_job
    from jetmae.doctor.ranks import Ask
    from jetmae.doctor.results import judge
    from jetmae.doctor.verdict import has_failed
    from jetmae.files import make_folder
    from jetmae.slurm.job import ask

    folder = make_folder(runs_dir / f".doctor-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    ranks = resources.nodes * resources.tasks_per_node
    data = str(arguments.data.resolve()) if arguments.data else None
    asked = Ask(ranks, resources.gpus_per_node, checkpoint_bytes(arguments), JOB_WAIT_S, data)
    asked.write(folder)
    job = submit(folder, resources)
    say(f"job {job} submitted: {ranks} rank(s) on {resources.nodes} node(s)")
    try:
        outcome = await_job(job, folder, ranks=ranks, wait_s=arguments.wait_min * 60, say=say)
    except BaseException:  # Ctrl-C too: nobody waits for this job any more
        ask("scancel", job)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    verdicts = list(judge(outcome, asked, warned_s=warned_s))
    yield from verdicts
    if has_failed(verdicts):
        say(f"logs and results of the job: {folder}")
    else:
        shutil.rmtree(folder)


def submit(folder: Path, resources) -> str:
    """The short job, with the request's resources but for its time; preempted, it does not come back.

    Raises:
        JetmaeError: sbatch refused.
    """
    from submitit.core.utils import FailedJobError

    from jetmae.launch import submission
    from jetmae.launch.train_job import CommandJob

    time_min = min(resources.time_min, JOB_TIME_MIN)
    short = resources.model_copy(update={"time_min": time_min, "lead_time_s": JOB_LEAD_TIME_S})
    executor = submission.executor_for([folder], short, name="doctor", supervised=False)
    options = {key: value for key, value in executor.parameters["additional_parameters"].items() if key != "requeue"}
    # Other than in training, a rank that is lost must not take the others with it before they have told their part.
    executor.update_parameters(additional_parameters={**options, "no-requeue": True}, srun_args=["--wait=0"])
    try:
        return executor.submit(CommandJob([sys.executable, "-m", "jetmae.doctor.ranks", str(folder)])).job_id
    except FailedJobError as error:
        raise JetmaeError(f"sbatch refused doctor's job: {str(error).strip().splitlines()[-1]}") from None


def say(text: str) -> None:
    """Progress, kept apart from the verdicts."""
    print(text, file=sys.stderr, flush=True)


def make_printer() -> Callable:
    """Verdicts as lines for people."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    styles = {"ok": "green", "warning": "yellow", "FAILED": "bold red"}

    def show(verdict) -> None:
        console.print(
            Text.assemble((f"{verdict.level:8}", styles[verdict.level]), f"{verdict.name:24} {verdict.found}")
        )
        if verdict.level != "ok":
            for word, text in (("means", verdict.meaning), ("do", verdict.todo)):
                console.print(Text(f"{'':8}{word + ':':6} {text}"))

    return show


def print_as_json(verdict) -> None:
    from dataclasses import asdict

    print(json.dumps(asdict(verdict)), flush=True)


def summary(verdicts: list) -> str:
    count = {level: sum(verdict.level == level for verdict in verdicts) for level in ("ok", "warning", "FAILED")}
    return f"{count['ok']} ok, {count['warning']} warning(s), {count['FAILED']} failed"


if __name__ == "__main__":
    exit_with_one_line(main)
