"""Checkpoints: whole or absent. The only code that knows their names.

All ranks write into `.step-00001234.partial/`; when every rank has finished, rank 0 writes `manifest.json` with sizes
and hashes, flushes everything to disk and renames the folder to `step-00001234`. The rename is the commit. `LAST` names
the newest; it is a hint for people, loading looks at what is there. A damaged checkpoint is set aside by name, never
deleted and never used.
"""

import json
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from jetmae.engine.backend import Backend
from jetmae.engine.ema import MovingAverage
from jetmae.engine.state import TrainState
from jetmae.errors import JetmaeError
from jetmae.files import fsync, write_json, write_text
from jetmae.runtime.world import World

MANIFEST = "manifest.json"
HASH_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Layout:
    """What a resume must share with the run that wrote the checkpoint."""

    ranks: int
    zero_stage: int
    precision: str


class Checkpoints:
    def __init__(self, folder: Path, world: World, layout: Layout, *, keep: int):
        self.folder, self.world, self.layout, self.keep = folder, world, layout, keep

    def save(self, backend: Backend, average: MovingAverage | None, state: TrainState) -> None:
        """Commit the training state at `state.step`. Collective.

        Raises:
            JetmaeError: a rank could not write; the checkpoints that were there are untouched.
        """
        final = self.folder / f"step-{state.step:08d}"
        partial = self.folder / f".step-{state.step:08d}.partial"
        if self.world.gather(final.exists())[0]:  # rank 0 decides: shared storage may show ranks different things
            return
        self.world.on_main(lambda: _fresh_folder(partial))
        self.world.together(lambda: self._write(backend, average, partial))
        self.world.on_main(lambda: self._commit(partial, final, state))

    def load_newest(self, backend: Backend, average: MovingAverage | None) -> TrainState | None:
        """Restore the newest checkpoint that verifies; None if the run never committed one. Collective.

        Raises:
            JetmaeError: there are checkpoints and none is whole, or they belong to another layout.
        """
        choice: list[str | None] = [None]
        self.world.on_main(lambda: choice.__setitem__(0, self._newest_whole()))
        name = self.world.gather(choice[0])[0]
        if name is None:
            return None
        folder = self.folder / name
        manifest = json.loads((folder / MANIFEST).read_text())
        self._check_layout(manifest["layout"], folder)
        backend.load(folder)
        if average is not None:
            average.load(folder)
        return TrainState(**manifest["state"])

    def _write(self, backend: Backend, average: MovingAverage | None, partial: Path) -> None:
        try:
            backend.save(partial)
            if average is not None:
                average.save(partial)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
            raise JetmaeError(
                f"checkpoint {partial} could not be written ({error}): free space, then resume"
            ) from error

    def _commit(self, partial: Path, final: Path, state: TrainState) -> None:
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        for path in files:
            fsync(path)
        content = {
            "state": asdict(state),
            "layout": asdict(self.layout),
            "files": {str(path.relative_to(partial)): _fingerprint(path) for path in files},
        }
        write_json(partial / MANIFEST, content)
        for folder in {path.parent for path in files}:
            fsync(folder)
        partial.rename(final)
        fsync(self.folder)
        write_text(self.folder / "LAST", final.name + "\n")
        for old in self._committed()[: -self.keep]:
            shutil.rmtree(old.rename(old.with_name(f".{old.name}.trash")))

    def _committed(self) -> list[Path]:
        return sorted(self.folder.glob("step-????????"))

    def _newest_whole(self) -> str | None:
        committed = self._committed()
        for folder in reversed(committed):
            damage = _damage(folder)
            if damage is None:
                return folder.name
            aside = folder.rename(folder.with_name(f".{folder.name}.damaged"))
            warnings.warn(f"checkpoint {folder.name} is damaged ({damage}), set aside as {aside.name}", stacklevel=2)
        if committed or any(self.folder.glob(".step-*.damaged")):
            raise JetmaeError(
                f"no whole checkpoint is left in {self.folder}: expected at least one of"
                f" {', '.join(folder.name for folder in committed)}; restore one from a backup, or start a new --name"
            )
        return None

    def _check_layout(self, written: dict, folder: Path) -> None:
        if written != asdict(self.layout):
            raise JetmaeError(
                f"checkpoint {folder} was written with {_listed(written)}, this start has"
                f" {_listed(asdict(self.layout))}: continue with the same layout"
            )


def _listed(layout: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in layout.items())


def _fresh_folder(partial: Path) -> None:
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise JetmaeError(f"cannot make {partial} ({error.strerror}): the run folder must be writable") from error


def _fingerprint(path: Path) -> dict[str, object]:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return {"bytes": path.stat().st_size, "xxh3_128": digest.hexdigest()}


def _damage(folder: Path) -> str | None:
    """What is wrong with a committed checkpoint, or None."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        for name, fingerprint in files.items():
            if _fingerprint(folder / name) != fingerprint:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None
