"""The recorded lives that a power failure is tried in, at every operation."""

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.disk import Disk, Flush, Tree
from tests.chaos.lives import Life, Moment, Promises, Steps, life_goes_on, life_of_one_rank, life_of_two_ranks
from tests.chaos.recorder import put

LATE = 10**6  # a step that no life before has come to
REACH = 14  # operations after an fsync that was left out, within which its lack must show


@dataclass(frozen=True)
class Tape:
    """A recorded life that began with `tree` on the disk.

    The power fails before each of the moments of `points`; len(moments) is the end.
    """

    tree: Tree
    moments: tuple[Moment, ...]
    promised_at_end: Promises
    points: frozenset[int]

    def promised_at(self, point: int) -> Promises:
        return self.moments[point].promised if point < len(self.moments) else self.promised_at_end

    def disk_at(self, point: int) -> Disk:
        disk = Disk(self.tree)
        for moment in self.moments[:point]:
            disk.do(moment.operation)
        return disk

    def without_flush(self, kind: str) -> "Tape":
        """As if our code made no fsync of that kind; the power fails soon after one."""
        kept: list[Moment] = []
        points: set[int] = set()
        for number, moment in enumerate(self.moments):
            if isinstance(moment.operation, Flush) and moment.kind == kind:
                points |= {place for place in range(len(kept), len(kept) + REACH) if number in self.points}
            else:
                kept.append(moment)
        return Tape(self.tree, tuple(kept), self.promised_at_end, frozenset(p for p in points if p <= len(kept)))


@dataclass(frozen=True)
class Cut:
    """An instant of a life, right after an operation."""

    tape: Tape
    point: int

    @property
    def kind(self) -> str:
        return self.tape.moments[self.point - 1].kind


def whole_lives(folder: Path, seed: int) -> list[Tape]:
    return [_whole(folder / live.__name__, live, seed) for live in (life_of_one_rank, life_of_two_ranks)]


def cuts_of(tape: Tape, draw: random.Random) -> list[Cut]:
    """One after each kind of operation that our code does once the run is launched."""
    alike = defaultdict(list)
    launched = next(n for n, moment in enumerate(tape.moments) if ".lease" in moment.kind)
    for point in range(launched + 1, len(tape.moments) + 1):
        alike[tape.moments[point - 1].kind].append(Cut(tape, point))
    return [draw.choice(cuts) for cuts in alike.values()]


def go_on_after(folder: Path, cut: Cut, draw: random.Random) -> list[Tape]:
    """What follows when a life is cut off in three ways.

    The process is killed; so is its successor, after the same kind of operation; the power fails, for a first time.
    """
    folder.mkdir()
    once = _killed(folder / "killed", cut)
    first = min(once.points) + 1
    again = next((c for c in (Cut(once, n) for n in range(first, len(once.moments) + 1)) if c.kind == cut.kind), None)
    twice = [_killed(folder / "killed-twice", again)] if again else []
    return [once, *twice, _failed(folder / "failed", cut, draw)]


def _whole(root: Path, live: Callable[[Path, Steps], Life], seed: int) -> Tape:
    root.mkdir()
    return _tape({}, (), live(root, Steps(seed)))


def _killed(root: Path, cut: Cut) -> Tape:
    """The machine goes on, so nothing is lost yet."""
    disk, past = cut.tape.disk_at(cut.point), cut.tape.moments[: cut.point]
    put(disk.tree(), root)
    life = life_goes_on(root, disk, cut.tape.promised_at(cut.point), Steps(0, after=LATE))
    return _tape(cut.tape.tree, past, life)


def _failed(root: Path, cut: Cut, draw: random.Random) -> Tape:
    """Something is lost, and what is there is durable."""
    tree = draw.choice(list(cut.tape.disk_at(cut.point).losses())).tree
    put(tree, root)
    return _tape(tree, (), life_goes_on(root, Disk(tree), cut.tape.promised_at(cut.point), Steps(0, after=LATE)))


def _tape(tree: Tree, past: tuple[Moment, ...], life: Life) -> Tape:
    """The power fails in the new part only: in the past of a life it is tried once."""
    moments = (*past, *life.moments)
    return Tape(tree, moments, life.promised, frozenset(range(len(past), len(moments) + 1)))
