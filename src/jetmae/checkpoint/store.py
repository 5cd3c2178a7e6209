"""The checkpoints folder of a run on disk. Standard library and xxhash only.

    .step-00001234.<token>.partial/    being written; `token` is the writer's lease (runtime/lease.py)
    step-00001234/                     committed: rank-00000.safetensors ... and manifest.json
    .step-00001234.damaged[-n]/        set aside because it did not verify; never deleted, never used
    .step-00001234.trash[-n]/          being deleted
    LAST                               name of the newest; a hint for people, loading looks at what is there

The rename of the partial folder is the commit: everything in it is on disk before. The manifest has size and hash of
every file, and its own hash, so that any changed byte of a checkpoint is found.
"""

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from jetmae.errors import JetmaeError, PassingFault
from jetmae.files import await_listed, fsync, make_lasting, write_text
from jetmae.runtime.liveness.phases import enter_phase, heartbeat

MANIFEST = "manifest.json"
FORMAT = "jetmae-checkpoint-1"
BLOCK_BYTES = 1 << 24
DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class TakenOver(JetmaeError):
    """Another job has become the owner of the run."""


@dataclass(frozen=True)
class Fingerprint:
    """What a file has to be. The hash is xxHash's 128-bit XXH3: against accidents, not against forgery."""

    bytes: int
    xxh3_128: str


class CheckpointStore:
    def __init__(self, folder: Path, *, keep: int):
        """`keep` newest checkpoints stay; fewer than two could leave none that is whole."""
        self.folder, self.keep = folder, max(2, keep)

    def path_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def committed(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("step-????????"))

    def committed_names(self) -> list[str]:
        return [path.name for path in self.committed()]

    def has_ever_committed(self) -> bool:
        return bool(self.committed()) or (self.folder / "LAST").exists() or any(self.folder.glob(".step-*.damaged*"))

    # -- writing -------------------------------------------------------------------------------------------------------

    def partial_of(self, step: int, token: int) -> Path:
        return self.folder / f".step-{step:08d}.{token}.partial"

    def make(self, partial: Path, *, needed_bytes: int) -> None:
        """Make an empty folder to write a checkpoint into.

        Raises:
            JetmaeError: there is no space for it, or the folder cannot be written.
        """
        try:
            make_lasting(self.folder)
            self._check_space(needed_bytes)
            self.discard(partial)
            partial.mkdir()
        except OSError as error:
            raise JetmaeError(f"cannot make {partial} ({error.strerror}): the run folder must be writable") from error

    def commit(self, partial: Path, step: int, *, content: dict[str, Any], files: dict[str, Fingerprint]) -> Path:
        """Make what all ranks have written a checkpoint. Everything in it is on disk when this returns.

        Raises:
            JetmaeError: a file is not there or not whole.
            TakenOver: the partial folder is gone, because another job goes on with the run; nothing was committed.
        """
        if not partial.is_dir():  # this process has made it, so it is not for lack of visibility
            raise _taken_over(partial)
        for name, expected in files.items():
            await_listed(partial / name)
            if (found := (partial / name).stat().st_size) != expected.bytes:
                raise JetmaeError(f"{partial / name} has {found} bytes, expected {expected.bytes}: it was not written")
        final = self.path_of(step)
        try:
            enter_phase("save: manifest")
            write_text(partial / MANIFEST, manifest_text(content, files))
            enter_phase("save: rename")
            partial.rename(final)
        except FileNotFoundError:
            raise _taken_over(partial) from None
        fsync(self.folder)
        enter_phase("save: pointer")
        write_text(self.folder / "LAST", final.name + "\n")
        return final

    def prune(self) -> None:
        """Delete all but the newest; each is renamed first, so that a half-deleted one is no checkpoint."""
        for old in self.committed()[: -self.keep]:
            self._remove(old)

    def discard(self, partial: Path) -> None:
        if partial.exists():
            self._remove(partial)

    def sweep(self) -> None:
        """Remove what killed writers and deleters left.

        Only the owner of the run may do this, and it has to do it after it has become the owner and before it looks for
        checkpoints: a former owner that is still alive then finds its partial folder gone, and its commit fails.

        A writer may have been killed between a rename and its fsync. What that has committed or has begun to delete is
        so for good before anything is deleted or read.
        """
        if self.folder.exists():
            fsync(self.folder)
        for left in (*self.folder.glob(".step-*.trash*"), *self.folder.glob(".step-*.partial")):  # which become trash
            self._remove(left)

    # -- reading -------------------------------------------------------------------------------------------------------

    def read_manifest(self, folder: Path) -> dict[str, Any]:
        """The content of a manifest, whose `files` are Fingerprints.

        Raises:
            ValueError, OSError, KeyError, TypeError: it is not there, or not what was written.
        """
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        content = json.loads(text)
        files = {name: Fingerprint(**fingerprint) for name, fingerprint in content.pop("files").items()}
        if content.pop("format") != FORMAT:
            raise ValueError(f"{MANIFEST} has another format, expected {FORMAT}")
        content.pop("xxh3_128")
        if text != manifest_text(content, files):
            raise ValueError(f"{MANIFEST} is not what was written")
        return {**content, "files": files}

    def damage(self, folder: Path, names: Iterable[str], files: dict[str, Fingerprint]) -> str | None:
        """What is wrong with these files of a checkpoint, or None; reads every byte."""
        for name in names:
            try:
                if file_fingerprint(folder / name) != files[name]:
                    return f"{name} is not what was written"
            except OSError as error:
                return damage_behind(error, folder / name)
        return None

    def set_aside(self, folder: Path) -> Path:
        """Take a damaged checkpoint out of the way; returns where it is now."""
        aside = self._unused(f".{folder.name}.damaged")
        folder.rename(aside)
        fsync(self.folder)
        return aside

    def _check_space(self, needed_bytes: int) -> None:
        """A fifth more than the files, because others write too."""
        status = os.statvfs(self.folder)
        free = status.f_bavail * status.f_frsize
        if free < 1.2 * needed_bytes:
            raise JetmaeError(
                f"{self.folder} has {free / 2**30:.3g} GiB free, a checkpoint needs {1.2 * needed_bytes / 2**30:.3g}:"
                " free space, or reduce log.keep_checkpoints"
            )

    def _remove(self, folder: Path) -> None:
        """What cannot be deleted, because somebody on a network file system still reads it, is left for later."""
        trash = folder
        if ".trash" not in folder.name:
            trash = self._unused(f".{folder.name.removeprefix('.').partition('.')[0]}.trash")
            folder.rename(trash)
            fsync(self.folder)
        shutil.rmtree(trash, ignore_errors=True)

    def _unused(self, name: str) -> Path:
        path, number = self.folder / name, 1
        while path.exists():
            number += 1
            path = self.folder / f"{name}-{number}"
        return path


