"""The lines that a run leaves in its folder, for tests that read them."""

import json
import socket
from collections.abc import Iterable
from pathlib import Path

from jetmae.records.attempts import parse_attempts
from jetmae.records.metrics import parse_train_lines
from jetmae.records.timeline import parse_timeline
from jetmae.watch import ledger


def start(attempt: int, time_s: float, **more: object) -> dict:
    hosts = [socket.gethostname()]
    return {"event": "start", "attempt": attempt, "job_id": "7", "world_size": 2, "hosts": hosts, "time_s": time_s,
            **more}  # fmt: skip


def end(attempt: int, time_s: float, cause: str, **more: object) -> dict:
    return {**start(attempt, time_s), "event": "end", "cause": cause, "message": None, **more}


def steps(attempt: int, first: int, last: int, *, at_s: float, pace_s: float = 1.0) -> list[dict]:
    """Train lines of the steps first..last, the first one at `at_s`."""
    return [
        {"split": "train", "step": step, "samples": 80 * pace_s * step, "loss": 1 / step, "jets_per_s": 80.0,
         "attempt": attempt, "time_s": at_s + (step - first) * pace_s}
        for step in range(first, last + 1)
    ]  # fmt: skip


def restore(attempt: int, step: int, time_s: float, duration_s: float) -> dict:
    return {"event": "restore", "attempt": attempt, "step": step, "duration_s": duration_s, "time_s": time_s}


def save(attempt: int, step: int, begin_s: float, *, stall_s: float, write_s: float) -> dict:
    return {"event": "save", "attempt": attempt, "step": step, "stall_s": stall_s, "write_s": write_s, "bytes": 1,
            "outcome": "committed", "time_s": begin_s + write_s}  # fmt: skip


def write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_ledger(
    attempts: Iterable[dict], metrics: Iterable[dict], timeline: Iterable[dict] = (), **more: object
) -> ledger.Ledger:
    """The ledger of a run that has left these lines."""
    return ledger.make_ledger(parse_attempts(attempts), parse_train_lines(metrics), parse_timeline(timeline), **more)
