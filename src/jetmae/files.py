"""Writing files so that a reader sees the old content or the new one, never half of it."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jetmae.errors import MAY_PASS, JetmaeError, PassingFault

VISIBLE_WITHIN_S = 90.0  # attribute caches of network file systems hide new names for 30 to 60 s


class NotVisible(PassingFault):
    """What another node has made does not appear on this one: nothing is wrong with the file itself."""


def cannot_write(path: Path, error: Exception) -> JetmaeError:
    """What to tell of storage that is full, read-only or broken."""
    why = getattr(error, "strerror", None) or error
    kind = PassingFault if getattr(error, "errno", None) in MAY_PASS else JetmaeError
    return kind(f"{path} cannot be written ({why}): free space, or mend the storage, then start again to go on")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is fsynced and replaces `path`, on failure removed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        fsync(aside)
        aside.replace(path)
        fsync(path.parent)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # a full disk does not say which file it was
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="surrogateescape")  # names of files may be no UTF-8


def write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def fsync(path: Path) -> None:
    """Flush a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_lasting(folder: Path) -> None:
    """Create a folder, if it is not there; its name, and those of new parents, are on disk when this returns.

    Also if it is there: the process that made it may have been killed before its name was on disk.
    """
    if not folder.parent.exists():
        make_lasting(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync(folder.parent)


def make_folder(folder: Path) -> Path:
    """Create a folder that this user can write into, or say which one cannot be had.

    Raises:
        JetmaeError: the folder cannot be made or written.
    """
    try:
        if not folder.is_dir():  # the parent of one that is there may be closed to this user
            make_lasting(folder)
        probe = folder / f".write-probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise JetmaeError(
            f"cannot write into {folder} ({error.strerror}): expected a folder this user may write; choose another"
        ) from error
    return folder


def await_listed(path: Path) -> None:
    """Wait until a file or folder that another node has made is visible on this one, at most VISIBLE_WITHIN_S.

    Shared storage may hide a new name for about a minute, and asking for the name itself prolongs that: the folder is
    listed instead.

    Raises:
        NotVisible: it does not come.
    """
    give_up_at_s = time.monotonic() + VISIBLE_WITHIN_S
    while not _is_listed(path):
        if time.monotonic() > give_up_at_s:
            raise NotVisible(
                f"{path} was not visible on {socket.gethostname()} within {VISIBLE_WITHIN_S:.0f} s: is it on storage"
                " that all nodes share?"
            )
        time.sleep(0.05)


def refresh(folder: Path) -> None:
    """Make a name in a folder, so that a network file system does not answer from memory when it is listed next."""
    look = folder / f".look-{os.getpid()}"
    look.touch()
    look.unlink(missing_ok=True)


def _is_listed(path: Path) -> bool:
    try:
        return path.name in os.listdir(path.parent)
    except FileNotFoundError:  # the folder is as new as what is in it
        return False
