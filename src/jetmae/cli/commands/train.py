"""pretrain, finetune, scratch, probe and chain: check everything, freeze the run folders, start."""

import argparse

from jetmae.cli.commands.resources import layout_of
from jetmae.command_line import typed
from jetmae.config import as_yaml
from jetmae.doctor import cluster, verdict
from jetmae.errors import JetmaeError
from jetmae.launch import start, submission
from jetmae.launch.code_choice import Choice, give_code
from jetmae.launch.freeze import check_same_experiment, freeze
from jetmae.launch.layout import Layout
from jetmae.launch.resources import Resources, request_of
from jetmae.launch.stages import Stage, Wanted, check_stages, stages_of
from jetmae.run_folder import runs_folder
from jetmae.slurm import cluster_facts


def run(arguments: argparse.Namespace) -> int:
    """What was typed is checked as a whole before anything is written."""
    layout = layout_of(arguments)
    if arguments.task == "chain" and layout.resources and layout.resources.no_requeue:
        raise JetmaeError("chain --no-requeue: a stage cannot wait for a run that may stop and go on in another job;"
                          " give the tasks one after the other, each with --no-requeue")  # fmt: skip
    runs_dir = runs_folder(arguments.runs_dir)
    wanted = Wanted(arguments.config, arguments.overrides, arguments.name, arguments.array, runs_dir)
    stages = stages_of(arguments.task, wanted)
    check_stages(stages, layout)
    if arguments.dry_run:
        return print_dry_run(stages, layout)
    freeze_all(stages, choice_of(arguments))
    if arguments.freeze:
        print(*(member.run.root for stage in stages for member in stage.members), sep="\n")
        return 0
    is_chain = arguments.task == "chain"
    if layout.resources is None:
        return start.train_here(stages, layout, report=is_chain, at_once=arguments.parallel or 1)
    warn_of_the_cluster(layout.resources)
    start.submit(stages, layout, layout.resources, report=is_chain)
    print_next_steps(stages)
    return 0


def choice_of(arguments: argparse.Namespace) -> Choice:
    """What the options say about the code."""
    if arguments.refresh_code:
        return Choice.REFRESH
    return Choice.LIVE if arguments.live_code else Choice.KEEP


def freeze_all(stages: list[Stage], choice: Choice) -> None:
    """Code and configuration of all runs. The configuration comes last: who has one has been given code before."""
    members = [member for stage in stages for member in stage.members]
    for member in members:
        check_same_experiment(member.experiment, member.run)
    if choice is not Choice.KEEP:
        start.refuse_queued(stages, "--refresh-code" if choice is Choice.REFRESH else "--live-code")
    give_code([member.run for member in members], choice)
    for member in members:
        freeze(member.experiment, member.run)


def print_dry_run(stages: list[Stage], layout: Layout) -> int:
    """The resolved configuration of every run, and the exact sbatch script of every job."""
    for stage in stages:
        for member in stage.members:
            print(f"# run folder: {member.run.root}\n# ranks: {layout.num_ranks(member.experiment)}")
            print(as_yaml(member.experiment))
        if layout.resources is not None:
            roots = [member.run.root for member in stage.members]
            for together in [[root] for root in roots] if layout.resources.no_requeue else [roots]:
                print(submission.script(together, layout.resources, name=together[0].name))
    return 0


def warn_of_the_cluster(resources: Resources) -> None:
    """What doctor would find in Slurm's configuration, if it is not well: a preemption without a warning, say."""
    facts = cluster_facts.ask_cluster()
    for found in cluster.check_cluster(request_of(resources), facts, None) if facts else ():
        if found.level != verdict.OK:
            print(f"{found.level}: {found.name}: {found.found}: {found.meaning}; {found.todo}")


def print_next_steps(stages: list[Stage]) -> None:
    """Commands to type while the jobs wait and train."""
    first = stages[0].members[0].run.root
    folder = first if len(stages) == 1 else start.chain_folder(stages)
    print(f"  how far:  {typed('runs status', folder)}")
    print(f"  output:   {typed('runs logs', first, '-f')}")
    print(f"  curves:   {typed('runs tensorboard', folder)}")
    print(f"  compare:  {typed('runs report', folder)}")
