"""A study as a whole: its folder, its phases, and what is said at the end.

    protocol.yaml    the resolved protocol
    choices.json     of a label study: what the search found (studies/choices.py)
    launch.json      on Slurm: the job that goes on with the study when the jobs before it are complete
    report/

The runs of a phase may depend on the results of the one before. So a phase is listed when that is complete, and the
same command takes the next one. What is complete is left as it is.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jetmae.launch.stages import Stage
from jetmae.studies.candidates import candidates
from jetmae.studies.choices import choose
from jetmae.studies.label_runs import first_stages, last_stages, trials, untried
from jetmae.studies.protocol import SEARCHED, LabelProtocol, Protocol
from jetmae.studies.recipe_runs import recipe_stages

PROTOCOL = "protocol.yaml"


def planned_stages(protocol: Protocol, root: Path) -> list[Stage]:
    """All stages, before anything is known of the search: with the settings that are tried first."""
    if isinstance(protocol, LabelProtocol):
        return [*first_stages(protocol, root), *last_stages(protocol, root, untried(protocol))]
    return recipe_stages(protocol, root)


def phases(protocol: Protocol, root: Path) -> Iterator[list[Stage]]:
    """The stages of each phase. A phase may be asked for when the one before is complete.

    Raises:
        JetmaeError: the results of the phase before cannot be read.
    """
    if isinstance(protocol, LabelProtocol):
        yield first_stages(protocol, root)
        yield last_stages(protocol, root, choose(trials(protocol), root))
    else:
        yield recipe_stages(protocol, root)


def incomplete(stages: list[Stage]) -> list[Stage]:
    """The runs that are not complete; stages without one are left out."""
    left = [
        replace(stage, members=[member for member in stage.members if not member.run.completed.exists()])
        for stage in stages
    ]
    return [stage for stage in left if stage.members]


def described(protocol: Protocol, stages: list[Stage]) -> str:
    """How many runs each stage has, and what a search tries."""
    lines = [f"{len(stage.members):5d} runs  {stage.name}" for stage in stages]
    lines.append(f"{sum(len(stage.members) for stage in stages):5d} runs  in all")
    if isinstance(protocol, LabelProtocol):
        for method in (name for name in protocol.methods if name in SEARCHED):
            tried = enumerate(candidates(method, protocol.search))
            lines += [f"{method}: candidate {number}: {settings}" for number, settings in tried]
    return "\n".join(lines)
