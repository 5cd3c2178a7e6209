"""doctor: all verdicts, as lines for people or as JSON."""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from jetmae.cli.commands.resources import resources_of
from jetmae.doctor.examination import Examination, examine
from jetmae.doctor.verdict import Verdict, exit_code
from jetmae.launch.layout import site_of
from jetmae.run_folder import runs_folder

BYTES_PER_PARAMETER = 16  # of a checkpoint: weights 4, AdamW's two moments 8, moving average 4
STYLES = {"ok": "green", "warning": "yellow", "FAILED": "bold red"}


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 if nothing failed."""
    on_slurm = site_of(arguments.cluster) != "local"
    asked = Examination(
        runs_folder(arguments.runs_dir).resolve(),
        resources_of(arguments, os.environ) if on_slurm else None,  # a misspelt option ends here
        checkpoint_bytes=int(arguments.million_parameters * 1e6 * BYTES_PER_PARAMETER),
        num_checkpoints=arguments.checkpoints,
        data=arguments.data,
        submits_job=arguments.job,
        job_wait_s=arguments.wait_min * 60,
    )
    show = print_as_json if arguments.json else make_printer()
    verdicts = []
    for verdict in examine(asked):
        show(verdict)
        verdicts.append(verdict)
    if not arguments.json:
        print(summary(verdicts))
    return exit_code(verdicts)


def make_printer() -> Callable[[Verdict], None]:
    """Verdicts as lines for people."""
    console = Console(highlight=False, soft_wrap=True)

    def show(verdict: Verdict) -> None:
        level = (f"{verdict.level:8}", STYLES[verdict.level])
        console.print(Text.assemble(level, f"{verdict.name:24} {verdict.found}"))
        if verdict.level != "ok":
            for word, text in (("means", verdict.meaning), ("do", verdict.todo)):
                console.print(Text(f"{'':8}{word + ':':6} {text}"))

    return show


def print_as_json(verdict: Verdict) -> None:
    """One object a line."""
    print(json.dumps(asdict(verdict)), flush=True)


def summary(verdicts: list[Verdict]) -> str:
    """How many of each level."""
    count = {level: sum(verdict.level == level for verdict in verdicts) for level in STYLES}
    return f"{count['ok']} ok, {count['warning']} warning(s), {count['FAILED']} failed"
