"""Which code a run runs: that in its own folder, or the live one.

A run is given its code when it is launched first (launch/code_choice.py). Everything that works for the run alone is
started from there: its ranks, their watchdogs, the supervisor, and what submitit unpickles. What a person types is
always the live code.

Standard library only: the batch shell and each rank need it before anything else.
"""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from jetmae.errors import JetmaeError
from jetmae.files import refresh
from jetmae.launch.snapshot import PACKAGE, problem_of
from jetmae.records.launch import CodeRecord, readable_launch
from jetmae.run_folder import RunFolder

ENTERED = "JETMAE_CODE"  # the code that a rank has changed to, so that it does not try for ever
ALONE = {
    "PYTHONSAFEPATH": "1",  # a jetmae/ in the working directory does not come first
    "PYTHONDONTWRITEBYTECODE": "1",  # nothing is added to the frozen code
}


def is_frozen(run: RunFolder, code: CodeRecord | None) -> bool:
    """Whether the run has code of its own, whole or not. `code` is what launch.json says of it."""
    return run.code.exists() if code is None else code.frozen


def check_code(run: RunFolder) -> None:
    """Refuse a run whose own code is not whole.

    Raises:
        JetmaeError: it is damaged, or a part of it is missing.
    """
    code = readable_launch(run.launch).newest_code
    if is_frozen(run, code) and (problem := problem_of(run.code, code.digest if code else None)):
        raise JetmaeError(
            f"{run.code} is damaged ({problem}): expected the code that was frozen with the run; restore it, or launch"
            " again with --refresh-code to take today's"
        )


def code_environment(run: RunFolder, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the run's own code in front of all other; unchanged if that is missing or damaged."""
    if problem_of(run.code):
        return dict(environment)
    others = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**environment, "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(run.code.resolve()), *others])), **ALONE}


def code_in_shell(run_dirs: list[Path]) -> list[str]:
    """Lines of a batch script that do what `code_environment` does, for the run of this element of an array.

    If the code is not whole nothing is set, and the ranks, of the live code then, refuse in one line.
    """
    runs = shlex.join(map(str, run_dirs))
    element = "${SLURM_ARRAY_TASK_ID:-0}" if len(run_dirs) > 1 else "0"
    alone = " ".join(f"{name}={value}" for name, value in ALONE.items())
    return [
        f"runs=({runs}); code=${{runs[{element}]}}/code  # the run's own code, if it is whole",
        'if (cd -- "$code" && sha256sum --check --status SHA256SUMS) 2>/dev/null; then',
        f'    export PYTHONPATH="$code${{PYTHONPATH:+:$PYTHONPATH}}" {alone}',
        "fi",
    ]


def enter_own_code(run: RunFolder) -> None:
    """For a rank: become the same rank of the run's own code. Returns if it is that already, or if the run has none.

    Raises:
        JetmaeError: the run's own code is damaged, or Python does not import it.
    """
    code = readable_launch(run.launch).newest_code
    if not is_frozen(run, code):
        return
    if run.code.name not in os.listdir(run.root):
        refresh(run.root)  # shared storage may not show yet what another node has just made
    check_code(run)
    if PACKAGE.parent == run.code.resolve():
        return
    if os.environ.get(ENTERED) == str(run.code):
        raise JetmaeError(
            f"Python imports jetmae from {PACKAGE.parent} although PYTHONPATH begins with {run.code}: expected the"
            " run's own code; find what changes sys.path at Python's start, or launch again with --live-code"
        )
    environment = {**code_environment(run, os.environ), ENTERED: str(run.code)}
    os.execve(sys.executable, [sys.executable, "-m", "jetmae.rank", *sys.argv[1:]], environment)


def described_code(run: RunFolder) -> str:
    """For the log of a start: which code it runs."""
    codes = readable_launch(run.launch).code
    if not codes or not codes[-1].frozen:
        return f"live code of {PACKAGE}"
    before = f", before that {codes[-2].described}" if len(codes) > 1 else ""
    return f"frozen code {codes[-1].described}{before}"
