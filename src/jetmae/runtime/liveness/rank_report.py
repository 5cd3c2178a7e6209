"""The report of a rank that fails: in which phase it was, and why. If the rank cannot write it, its watchdog does.

    logs/cause-START-rank-1.txt      this rank failed by itself
    logs/followed-START-rank-0.txt   it failed because another rank did: it was left alone in a collective

START is the token of the start (runtime/rendezvous.py). The first line is the message for attempts.jsonl, the stacks
are below it. Errors on which the ranks agree (World.agree) need no report: rank 0 writes them into attempts.jsonl.

Which rank is to blame follows from the innermost Python frame: a rank in a collective waits for another one. Times are
not compared, because the clocks of different nodes disagree. On GPUs this is less certain: collectives run there while
Python goes on, and several ranks may report themselves as the cause.
"""

import fnmatch
import os
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jetmae.errors import JetmaeError
from jetmae.files import write_text
from jetmae.runtime.liveness.phases import END, current_phase, enter_phase

CAUSE, FOLLOWED = "cause", "followed"
AGREEMENT = "/jetmae/runtime/world.py"
WAITING = ("/torch/distributed/", "/torch/cuda/", AGREEMENT, "/jetmae/runtime/rendezvous.py")
MAX_CHARACTERS = 600  # of a message
VISIBLE_AFTER_S = 3.0  # a watchdog writes at once; shared storage shows it later
POLL_S = 0.1


@dataclass(frozen=True)
class RankReport:
    """The report of one rank of a start, and where it goes."""

    logs: Path
    start: str
    rank: int

    def __str__(self) -> str:
        return f"rank {self.rank} on {os.uname().nodename}"

    def path(self, kind: str) -> Path:
        return self.logs / f"{kind}-{self.start}-rank-{self.rank}.txt"

    def write(self, kind: str, message: str, stacks: str) -> None:
        """Write the whole report or nothing. `kind` is CAUSE or FOLLOWED.

        Raises:
            OSError: it cannot be written.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        write_text(self.path(kind), f"{one_line(message)}\n\n{stacks}")


def this_rank(logs: Path) -> RankReport:
    return RankReport(logs, os.environ.get("JETMAE_START", "start"), int(os.environ.get("RANK", "0")))


@contextmanager
def reporting_failure(logs: Path) -> Iterator[None]:
    """Report it if the rank fails in this context; afterwards the rank is in its last phase."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not (isinstance(error, JetmaeError) and AGREEMENT in frames[-1].filename):
            kind, report = FOLLOWED if is_waiting(frames[-1].filename) else CAUSE, this_rank(logs)
            with suppress(OSError):  # a full disk must not hide the error itself
                message = f"{report} in {current_phase()}: {type(error).__name__}: {error}"
                report.write(kind, message, "".join(traceback.format_exception(error)))
        raise
    finally:
        enter_phase(END)


def is_waiting(file: str) -> bool:
    """Whether a rank whose innermost Python frame is in this file waits for other ranks."""
    return any(part in file for part in WAITING)


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 1] + "…"


def read_report(logs: Path, kind: str, start: str) -> str | None:
    """The message of the first rank of a start that has a report of this kind; None if none has.

    `start` may hold wildcards. The folder is listed, because shared storage may hide a new name from whoever asks for
    it.
    """
    try:
        names = fnmatch.filter(os.listdir(logs), f"{kind}-{start}-rank-*.txt")
        first, *others = sorted(names, key=lambda name: int(re.findall(r"\d+", name)[-1]))
        line = (logs / first).read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except (OSError, ValueError):  # ValueError: there is no report
        return None
    return line if not others else f"{line} (and {len(others)} more: {logs}/{kind}-{start}-*)"


def await_cause(logs: Path, start: str) -> str | None:
    """The message of the rank that caused the end of a start. Its report may become visible a little later."""
    deadline_s = time.monotonic() + VISIBLE_AFTER_S
    while (message := read_report(logs, CAUSE, start)) is None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return message
