"""Lives of a run as its processes write them to disk, and at each instant what a reader may find afterwards.

A promise says of a record of the run (RECORDS, and `checkpoint`: the step that a start goes on from) what it may be:
one value, and while our code changes it, the old one or the new one. So nothing may be lost once the code that makes it
durable has returned.
"""

import os
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from unittest.mock import patch

from jetmae.attempts import end_attempt, start_attempt
from jetmae.checkpoint.pieces import StateImage
from jetmae.checkpoint.store import CheckpointStore, write_file
from jetmae.data.normalisation import Normalisation
from jetmae.files import make_folder, write_text
from jetmae.records.attempts import StartLine, amend_last_attempt, has_ever_committed, read_attempts
from jetmae.records.json_lines import read_lines
from jetmae.records.timeline import TimelineLine, append_timeline
from jetmae.run_folder import RunFolder
from jetmae.runtime.lease import acquire
from jetmae.weights import WeightsInfo, read_weights, write_weights
from tests.chaos.disk import Disk, Flush, Operation, Write
from tests.chaos.recorder import Recorder
from tests.chaos.small_run import ALONE, IDENTITY, SmallBackend, make_checkpoints, state_of

KEEP = 2
NOBODY = 1 << 23  # is never a process, so that whoever comes next finds its owner gone
PLACE = StartLine(job_id="4711", world_size=1, hosts=["node1"] * 80)  # lines longer than a block
INFO = {
    "task": "pretrain",
    "model": {"dim": 16},
    "image_shape": (8, 125, 125),
    "channels": ("ECAL",),
    "units": ("GeV",),
    "normalisation": Normalisation("none", scale=(1.0,), mean=(0.0,), std=(1.0,)),
}


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _step_of_weights(run: RunFolder) -> int | None:
    return read_weights(run.best_weights)[1].step if run.best_weights.exists() else None


RECORDS: dict[str, Callable[[RunFolder], object]] = {
    "config": lambda run: _text(run.config),
    "owner": lambda run: max((path.name for path in run.root.glob(".lease-*.json")), default=None),
    "attempts": lambda run: read_lines(run.attempts),
    "timeline": lambda run: read_lines(run.timeline),
    "weights": _step_of_weights,
    "completed": lambda run: _text(run.completed),
}
Promises = dict[str, list]


@dataclass(frozen=True)
class Moment:
    """An operation, of which kind it is, and what was promised when it began.

    The kind is what is done to which file by which functions of ours, with N for all numbers.
    """

    operation: Operation
    kind: str
    promised: Promises


class Life:
    """What the processes of one run did, one after the other."""

    def __init__(self, root: Path, *, disk: Disk, promised: Promises):
        """`root` is the folder of runs, and `disk` says what is in it."""
        self.run, self.disk, self.promised = RunFolder(root / "demo"), disk, promised
        self.moments: list[Moment] = []
        self._recorder = Recorder(root, self.disk, self._note)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        fixed = patch.multiple(time, time=lambda: 1.7e9), patch.multiple(os, getpid=lambda: NOBODY)
        with self._recorder.recording(), fixed[0], fixed[1], warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the checkpoint that was damaged
            yield

    def promise(self, **values: object) -> None:
        self.promised = {**self.promised, **{subject: [value] for subject, value in values.items()}}

    @contextmanager
    def changing(self, subject: str) -> Iterator[None]:
        """In this context a record is the old one or the new one; after it, the new one."""
        allowed = list(self.promised[subject])
        self.promised = {**self.promised, subject: allowed}
        yield
        allowed.append(RECORDS[subject](self.run))
        self.promise(**{subject: allowed[-1]})

    def damage(self, path: Path) -> None:
        """Something changes a byte on the disk itself."""
        offset = path.stat().st_size // 2
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"\xff")
        node = self.disk.node_at(str(path.relative_to(self.run.root.parent)))
        for operation in (Write(node, offset, b"\xff"), Flush(node)):
            self._note(operation, f"{type(operation).__name__} by the disk")
            self.disk.do(operation)

    def alternate(self, first: int, second: int) -> None:
        """Let the operations from `first` and those from `second` on come in turn: two ranks or two threads do them.

        What the second of them promise holds as long as any of them are done.
        """
        pairs = zip_longest(self.moments[first:second], self.moments[second:])
        mixed = [moment for pair in pairs for moment in pair if moment is not None]
        self.moments[first:] = [replace(moment, promised=self.moments[second].promised) for moment in mixed]

    def _note(self, operation: Operation, what: str) -> None:
        self.moments.append(Moment(operation, re.sub("[0-9]+", "N", what), self.promised))


