"""Doctor's short job, seen from where it was submitted: wait for its end, and collect what its ranks have written."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jetmae.doctor.ranks import Found, ranks_listed, result_path
from jetmae.slurm.command import ask
from jetmae.slurm.job import job_facts

POLL_S = 1.0
SAY_EVERY_S = 10.0
UNANSWERED = 5  # questions in a row, after which a job counts as forgotten
VISIBLE_AFTER_S = 5.0  # what a file may take from a node to here
UNDER_WAY = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "RESIZING", "STOPPED")
LOG_LINES = 3


@dataclass(frozen=True)
class Outcome:
    """How the job ended (empty: not within the wait), what each rank has written, and where each was to run."""

    state: str
    reason: str
    results: dict[int, Found]
    nodes: list[str]  # of each rank; empty if the job never had nodes
    log_tails: dict[int, str]  # of ranks without a whole result


def await_job(job: str, folder: Path, *, ranks: int, wait_s: float, say: Callable[[str], None]) -> Outcome:
    """Wait, cancel the job if that takes too long, and read the results."""
    facts = _await_end(job, folder, ranks=ranks, wait_s=wait_s, say=say)
    state = facts.get("JobState", "UNKNOWN")
    if state in UNDER_WAY:
        ask("scancel", job)
        state = ""
    results = _await_results(folder, ranks) if "NodeList" in facts else {}
    unfinished = [rank for rank in range(ranks) if results.get(rank, {}).get("stage") != "done"]
    tails = {rank: log_tail(folder / "logs" / f"{job}_{rank}_log.out") for rank in unfinished}
    return Outcome(state, facts.get("Reason", "unknown"), results, nodes_of_ranks(facts, ranks), tails)


def _await_end(job: str, folder: Path, *, ranks: int, wait_s: float, say: Callable[[str], None]) -> dict[str, str]:
    """The job's facts when it has ended, or when the wait is over."""
    begun_s = said_s = time.monotonic()
    facts: dict[str, str] = {}
    unanswered = 0
    while unanswered < UNANSWERED and time.monotonic() - begun_s < wait_s:
        answer = job_facts(job)
        unanswered, facts = (0, answer) if answer else (unanswered + 1, facts)
        if facts and facts["JobState"] not in UNDER_WAY:
            break
        if time.monotonic() - said_s > SAY_EVERY_S:
            said_s = time.monotonic()
            say(f"job {job} {_progress(facts, folder, ranks)}, {said_s - begun_s:.0f} s")
        time.sleep(POLL_S)
    return facts


def _progress(facts: dict[str, str], folder: Path, ranks: int) -> str:
    state = facts.get("JobState", "not known yet")
    if state == "PENDING":
        return f"PENDING ({facts.get('Reason')})"
    return f"{state}: {len(ranks_listed(folder))} of {ranks} ranks came"


def _await_results(folder: Path, ranks: int) -> dict[int, Found]:
    """What the ranks have written; shared storage may show it a little later here than there."""
    until_s = time.monotonic() + VISIBLE_AFTER_S
    while True:
        results = read_results(folder)
        num_whole = sum(found["stage"] == "done" or "error" in found for found in results.values())
        if num_whole == ranks or time.monotonic() > until_s:
            return results
        time.sleep(POLL_S / 4)


def read_results(folder: Path) -> dict[int, Found]:
    listed = sorted(ranks_listed(folder).items())
    return {rank: json.loads(result_path(folder, rank, node).read_text(encoding="utf-8")) for rank, node in listed}


def nodes_of_ranks(facts: dict[str, str], ranks: int) -> list[str]:
    """The node of each rank: Slurm fills one node after the other, all with the same number."""
    names = ask("scontrol", "show", "hostnames", facts.get("NodeList", ""))
    nodes = names.split() if names else []
    return [nodes[rank * len(nodes) // ranks] for rank in range(ranks)] if nodes else []


def log_tail(log: Path) -> str:
    """The last words of a rank, on one line."""
    if not log.exists():
        return f"no log {log.name}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-LOG_LINES:]) or "empty log"