def damage_behind(error: OSError, path: Path) -> str:
    """What is wrong with a file that cannot be read.

    Raises:
        PassingFault: nothing that is known to lie with the file. A server that does not answer gives EIO, too.
    """
    if error.errno not in DAMAGE:
        raise PassingFault(
            f"{path} cannot be read on {socket.gethostname()} ({error.strerror}): the checkpoint is left where it is;"
            " start again, or mend the storage; if it cannot be mended, move that checkpoint's folder out of"
            f" {path.parent.parent} to go on from the one before"
        ) from error
    return f"{path.name}: {error.strerror}"


def _taken_over(partial: Path) -> TakenOver:
    return TakenOver(f"{partial} was taken away: another job goes on with this run, and this one ends")


def manifest_text(content: dict[str, Any], files: dict[str, Fingerprint]) -> str:
    """The text of a manifest, the only one for this content, with a hash over all the rest of it."""
    whole = {"format": FORMAT, **content, "files": {name: asdict(files[name]) for name in sorted(files)}}
    digest = xxhash.xxh3_128_hexdigest(json.dumps(whole, sort_keys=True).encode())
    return json.dumps({**whole, "xxh3_128": digest}, indent=1, sort_keys=True) + "\n"


def write_file(path: Path, content: memoryview, on_block: Callable[[], None] = lambda: None) -> Fingerprint:
    """Write a new file and flush it to the disk, hashing on the way; other threads run meanwhile."""
    digest = xxhash.xxh3_128()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for start in range(0, len(content), BLOCK_BYTES):
            block = content[start : start + BLOCK_BYTES]
            digest.update(block)
            _write_all(descriptor, block)
            on_block()
        enter_phase("save: flush")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Fingerprint(len(content), digest.hexdigest())


def file_fingerprint(path: Path) -> Fingerprint:
    digest, size = xxhash.xxh3_128(), 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
            heartbeat()
    return Fingerprint(size, digest.hexdigest())


def _write_all(descriptor: int, block: memoryview) -> None:
    while block:
        block = block[os.write(descriptor, block) :]
