"""On what terms this job was submitted, against what training counts on. Standard library only.

A script of ours asks to come back and to be warned. But options of sbatch and its variables come before a script's
lines, and then a run is not what its pages promise. The job is not changed by it; it is said when it starts.
"""

import os
import re
import shlex
import time
from collections.abc import Iterator
from itertools import pairwise

from jetmae.slurm.command import ask
from jetmae.slurm.job import job_facts, lead_time_s

SIGNAL = re.compile(r"(?P<shell>[BR]{1,2}:)?(?P<name>\w+)(?:@(?P<seconds>\d+))?")
SUCCESSORS = "JETMAE_SUCCESSORS"  # set where later starts were submitted with this one (launch/successors.py)
USR2 = {"USR2", "SIGUSR2", "12"}
DEFAULT_SECONDS = 60  # of --signal
ACCOUNTING_DELAY_S = 5.0
POLL_S = 0.5


def broken_terms(job: str) -> list[str]:
    """What this job lacks of what training counts on, one line each; nothing if Slurm does not answer."""
    facts = job_facts(job)
    if not facts:
        return []
    return [*_without_requeue(facts), *_other_signal(asked_signal(job), lead_time_s())]


def _without_requeue(facts: dict[str, str]) -> Iterator[str]:
    if facts.get("Requeue") == "0" and not os.environ.get(SUCCESSORS):
        yield "the job was submitted with --no-requeue: it does not come back by itself after a stop"


def _other_signal(asked: str | None, lead_s: float) -> Iterator[str]:
    """Against `--signal=USR2@LEAD`, the lead as this job's environment has it."""
    wanted = f"expected --signal=USR2@{lead_s:g}, by JETMAE_LEAD_TIME_S"
    found = SIGNAL.fullmatch(asked) if asked else None
    if found is None:
        yield f"the job has no --signal: its time limit comes without a warning, and nothing is saved; {wanted}"
    elif "B" in (found["shell"] or ""):
        yield f"the job has --signal={asked}: its ranks get no warning, and nothing is saved; {wanted}"
    elif found["name"].upper() not in USR2:
        yield f"the job has --signal={asked}: its ranks do not heed that signal, and may die of it; {wanted}"
    elif float(found["seconds"] or DEFAULT_SECONDS) != lead_s:
        yield f"the job has --signal={asked}: a time limit may be taken for a preemption; {wanted}"


def asked_signal(job: str) -> str | None:
    """The --signal of a job, read as sbatch has read it, because Slurm shows it nowhere.

    What was typed comes first (the site's accounting keeps it), then the variable, then the script.
    """
    typed = _typed(job)
    script = ask("scontrol", "write", "batch_script", job, "-") or ""
    lines = "\n".join(re.findall(r"^#SBATCH\s+(.*)$", script, flags=re.MULTILINE))
    return _option(typed) or os.environ.get("SBATCH_SIGNAL") or _option(lines)


def _typed(job: str) -> str:
    """The command that submitted the job. Accounting hears of a job a little later than the job begins."""
    until_s = time.monotonic() + ACCOUNTING_DELAY_S
    while True:
        answer = ask("sacct", "-X", "--noheader", "--parsable2", "--format=SubmitLine", "--jobs", job)
        if answer is None or answer or time.monotonic() > until_s:  # None: this site has no accounting
            return (answer or "").strip().rpartition("\n")[2]
        time.sleep(POLL_S)


def _option(line: str) -> str | None:
    """The value of the last --signal among options of sbatch."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a quotation mark that is not closed: nothing can be said of it
        return None
    values = [word.partition("=")[2] for word in words if word.startswith("--signal=")]
    values += [value for word, value in pairwise(words) if word == "--signal"]
    return values[-1] if values else None
