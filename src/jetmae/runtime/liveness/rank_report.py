"""What a rank says before it ends badly, or its watchdog for it: where it was, and why.

    logs/cause-START-rank-1.txt      this rank ended of itself
    logs/followed-START-rank-0.txt   it ended because another one did: its peers had left it alone in a collective

START is the token of the start (runtime/rendezvous.py). The first line is what attempts.jsonl will say, below it are
stacks. Errors on which the ranks agree (World.agree) need no last words: rank 0 writes them down.

Who is to blame is told by the innermost Python frame: a rank that is waiting in a collective waits for somebody else.
Clocks of different nodes, which disagree, are not asked. On GPUs this sees less, since collectives run there while
Python goes on: several ranks may name themselves.
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
LENGTH = 600  # of the line, in characters
VISIBLE_AFTER_S = 3.0  # a watchdog writes at once; shared storage shows it later
POLL_S = 0.1


@dataclass(frozen=True)
class RankReport:
    """A rank of a start, and where its words go."""

    logs: Path
    start: str
    rank: int

    def __str__(self) -> str:
        return f"rank {self.rank} on {os.uname().nodename}"

    def path(self, kind: str) -> Path:
        return self.logs / f"{kind}-{self.start}-rank-{self.rank}.txt"

    def leave(self, kind: str, words: str, details: str) -> None:
        """Write them, whole or not at all.

        Raises:
            OSError: they cannot be written.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        write_text(self.path(kind), f"{one_line(words)}\n\n{details}")


def this_rank(logs: Path) -> RankReport:
    return RankReport(logs, os.environ.get("JETMAE_START", "start"), int(os.environ.get("RANK", "0")))


@contextmanager
def reporting_failure(logs: Path) -> Iterator[None]:
    """Leave words if the rank fails in this context; afterwards it has reached its end."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not (isinstance(error, JetmaeError) and AGREEMENT in frames[-1].filename):
            kind, report = FOLLOWED if is_waiting(frames[-1].filename) else CAUSE, this_rank(logs)
            with suppress(OSError):  # a full disk must not hide the error itself
                words = f"{report} in {current_phase()}: {type(error).__name__}: {error}"
                report.leave(kind, words, "".join(traceback.format_exception(error)))
        raise
    finally:
        enter_phase(END)


def is_waiting(file: str) -> bool:
    """Whether a rank whose innermost Python frame is in this file waits for other ranks."""
    return any(part in file for part in WAITING)


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LENGTH else line[: LENGTH - 1] + "…"


def read_report(logs: Path, kind: str, start: str) -> str | None:
    """What the ranks of a start said, or the first of them; `start` may hold wildcards.

    The folder is listed, because shared storage may hide a new name from whoever asks for it.
    """
    try:
        names = fnmatch.filter(os.listdir(logs), f"{kind}-{start}-rank-*.txt")
        first, *others = sorted(names, key=lambda name: int(re.findall(r"\d+", name)[-1]))
        line = (logs / first).read_text(errors="replace").partition("\n")[0]
    except (OSError, ValueError):  # ValueError: nobody said anything
        return None
    return line if not others else f"{line} (and {len(others)} more: {logs}/{kind}-{start}-*)"


def await_cause(logs: Path, start: str) -> str | None:
    """The words of the rank that caused the end of a start, which may be on their way."""
    deadline_s = time.monotonic() + VISIBLE_AFTER_S
    while (words := read_report(logs, CAUSE, start)) is None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return words