class PromisingStore(CheckpointStore):
    """From the return of a commit on, that step is what is found; until then it may be found."""

    def __init__(self, life: Life):
        super().__init__(life.run.checkpoints, keep=KEEP)
        self.life = life

    def commit(self, partial: Path, step: int, **content) -> Path:
        self.life.promised = {**self.life.promised, "checkpoint": [*self.life.promised["checkpoint"], step]}
        final = super().commit(partial, step, **content)
        self.promise_checkpoint(step)
        return final

    def promise_checkpoint(self, step: int | None) -> None:
        whole = len(self.committed()) - len(self.life.promised["damaged"][0])
        self.life.promise(checkpoint=step, whole=min(KEEP, whole))


class Process:
    """Rank 0 of one start of a run; `ranks` of 2 writes another rank's files too."""

    def __init__(self, life: Life):
        self.life, self.backend, self.store = life, SmallBackend(), PromisingStore(life)
        with life.changing("owner"):
            self.lease = acquire(life.run.root)
        lines = read_attempts(life.run.attempts)
        if lines and isinstance(lines[-1], StartLine):
            self.end(lines[-1], cause="crashed", message="ended without a word")
        with life.changing("attempts"):
            self.start = start_attempt(life.run, PLACE)
        self.checkpoints = make_checkpoints(self.store, self.backend, lease=self.lease, record=self._record)
        ever_committed = has_ever_committed(read_attempts(life.run.attempts))
        state = self.checkpoints.load_newest(ever_committed=ever_committed)
        life.promise(damaged=())
        self.store.promise_checkpoint(state and state.step)

    def begin(self, step: int) -> None:
        """Write a checkpoint, and stop short of the commit."""
        self.checkpoints.begin(self.backend.train_to(step))
        while self.checkpoints.is_busy:
            time.sleep(0.0001)

    def save(self, step: int) -> None:
        self.begin(step)
        self.checkpoints.finish()

    def save_and_export(self, step: int) -> None:
        """The checkpoint's file is written by a thread, while the loop has found better weights already."""
        first = len(self.life.moments)
        self.begin(step)
        first = next(n for n in range(first, len(self.life.moments)) if "write_file" in self.life.moments[n].kind)
        second = len(self.life.moments)
        self.export(step + 1)
        self.life.alternate(first, second)
        self.checkpoints.finish()

    def save_as_two_ranks(self, step: int) -> None:
        """What two ranks write; they do it at the same time."""
        partial, firsts = self.store.partial_of(step, self.lease.token), []
        self.store.make(partial, needed_bytes=1)
        files = {}
        for rank in (0, 1):
            firsts.append(len(self.life.moments))
            name = f"rank-{rank:05d}.safetensors"
            files[name] = write_file(partial / name, image_of(step, rank=rank, ranks=2).content)
        self.life.alternate(*firsts)
        self.store.commit(partial, step, content=content_of(step, ranks=2), files=files)
        self.store.prune()

    def export(self, step: int) -> None:
        with self.life.changing("weights"):
            info = WeightsInfo(**INFO, step=step, score=state_of(step).best_score)
            write_weights(self.life.run.best_weights, {"weight": self.backend.pieces()[0].values}, info)

    def end(self, start: StartLine, *, cause: str, message: str | None = None) -> None:
        with self.life.changing("attempts"):
            end_attempt(self.life.run, start, cause=cause, message=message)

    def complete(self, step: int) -> None:
        with self.life.changing("completed"):
            write_text(self.life.run.completed, f"{step}\n")
        self.end(self.start, cause="completed")

    def _record(self, line: TimelineLine) -> None:
        with self.life.changing("timeline"):
            append_timeline(self.life.run.timeline, line, attempt=self.start.attempt)


def image_of(step: int, *, rank: int, ranks: int) -> StateImage:
    backend = SmallBackend(rank, ranks)
    backend.train_to(step)
    image = StateImage([piece.share(rank, ranks) for piece in backend.pieces()], ALONE.device)
    image.copy()
    return image


