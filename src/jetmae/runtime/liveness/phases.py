"""Where a rank is in its life.

`enter_phase("step: fetch")` says that this rank has come to a place that has a name. Its watchdog (watchdog.py) reads
that from shared memory and takes it for a sign of life; without a watchdog nobody reads it. It is also where the chaos
tests strike (failpoints.py). A call costs half a microsecond.

Only the main thread tells the watchdog: a rank lives as long as its main thread gets on, and another thread that hangs,
such as one that writes a checkpoint, is noticed when the main thread waits for it. Failpoints strike in every thread.
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
START_LIMIT_S = 600.0  # without a sign of life, before the first step; the rendezvous gives up by itself after 300
END = "end"  # the last phase: whatever this rank had to say is said


@dataclass(frozen=True)
class Phase:
    """The `count`-th phase that a rank has reached, and how long it may stay there."""

    count: int
    limit_s: float
    phase: str
    detail: str

    def __str__(self) -> str:
        return f"'{self.phase}'" + (f" ({self.detail})" if self.detail else "")


class PhaseMemory:
    """The memory in which a rank leaves its place. One process writes, another reads."""

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
        """What reads twice the same is not half written."""
        seen = self._memory[:]
        while seen != (again := self._memory[:]):
            seen = again
        count, limit_s, *texts = self.RECORD.unpack(seen)
        return Phase(count, limit_s, *(text.rstrip(b"\0").decode(errors="replace") for text in texts))


_post = PhaseMemory()


def share_phase_at(descriptor: int) -> None:
    """From now on leave this rank's place in the file behind a descriptor."""
    global _post
    os.truncate(descriptor, PhaseMemory.RECORD.size)
    _post = PhaseMemory(descriptor)
    _post.write("import", "")


def enter_phase(phase: str, detail: str = "") -> None:
    """Say that this rank has come to `phase`; `detail` is what a person would like to know if it stays there."""
    if threading.current_thread() is threading.main_thread():
        _post.write(phase, detail)
    for failpoint in _failpoints():
        failpoint.enter_phase(phase)


def heartbeat() -> None:
    """A sign of life from a place that takes long, such as a file of hundreds of gigabytes."""
    if threading.current_thread() is threading.main_thread():
        _post.write_again()


def with_phases(items: Iterable[T], activity: str) -> Iterator[T]:
    """The items; `ACTIVITY: fetch` is reached before each of them and `ACTIVITY: compute` when it is there."""
    enter_phase(f"{activity}: fetch")
    for item in items:
        enter_phase(f"{activity}: compute")
        yield item
        enter_phase(f"{activity}: fetch")


def set_limit(limit_s: float) -> None:
    """How long this rank may stay in each phase that it reaches from now on."""
    _post.limit_s = limit_s


def current_phase() -> Phase:
    """The phase that this rank's main thread reached last."""
    return _post.read()


@cache
def _failpoints() -> list[Failpoint]:
    return failpoints_of(os.environ)
