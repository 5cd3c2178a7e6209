"""study labels, targets and masks: one protocol becomes runs, and the runs a report."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from jetmae.cli.commands.resources import layout_of
from jetmae.cli.commands.train import choice_of, freeze_all, warn_of_the_cluster
from jetmae.command_line import typed
from jetmae.errors import JetmaeError
from jetmae.launch import start, submission
from jetmae.launch.layout import Layout, site_of
from jetmae.launch.resources import Resources, after
from jetmae.launch.stages import Stage, check_stages
from jetmae.records.launch import read_launch, write_launch
from jetmae.run_folder import RunFolder, new_run, runs_folder
from jetmae.slurm.job import job_id
from jetmae.studies.protocol import LabelProtocol, Protocol, keep_protocol, load_protocol
from jetmae.studies.recipe_table import recipe_rows, write_table
from jetmae.studies.study import PROTOCOL, described, incomplete, phases, planned_stages


def run(arguments: argparse.Namespace) -> int:
    """Everything that can be known before is checked before anything is written."""
    layout = layout_of(arguments)
    protocol = load_protocol(arguments.kind, arguments.config or arguments.kind, arguments.overrides)
    root = new_run(arguments.name or f"study-{arguments.kind}", runs_folder(arguments.runs_dir)).root
    planned = planned_stages(protocol, root)
    check_stages(planned, layout)
    if arguments.dry_run:
        print(f"# study folder: {root}\n{described(protocol, planned)}")
        return 0
    refuse_second(root, layout)
    keep_protocol(protocol, root / PROTOCOL)
    return go_on(arguments, protocol, root, layout)


def go_on(arguments: argparse.Namespace, protocol: Protocol, root: Path, layout: Layout) -> int:
    """Take the phases one after the other; on Slurm, the first that is not complete."""
    known: list[Stage] = []
    stages: list[Stage] = []
    for stages in phases(protocol, root):
        known += stages
        missing = incomplete(stages)
        if not missing:
            continue
        freeze_all(known, choice_of(arguments))  # all of them, so that new runs get the code of those before
        if layout.resources is not None:
            submit_phase(arguments, root, stages, layout, layout.resources)
            return 0
        if code := start.train_here(missing, layout, report=False, at_once=arguments.parallel or 1):
            return code
    return finish(protocol, root, stages)


def finish(protocol: Protocol, root: Path, stages: list[Stage]) -> int:
    """The report of all runs of the last phase, or the table of recipes."""
    if isinstance(protocol, LabelProtocol):
        return start.make_report(stages, root)
    table = write_table(recipe_rows(protocol, root), root / "report")
    print(table.read_text(encoding="utf-8"), end="")
    print(f"table: {table}")
    return 0


# -- on Slurm ----------------------------------------------------------------------------------------------------------


def refuse_second(root: Path, layout: Layout) -> None:
    """A study that goes on by itself is not taken in hand a second time.

    Raises:
        JetmaeError: its job is queued or running.
    """
    job = start.live_job(RunFolder(root)) if layout.resources is not None else None
    if job is not None and job != job_id():
        raise JetmaeError(f"{root} goes on by itself in job {job}, queued or running: scancel {job}, or wait")


def submit_phase(
    arguments: argparse.Namespace, root: Path, stages: list[Stage], layout: Layout, resources: Resources
) -> None:
    """Submit the runs of a phase, and a job that gives the command again when they are complete."""
    warn_of_the_cluster(resources)
    jobs = start.submit_stages(stages, layout, resources)
    command = [sys.executable, "-m", "jetmae", *same_command(arguments, root)]
    first = start.first_run(stages).root
    job = submission.submit_command(command, root, after(resources, jobs), code_of=first, name=f"{root.name}-goes-on")
    record = RunFolder(root).launch
    write_launch(record, replace(read_launch(record), command=command, job_id=job))
    print(f"job {job} goes on with the study when these are complete; if it cannot, the same command does")
    print(f"  how far:  {typed('runs list', '--runs-dir', root)}")


def same_command(arguments: argparse.Namespace, root: Path) -> list[str]:
    """What was typed, with what a job could understand otherwise written out."""
    runs_dir = runs_folder(arguments.runs_dir).resolve()
    name = str(root.relative_to(runs_dir))
    place = ["--name", name, "--runs-dir", str(runs_dir), "--cluster", site_of(arguments.cluster)]
    return [*arguments.words, "--config", str(root / PROTOCOL), *place]
