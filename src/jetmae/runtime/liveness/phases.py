"""What a rank does at this moment, in memory that it shares with its watchdog.

`enter_phase("step: fetch")` says that this rank begins a phase. It is also a heartbeat, which the watchdog
(watchdog.py) reads from the shared memory; without a watchdog nobody does. And it is where the chaos tests strike
(failpoints.py). A call costs half a microsecond.

Only calls of the main thread reach the watchdog: a rank is alive as long as its main thread makes progress. Another
thread that hangs, such as one that writes a checkpoint, is noticed when the main thread waits for it. Failpoints strike
in every thread.
"""

import mmap
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from jetmae.runtime.liveness.failpoints import Failpoint, failpoints_of

T = TypeVar("T")
START_LIMIT_S = 600.0  # without a heartbeat, before the first step; the rendezvous gives up by itself after 300
END = "end"  # the last phase: this rank has reported all that it had to report


@dataclass(frozen=True)
class Phase:
    """What a rank does: `count` is the number of its heartbeats, `limit_s` how long it may take until the next."""

    count: int
    limit_s: float
    phase: str
    detail: str

    def __str__(self) -> str:
        return f"'{self.phase}'" + (f" ({self.detail})" if self.detail else "")


class PhaseMemory:
    """Memory that holds the phase of a rank. One process writes, another reads."""

    RECORD = struct.Struct("<Qd96s256s")

    def __init__(self, descriptor: int = -1):
        """Map the file behind a descriptor, by default memory of this process alone."""
        self._memory = mmap.mmap(descriptor, self.RECORD.size)
        self._count, self.limit_s, self._texts = 0, START_LIMIT_S, (b"", b"")

    def write(self, phase: str, detail: str) -> None:
        self._texts = phase.encode(), detail.encode()
        self.write_again()

    def write_again(self) -> None:
        self._count += 1
        self._memory[:] = self.RECORD.pack(self._count, self.limit_s, *self._texts)

    def read(self) -> Phase:
        """The phase. It is read until two readings are equal: then it was not half written."""
        seen = self._memory[:]
        while seen != (again := self._memory[:]):
            seen = again
        count, limit_s, *texts = self.RECORD.unpack(seen)
        return Phase(count, limit_s, *(text.rstrip(b"\0").decode(errors="replace") for text in texts))


_memory = PhaseMemory()


def share_phase_at(descriptor: int) -> None:
    """From now on write this rank's phase into the file behind a descriptor."""
    global _memory  # noqa: PLW0603  a process has one
    os.truncate(descriptor, PhaseMemory.RECORD.size)
    _memory = PhaseMemory(descriptor)
    _memory.write("import", "")


def enter_phase(phase: str, detail: str = "") -> None:
    """Say that this rank begins `phase`; `detail` is what a person would like to know if it stays there."""
    if threading.current_thread() is threading.main_thread():
        _memory.write(phase, detail)
    for failpoint in _failpoints():
        failpoint.enter_phase(phase)


def heartbeat() -> None:
    """Say that this rank makes progress in a phase that takes long, such as reading hundreds of gigabytes."""
    if threading.current_thread() is threading.main_thread():
        _memory.write_again()


def with_phases(items: Iterable[T], activity: str) -> Iterator[T]:
    """The items; the phase is `ACTIVITY: fetch` while one is awaited, and `ACTIVITY: compute` while it is used."""
    enter_phase(f"{activity}: fetch")
    for item in items:
        enter_phase(f"{activity}: compute")
        yield item
        enter_phase(f"{activity}: fetch")


def set_limit(limit_s: float) -> None:
    """How long this rank may stay in each phase that it begins from now on, without a heartbeat."""
    _memory.limit_s = limit_s


def current_phase() -> Phase:
    """The phase that this rank's main thread began last."""
    return _memory.read()


@cache
def _failpoints() -> list[Failpoint]:
    return failpoints_of(os.environ)
