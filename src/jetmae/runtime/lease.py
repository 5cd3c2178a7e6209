"""Who owns a run folder: one start at a time, whatever node it is on.

Each owner has a token, which is one higher than that of the owner before, and a file `.lease-TOKEN.json` in the run
folder. Creating that file is what makes an owner: the file system gives each name once (O_EXCL). The highest token
counts. An owner writes its own file only, so that a former one that wakes up cannot hide the present one.

Whether the owner is alive is told by its renewals, never by comparing clocks of two nodes: who wants the folder watches
the file for LEASE_S of its own time. Some owners need no watching: one that has released the folder, an earlier start
of the same Slurm job, which runs once at a time, and a process of this machine that is gone.

Fencing. A former owner that was thought dead, and had only been stopped or cut off, must not commit a checkpoint after
a new owner has looked for the newest. So

- checkpoints are written into a partial folder whose name holds the token, and committed by renaming that folder;
- a new owner first has its lease, then moves the partial folders of all older tokens away, then lists the checkpoints;
- an owner asks `holds()` right before the rename.

A rename by the former owner comes either before the new owner has moved that partial folder: then the new owner finds
the commit in its list, and it is a good one. Or it comes after that: then it fails, for the name is gone, and no cache
of a node can tell otherwise, for the file server itself renames. A partial folder that the former owner makes later
than that is stopped by `holds()`, as the lease is older than the move.
"""

import fnmatch
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetmae.errors import FolderBusy
from jetmae.files import refresh, write_json
from jetmae.process_identity import is_running, this_machine
from jetmae.runtime.liveness.phases import enter_phase
from jetmae.slurm.job import job_id, restart_count

LEASE_S = 30.0
POLL_S = 0.5


@dataclass(frozen=True)
class Lease:
    """The right to write into a run folder, as long as no later start has taken it. All ranks may have a copy."""

    root: Path
    token: int

    def holds(self) -> bool:
        """Whether the folder is still ours."""
        refresh(self.root)
        return _newest_token(self.root) == self.token


@contextmanager
def held_lease(root: Path) -> Iterator[Lease]:
    """Own a run folder while in this context, and release it afterwards. For rank 0.

    Raises:
        FolderBusy: another start owns the folder and lives.
    """
    lease, over = acquire(root), threading.Event()
    renewal = threading.Thread(target=_renew_until, args=(over, lease), name="lease", daemon=True)
    renewal.start()
    try:
        yield lease
    finally:
        over.set()
        renewal.join()
        with suppress(OSError):  # a full disk must not hide why this ends; the next owner has to watch for LEASE_S then
            _write(lease, released=True)


def acquire(root: Path) -> Lease:
    """Take the folder: at once if it is free, or when its owner has not renewed the lease for LEASE_S.

    Raises:
        FolderBusy: the owner lives.
    """
    seen = _newest(root)
    while True:
        if not seen.is_free:
            later = _watch(root, seen)
            if later != seen and not later.is_free:
                raise FolderBusy(f"run {root} is being trained by {later.owner}: wait for it, cancel it, or use"
                                 " another --name")  # fmt: skip
            seen = later
        lease = Lease(root, seen.token + 1)
        with suppress(FileExistsError):  # another start was faster
            _path(lease).open("x", encoding="utf-8").close()
            _write(lease)
            _remove_older(lease)
            return lease
        seen = _newest(root)


@dataclass(frozen=True)
class _Seen:
    """What the newest lease file says; nothing at all while it is being written."""

    token: int
    content: dict[str, Any]

    @property
    def is_free(self) -> bool:
        if self.token == 0 or self.content.get("released"):
            return True
        if "owner" not in self.content:
            return False
        me, owner = _me(), self.content["owner"]
        same_job = owner["job_id"] is not None and owner["job_id"] == me["job_id"]
        gone = owner["machine"] == me["machine"] and not is_running(owner["pid"])
        return gone or (same_job and owner["restart_count"] < me["restart_count"])

    @property
    def lives_here(self) -> bool:
        owner = self.content.get("owner")
        released = self.content.get("released")
        return owner is not None and not released and owner["machine"] == _me()["machine"] and is_running(owner["pid"])

    @property
    def owner(self) -> str:
        owner = self.content.get("owner")
        if owner is None:
            return "another start, which has just begun"
        job = f"job {owner['job_id']}" if owner["job_id"] else f"process {owner['pid']}"
        return f"{job} on {owner['host']}"


def is_trained_here(root: Path) -> bool:
    """Whether a process of this machine owns the folder."""
    return _newest(root).lives_here


def _newest(root: Path) -> _Seen:
    token = _newest_token(root)
    try:
        return _Seen(token, json.loads(_path(Lease(root, token)).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return _Seen(token, {})


def _newest_token(root: Path) -> int:
    names = fnmatch.filter(os.listdir(root), ".lease-*.json")
    return max((int(name.removeprefix(".lease-").removesuffix(".json")) for name in names), default=0)


def _watch(root: Path, seen: _Seen) -> _Seen:
    """What the lease says as soon as it says something else, or after LEASE_S."""
    deadline_s = time.monotonic() + LEASE_S
    while (later := _newest(root)) == seen and time.monotonic() < deadline_s:
        enter_phase("lease: wait", f"for {seen.owner}")
        time.sleep(POLL_S)
    return later


def _me() -> dict[str, Any]:
    """Who this process is."""
    place = {"host": os.uname().nodename, "machine": this_machine(), "pid": os.getpid()}
    return {**place, "job_id": job_id(), "restart_count": restart_count()}


def _write(lease: Lease, *, renewals: int = 0, released: bool = False) -> None:
    write_json(_path(lease), {"owner": _me(), "renewals": renewals, "released": released})


def _renew_until(over: threading.Event, lease: Lease) -> None:
    renewals = 0
    while not over.wait(LEASE_S / 5):
        renewals += 1
        with suppress(OSError):  # storage that hiccups: some of the next ones will be in time
            _write(lease, renewals=renewals)


def _remove_older(lease: Lease) -> None:
    for path in lease.root.glob(".lease-*.json"):
        if path.name < _path(lease).name:
            path.unlink(missing_ok=True)


def _path(lease: Lease) -> Path:
    return lease.root / f".lease-{lease.token:08d}.json"
