"""Slurm's programs: the one place that runs them. Standard library only.

Every question has a time limit, and most callers go on without an answer: a busy controller must not delay a
checkpoint.
"""

import re
import shlex
import subprocess
from dataclasses import dataclass

from jetmae.errors import JetmaeError
from jetmae.slurm.environment import plain_environment

QUESTION_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 60.0
STANDARD_TIMES, EPOCH_TIMES = "standard", "%s"  # ISO 8601, seconds since 1970
SILENCE = (  # what Slurm's programs say when nobody answers them
    "unable to contact",
    "timed out",
    "connect failure",
    "connection refused",
    "communication",
    "zero bytes",
    "not connected",
    "temporarily",
    "standby mode",
    "unexpected message",
    "could not establish",
)


@dataclass(frozen=True)
class Answer:
    """What a program of Slurm said. `code` is None if it did not end in time, or could not be started."""

    code: int | None
    output: str = ""
    error: str = ""

    @property
    def is_refusal(self) -> bool:
        """Slurm has said no: to ask again changes nothing."""
        return self.code not in (0, None) and not any(words in self.error.lower() for words in SILENCE)

    @property
    def reason(self) -> str:
        """The error in one line, without the name of the program in front."""
        lines = [line.strip() for line in self.error.splitlines() if line.strip()]
        return re.sub(r"^(\w+: )?((error|fatal): )?", "", lines[-1]) if lines else f"exit code {self.code}"


def answer_of(
    *command: str, stdin: str = "", timeout_s: float = QUESTION_TIMEOUT_S, times: str = STANDARD_TIMES
) -> Answer:
    """Run a program of Slurm in our environment."""
    environment = {**plain_environment(), "SLURM_TIME_FORMAT": times}
    try:
        finished = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(None, error=str(error))
    return Answer(finished.returncode, finished.stdout, finished.stderr)


def ask(*command: str, times: str = STANDARD_TIMES) -> str | None:
    """What a Slurm command prints, or None if it fails or does not answer in time."""
    answer = answer_of(*command, times=times)
    return answer.output if answer.code == 0 else None


def tell(*command: str) -> None:
    """A Slurm command that has to succeed.

    Raises:
        JetmaeError: with what it said.
    """
    answer = answer_of(*command, timeout_s=COMMAND_TIMEOUT_S)
    if answer.code is None:
        raise JetmaeError(f"{shlex.join(command)}: {answer.error}; try again where Slurm answers")
    if answer.code:
        raise JetmaeError(f"{shlex.join(command)} was refused: {answer.error.strip()}; see squeue --me")
