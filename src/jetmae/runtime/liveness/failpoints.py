"""Where the chaos tests strike.

Inert unless the environment variable JETMAE_FAILPOINTS is set:

    JETMAE_FAILPOINTS="save: commit@rank1#3=kill; step: fetch=sleep=0.5"

A failpoint is PHASE[@rankR][#N]=ACTION. When rank R, or else any rank, begins the phase (phases.py) for the N-th time,
or else each time, its process

    kill, stop, term   sends itself SIGKILL, SIGSTOP, SIGTERM
    raise              raises RuntimeError
    exit               ends with code 1, without any clean-up
    sleep=SECONDS      sleeps

With JETMAE_FAILPOINTS_ONCE=PATH each failpoint strikes once in all starts and ranks together: the process that creates
PATH.0 strikes with the first one, and so on. So a job that comes back is spared.
"""

import itertools
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jetmae.errors import JetmaeError

FAILPOINT = re.compile(
    r"(?P<phase>[a-z]+(?:[ :-]+[a-z]+)*)(?:@rank(?P<rank>\d+))?(?:#(?P<nth>[1-9]\d*))?"
    r"=(?P<action>kill|stop|term|raise|exit|sleep=\d+(?:\.\d+)?)"
)
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}


@dataclass(frozen=True)
class Failpoint:
    phase: str
    rank: int | None
    nth: int | None
    action: str
    once: Path | None
    _times: Iterator[int] = field(default_factory=lambda: itertools.count(1), compare=False)

    def enter_phase(self, phase: str) -> None:
        """Strike, if this is the phase and the time for it."""
        if phase == self.phase and self.nth in (None, next(self._times)) and self._is_first():
            self._strike()

    def _is_first(self) -> bool:
        if self.once is None:
            return True
        try:
            self.once.open("x", encoding="utf-8").close()
        except FileExistsError:
            return False
        return True

    def _strike(self) -> None:
        if self.action in SIGNALS:
            os.kill(os.getpid(), SIGNALS[self.action])
        elif self.action == "raise":
            raise RuntimeError(f"failpoint at {self.phase!r}")
        elif self.action == "exit":
            os._exit(1)
        else:
            time.sleep(float(self.action.removeprefix("sleep=")))


def failpoints_of(environment: Mapping[str, str]) -> list[Failpoint]:
    """The failpoints that can strike this rank.

    Raises:
        JetmaeError: one is malformed.
    """
    texts = [text.strip() for text in environment.get("JETMAE_FAILPOINTS", "").split(";") if text.strip()]
    once, rank = environment.get("JETMAE_FAILPOINTS_ONCE"), int(environment.get("RANK", "0"))
    parsed = [_parse(text, Path(f"{once}.{number}") if once else None) for number, text in enumerate(texts)]
    return [failpoint for failpoint in parsed if failpoint.rank in (None, rank)]


def _parse(text: str, once: Path | None) -> Failpoint:
    match = FAILPOINT.fullmatch(text)
    if match is None:
        actions = ", ".join((*SIGNALS, "raise", "exit", "sleep=SECONDS"))
        raise JetmaeError(
            f"JETMAE_FAILPOINTS: {text!r}: expected PHASE[@rankR][#N]=ACTION with one of {actions}, such as"
            " 'save: commit@rank1#3=kill'"
        )
    rank, nth = (int(number) if number else None for number in match.group("rank", "nth"))
    return Failpoint(match["phase"], rank, nth, match["action"], once)
