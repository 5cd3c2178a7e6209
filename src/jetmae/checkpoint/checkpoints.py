"""Saving and loading as all ranks do it together.

A save goes on while training does. A thread of each rank copies the state into host memory, which has to be done by the
next update, and writes it; when all ranks have written, a thread of rank 0 commits. At the step boundaries the ranks
learn how far the others are. Every error is a result of all ranks. A save that fails leaves the older checkpoints as
they are and is counted; MAX_FAILED_SAVES in a row end the run.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any, Protocol, TypeVar

from jetmae.checkpoint.pieces import Piece, StateImage, read_pieces
from jetmae.checkpoint.store import MANIFEST, CheckpointStore, Fingerprint, TakenOver, damage_behind, write_file
from jetmae.checkpoint.train_state import TrainState
from jetmae.errors import JetmaeError
from jetmae.files import await_listed, cannot_write, refresh
from jetmae.records.timeline import FailedSaveLine, RestoreLine, SaveLine, TimelineLine
from jetmae.runtime.lease import Lease
from jetmae.runtime.liveness.phases import enter_phase, heartbeat
from jetmae.runtime.world import World

T = TypeVar("T")
MAX_FAILED_SAVES = 3
WAIT_S = 1.0
CHECKPOINT_PACKAGES = ("jetmae", "torch", "deepspeed")


@dataclass(frozen=True)
class Identity:
    """What a resume must share with the run that wrote a checkpoint; number of ranks and ZeRO stage are free."""

    experiment: str
    data: str


class Restorable(Protocol):
    """A training whose state is in pieces, and in some numbers that belong to them."""

    def numbers(self) -> dict[str, float]:
        """As they are now."""

    def restore(self, numbers: dict[str, float]) -> None:
        """Go on from pieces that have been filled, and from the numbers that belong to them."""


@dataclass
class _Save:
    """A save under way: first every rank writes its file, then rank 0 commits."""

    partial: Path
    content: dict[str, Any]
    began_at_s: float
    writing: Future[Fingerprint]
    files: dict[str, Fingerprint] | None = None  # known when all ranks have written
    committing: Future[None] | None = None  # of rank 0, after that
    held_s: float = 0.0  # how long training has waited for it

    @property
    def pending(self) -> Future[Any] | None:
        """What this rank is busy with."""
        return self.writing if self.files is None else self.committing

    @property
    def step(self) -> int:
        return int(self.content["state"]["step"])


class Checkpoints:
    """Every method is collective.

    `pieces` are views of the state that lies on this rank, `training` is what goes on from them. `record` takes a line
    for the run's timeline, on rank 0.
    """

    def __init__(
        self,
        store: CheckpointStore,
        world: World,
        lease: Lease,
        *,
        training: Restorable,
        pieces: Sequence[Piece],
        identity: Identity,
        record: Callable[[TimelineLine], None],
    ):
        self.store, self.world, self.lease, self.training = store, world, lease, training
        self.identity, self._record = identity, record
        self._pieces = pieces
        self._image = StateImage([piece.share(world.rank, world.size) for piece in self._pieces], world.device)
        self._whole_bytes = sum(world.gather(len(self._image)))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._packages = {name: version(name) for name in CHECKPOINT_PACKAGES}
        self._copied = Event()
        self._blocks = 0  # that the thread has written
        self._save: _Save | None = None
        self._failures = 0

    # -- saving --------------------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether this rank has still to do something for a save under way."""
        return self._save is not None and self._save.pending is not None and not self._save.pending.done()

    @property
    def is_saving(self) -> bool:
        return self._save is not None

    def begin(self, state: TrainState) -> None:
        """Save the state as it is now, in the background; an earlier save is brought to its end first.

        Raises:
            JetmaeError: too many saves have failed in a row.
            TakenOver: another job goes on with this run.
        """
        self.finish()
        self._forgiving(state.step, lambda: self._begin(state))

    def await_copy(self) -> None:
        """To be called before the state changes: the copy for a save under way must be complete. Not collective."""
        if self._save is not None and not self._copied.is_set():
            began_at_s = time.monotonic()
            self._copied.wait()
            self._save.held_s += time.monotonic() - began_at_s

    def advance(self) -> None:
        """Take a save under way one stage further: to its commit, or to its end.

        It waits as long as a rank is busy. Raises as `begin`.
        """
        if self._save is not None:
            save = self._save
            self._forgiving(save.step, lambda: self._advance(save))

    def finish(self) -> None:
        """Bring a save under way to its end. Raises as `begin`."""
        while self._save is not None:
            self.advance()

    def save_now(self, state: TrainState) -> None:
        """Commit the state before this returns.

        Raises:
            JetmaeError: it could not be committed; the checkpoints that were there are untouched.
        """
        self.finish()
        self._begin(state)
        while self._save is not None:
            self._advance(self._save)

    def _forgiving(self, step: int, action: Callable[[], None]) -> None:
        """A failed save is counted, and fatal only after others."""
        try:
            action()
        except TakenOver:
            raise
        except JetmaeError as error:
            self._failures += 1
            self._note(FailedSaveLine(step=step, message=str(error)))
            if self.world.is_main:
                warnings.warn(f"save of step {step} failed ({self._failures} in a row): {error}", stacklevel=2)
            if self._failures >= MAX_FAILED_SAVES:
                raise type(error)(f"{self._failures} saves in a row failed, the last one: {error}") from error

    def _begin(self, state: TrainState) -> None:
        began_at_s = time.monotonic()
        enter_phase("save: begin", f"step {state.step}")
        if self._on_main(self.store.path_of(state.step).exists):
            return
        partial = self.store.partial_of(state.step, self.lease.token)
        self.world.on_main(lambda: self._make(partial))
        content = {
            "state": asdict(state),
            "numbers": self.training.numbers(),
            "identity": asdict(self.identity),
            "ranks": self.world.size,
            "token": self.lease.token,
            "packages": self._packages,
        }
        self._copied.clear()
        self._image.wait_for_updates()
        writing = self._thread.submit(self._write, partial)
        self._save = _Save(partial, content, began_at_s, writing, held_s=time.monotonic() - began_at_s)

    def _make(self, partial: Path) -> None:
        self._check_lease()
        self.store.make(partial, needed_bytes=self._whole_bytes)

    def _write(self, partial: Path) -> Fingerprint:
        """On the thread of every rank."""
        enter_phase("save: copy", partial.name)
        try:
            self._image.copy()
        finally:
            self._copied.set()
        self._image.check_finite()
        enter_phase("save: write", partial.name)
        await_listed(partial)
        try:
            return write_file(partial / _file_name(self.world.rank), self._image.content, self._count_block)
        except OSError as error:
            raise cannot_write(partial, error) from error

    def _count_block(self) -> None:
        self._blocks += 1

    def _await(self, work: Future[T]) -> T:
        """What the thread has come to. The watchdog counts from the last block that was written."""
        blocks = self._blocks
        while wait([work], timeout=WAIT_S).not_done:
            if self._blocks != blocks:
                blocks = self._blocks
                heartbeat()
        return work.result()

    def _commit(self, save: _Save, files: dict[str, Fingerprint]) -> None:
        """On the thread of rank 0."""
        enter_phase("save: commit", save.partial.name)
        self._check_lease()
        self.store.commit(save.partial, save.step, content=save.content, files=files)
        enter_phase("save: prune")
        try:
            self.store.prune()
        except OSError as error:  # the new one is committed all the same
            warnings.warn(f"older checkpoints in {self.store.folder} cannot be deleted ({error})", stacklevel=2)

    def _advance(self, save: _Save) -> None:
        began_at_s = time.monotonic()
        try:
            if save.files is None:
                fingerprints = self.world.gather(self.world.together(lambda: self._await(save.writing)))
                save.files = {_file_name(rank): fingerprint for rank, fingerprint in enumerate(fingerprints)}
                if self.world.is_main:
                    save.committing = self._thread.submit(self._commit, save, save.files)
                save.held_s += time.monotonic() - began_at_s
                return
            self.world.together(lambda: self._await(save.committing) if save.committing else None)
        except JetmaeError:
            self._save = None
            with suppress(JetmaeError):  # storage that has just failed; what is left there is swept at the next start
                self.world.on_main(lambda: self.store.discard(save.partial))
            raise
        self._save, self._failures = None, 0
        now_s = time.monotonic()
        stall_s, write_s = save.held_s + now_s - began_at_s, now_s - save.began_at_s
        self._note(SaveLine(step=save.step, stall_s=stall_s, write_s=write_s, bytes=self._whole_bytes))

    def _note(self, line: TimelineLine) -> None:
        """A line for the timeline, which is not worth the end of a training."""
        if self.world.is_main:
            try:
                self._record(line)
            except JetmaeError as error:
                warnings.warn(str(error), stacklevel=2)

    def _check_lease(self) -> None:
        if not self.lease.holds():
            raise TakenOver(f"{self.store.folder.parent} was taken over by another job: this one ends")

    # -- loading -------------------------------------------------------------------------------------------------------

    def load_newest(self, *, ever_committed: bool = False) -> TrainState | None:
        """Restore the newest checkpoint that verifies; None if the run never committed one.

        Those that do not verify are set aside. `ever_committed` is what the run's records say, in case the folder is
        empty.

        Raises:
            JetmaeError: the run has committed and no checkpoint is whole, or they are of another experiment or data.
            PassingFault: the storage does not give one on some rank; all of them are left where they are.
        """
        began_at_s = time.monotonic()
        self.finish()
        self.world.on_main(self._take_stock)
        names, has_ever = self._on_main(lambda: (self.store.committed_names(), self.store.has_ever_committed()))
        for name in reversed(names):
            if state := self._load(self.store.folder / name):
                self._note(RestoreLine(step=state.step, duration_s=time.monotonic() - began_at_s))
                return state
        if ever_committed or has_ever:
            raise JetmaeError(
                f"no whole checkpoint is left in {self.store.folder}: expected one of"
                f" {', '.join(names) or 'those that the run has committed'}; restore one from a backup, or start a new"
                " --name"
            )
        return None

    def _on_main(self, look: Callable[[], T]) -> T:
        """What rank 0 sees: others may see it later."""
        everyones: list[Any] = self.world.gather(self.world.together(look if self.world.is_main else lambda: None))
        seen: T = everyones[0]
        return seen

    def _take_stock(self) -> None:
        self._check_lease()
        if self.store.folder.exists():
            refresh(self.store.folder)  # commits of an earlier start on another node
        self.store.sweep()

    def _load(self, folder: Path) -> TrainState | None:
        """None if the checkpoint is damaged, and was set aside."""
        enter_phase("restore: verify", folder.name)
        manifest, damage = self._on_main(lambda: self._read_manifest(folder))
        if manifest is not None:
            self._check_identity(manifest["identity"], folder)
            damage = self._damage(folder, manifest["files"])
        if manifest is None or damage is not None:
            self.world.on_main(lambda: self._set_aside(folder, damage))
            return None
        enter_phase("restore: read", folder.name)
        self._read(folder, sorted(manifest["files"]))
        self.training.restore(manifest["numbers"])
        return TrainState(**manifest["state"])

    def _read_manifest(self, folder: Path) -> tuple[dict[str, Any] | None, str | None]:
        """The manifest, or what is wrong with it or with the sizes it lists."""
        try:
            manifest = self.store.read_manifest(folder)
            if self.store.path_of(step := manifest["state"]["step"]) != folder:
                return None, f"it is that of step {step}"
            for name, fingerprint in manifest["files"].items():
                if (found := (folder / name).stat().st_size) != fingerprint.bytes:
                    return None, f"{name} has {found} bytes, expected {fingerprint.bytes}"
        except OSError as error:
            return None, damage_behind(error, Path(error.filename or folder / MANIFEST))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return None, f"{type(error).__name__}: {error}"
        return manifest, None

    def _damage(self, folder: Path, files: dict[str, Fingerprint]) -> str | None:
        """Each rank reads its share of the files."""
        share = sorted(files)[self.world.rank :: self.world.size]

        def examine() -> str | None:
            self._await_files(folder, share)
            return self.store.damage(folder, share, files)

        return next(filter(None, self.world.gather(self.world.together(examine))), None)

    def _await_files(self, folder: Path, names: Iterable[str]) -> None:
        """Rank 0 has seen these files: shared storage may show them to others later."""
        for path in (folder, *(folder / name for name in names)):
            await_listed(path)

    def _read(self, folder: Path, names: list[str]) -> None:
        """Each rank begins with the file that it would have written itself: with equal layouts it needs no other."""
        first = self.world.rank % len(names)
        paths = [folder / name for name in names[first:] + names[:first]]
        self.world.together(lambda: read_pieces(paths, self._pieces))

    def _check_identity(self, written: dict[str, Any], folder: Path) -> None:
        for what, now in asdict(self.identity).items():
            if written.get(what) != now:
                raise JetmaeError(
                    f"checkpoint {folder} was written with another {what} ({written.get(what)}, now {now}): put back"
                    " what was changed, or start a new --name"
                )

    def _set_aside(self, folder: Path, damage: str | None) -> None:
        aside = self.store.set_aside(folder)
        warnings.warn(f"checkpoint {folder.name} is damaged ({damage}), set aside as {aside.name}", stacklevel=2)


def _file_name(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"