def content_of(step: int, *, ranks: int) -> dict:
    """Of a manifest, without the files."""
    numbers = {"optimizer_steps": step}
    return {"state": asdict(state_of(step)), "numbers": numbers, "identity": asdict(IDENTITY), "ranks": ranks}


def nothing_promised(root: Path) -> Promises:
    """Before anything was done. So many checkpoints are `whole` at least; those in `damaged` need not be."""
    records = {name: [read(RunFolder(root / "demo"))] for name, read in RECORDS.items()}
    return {**records, "checkpoint": [None], "whole": [0], "damaged": [()]}


def launch(life: Life) -> None:
    make_folder(life.run.root)
    with life.changing("config"):
        write_text(life.run.config, "task: pretrain\n")


def life_of_one_rank(root: Path, steps: "Steps") -> Life:
    """Saves with pruning, a death while writing, another while pruning, a damaged checkpoint, the end."""
    life = Life(root, disk=Disk(), promised=nothing_promised(root))
    with life.recorded():
        launch(life)
        process = Process(life)
        process.save(0)  # as training does before its first step
        process.save(steps.next())
        process.export(steps.now)
        process.save_and_export(steps.next())
        process.save(steps.next())
        process.begin(steps.next())  # and dies
        process = Process(life)
        process.save(steps.now)
        die_while_pruning(process, steps.next())
        process = Process(life)
        process.save(steps.next())
    damage_newest(life, f"rank-{0:05d}.safetensors")
    with life.recorded():
        process.end(process.start, cause="crashed", message="the disk")
        with life.changing("attempts"):
            amend_last_attempt(life.run.attempts, cause="node_failure", message="the disk")
        process = Process(life)
        process.save(steps.now)
        process.save(steps.next())
        process.complete(steps.now)
    return life


def life_of_two_ranks(root: Path, steps: "Steps") -> Life:
    """Checkpoints of two files, which are written at the same time."""
    life = Life(root, disk=Disk(), promised=nothing_promised(root))
    with life.recorded():
        launch(life)
        process = Process(life)
        process.save_as_two_ranks(0)
        for _ in range(3):
            process.save_as_two_ranks(steps.next())
        process = Process(life)
        process.save_as_two_ranks(steps.next())
    damage_newest(life, "manifest.json")
    with life.recorded():
        process = Process(life)
        process.save_as_two_ranks(steps.now)
        process.save(steps.next())  # with another number of ranks
        process.end(process.start, cause="time_limit")
    return life


def life_goes_on(root: Path, disk: Disk, promised: Promises, steps: "Steps") -> Life:
    """The start after a process was killed or the power had failed, with what that has left."""
    life = Life(root, disk=disk, promised=promised)
    with life.recorded():
        launch_again(life)
        process = Process(life)
        process.save(steps.next())
        process.export(steps.now)
        process.save(steps.next())
        process.end(process.start, cause="preempted")
    return life


def launch_again(life: Life) -> None:
    """Only if there is nothing to go on with: a requeued job is not launched by anybody."""
    if not life.run.config.exists():
        launch(life)


class Steps:
    """At which the run is saved."""

    def __init__(self, seed: int, *, after: int = 0):
        self._random, self.now = random.Random(seed), after

    def next(self) -> int:
        self.now += self._random.randint(1, 1000)
        return self.now


def die_while_pruning(process: Process, step: int) -> None:
    def die(path: Path, **_: object) -> None:
        if path.exists():
            next(path.iterdir()).unlink()
            raise Killed

    with patch("shutil.rmtree", die):
        try:
            process.save(step)
        except Killed:
            return
    raise AssertionError("nothing was pruned")


class Killed(BaseException):
    """No code of ours runs after it."""


def damage_newest(life: Life, name: str) -> None:
    older, newest = CheckpointStore(life.run.checkpoints, keep=KEEP).committed()
    steps = [int(path.name.removeprefix("step-")) for path in (newest, older)]
    life.promised = {**life.promised, "checkpoint": steps, "whole": [1], "damaged": [(newest.name,)]}
    life.damage(newest / name)
    life.promise(checkpoint=steps[1])
