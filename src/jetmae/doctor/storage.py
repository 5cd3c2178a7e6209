"""The run folder's file system: does it do what a run relies on, and is there room for its checkpoints?

Every check takes a folder and leaves nothing in it.
"""

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jetmae.doctor.verdict import Verdict, failed, has_failed, ok, tried, warning
from jetmae.files import fsync, write_text

GIB = 2**30
CLOCK_TOLERANCE_S = 2.0
PROBE_BYTES = 64 * 2**20
BLOCK = os.urandom(2**22)  # random: some file systems store zeros, or the same block twice, without writing it
IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"}
SHARED = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.juicefs", "fuse.sshfs", "glusterfs",
    "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs", "pvfs2", "smb3", "virtiofs", "wekafs",
}  # fmt: skip


def check_storage(
    folder: Path, *, checkpoint_bytes: int, num_checkpoints: int, nodes: int, ranks: int
) -> Iterator[Verdict]:
    """All checks of the run folder; the first, whether one can write at all, decides whether the others make sense."""
    writable = check_write(folder)
    yield writable
    if has_failed([writable]):
        return
    with scratch_folder(folder) as scratch:
        yield check_replace(scratch)
        yield check_folder_rename(scratch)
        yield check_visibility(scratch)
        yield check_clock(*file_and_host_time_s(scratch))
    yield check_sharing(folder, *file_system_of(folder.resolve(), mount_table()), nodes=nodes)
    yield check_space(shutil.disk_usage(folder).free, checkpoint_bytes, num_checkpoints)
    yield check_inodes(os.statvfs(folder), num_checkpoints, ranks)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix=".doctor-", dir=folder))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_write(folder: Path) -> Verdict:
    def write() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder) as scratch:
            (scratch / "file").write_bytes(b"x" * 4096)
            fsync(scratch / "file")
            fsync(scratch)
        return f"{folder}: written and flushed"

    meaning = f"nothing of a run could be kept in {folder}"
    return tried("write", write, meaning=meaning, todo="another --runs-dir; free space or quota; or ask for access")


def check_replace(folder: Path) -> Verdict:
    """A file replaced by rename is the old one or the new one: checkpoints and records rely on it."""

    def replace() -> str:
        write_text(folder / "replaced", "old")
        write_text(folder / "replaced", "new")
        if (folder / "replaced").read_text(encoding="utf-8") != "new":
            raise OSError(errno.EIO, "after the rename the old content is still there")
        return "a file replaces another"

    return tried("rename a file", replace, meaning="a record could be lost or torn", todo=_ANOTHER)


def check_folder_rename(folder: Path) -> Verdict:
    """The commit of a checkpoint."""

    def rename() -> str:
        (folder / ".partial").mkdir()
        (folder / ".partial" / "shard").touch()
        (folder / ".partial").rename(folder / "step")
        fsync(folder)
        if not (folder / "step" / "shard").exists() or (folder / ".partial").exists():
            raise OSError(errno.EIO, "the folder is not where it was renamed to")
        return "a folder moves with its files"

    return tried("rename a folder", rename, meaning="checkpoints cannot be committed", todo=_ANOTHER)


def check_visibility(folder: Path) -> Verdict:
    """Ranks find each other by listing the folder."""

    def look() -> str:
        os.listdir(folder)  # a cache that remembers this listing would hide the next file
        (folder / "new").touch()
        if "new" not in os.listdir(folder):
            raise OSError(errno.ENOENT, "a new file is not in the folder's listing")
        return "a new file is listed at once"

    return tried("visibility", look, meaning="ranks would wait for each other", todo=_ANOTHER)


def flock_works(folder: Path) -> bool:
    """Whether a lock excludes a second holder, as HDF5 believes."""
    with scratch_folder(folder) as scratch:
        path = scratch / "lock"
        with path.open("a", encoding="utf-8") as first, path.open("a", encoding="utf-8") as second:
            try:
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                return False
            return False


_ANOTHER = "another --runs-dir, on a POSIX file system"


def file_and_host_time_s(folder: Path) -> tuple[float, float]:
    """When the file system believes a file was written just now, and when this host does."""
    (folder / "clock").write_text("x", encoding="utf-8")
    return (folder / "clock").stat().st_mtime, time.time()


def check_clock(file_time_s: float, host_time_s: float) -> Verdict:
    skew_s = file_time_s - host_time_s
    if abs(skew_s) <= CLOCK_TOLERANCE_S:
        return ok("storage clock", f"within {CLOCK_TOLERANCE_S:.0f} s of this host's")
    found = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this host's"
    meaning = "file dates and log times disagree: ages and estimates are wrong by as much"
    return warning("storage clock", found, meaning, "tell the administrators: time service (chrony) on host or server")


def mount_table() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def file_system_of(folder: Path, mounts: str) -> tuple[str, str]:
    """Kind and mount point of the file system that holds an absolute path, by /proc/self/mountinfo's text."""
    best = ("unknown", "/")
    for line in mounts.splitlines():
        place, _, rest = line.partition(" - ")
        point = place.split()[4].replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best[1]):  # the last mount on a point hides the others
            best = (rest.split()[0], point)
    return best


def check_sharing(folder: Path, kind: str, mount_point: str, *, nodes: int) -> Verdict:
    found = f"{kind} mounted at {mount_point}"
    if kind in IN_MEMORY:
        meaning = f"{folder} is in this host's memory: gone with it, and other nodes do not see it"
        return warning("shared storage", found, meaning, "--runs-dir on the cluster's shared storage")
    if kind in SHARED or nodes == 1:
        return ok("shared storage", found)
    meaning = "this looks like a disk of this host alone; a job's nodes must all see the run folder"
    return warning("shared storage", found, meaning, "--job finds out; else --runs-dir on shared storage")


def check_space(free_bytes: int, checkpoint_bytes: int, num_checkpoints: int) -> Verdict:
    """Room for the checkpoints that are kept and one that is being written. A quota may be smaller than this."""
    needed_bytes = checkpoint_bytes * (num_checkpoints + 1)
    found = f"{free_bytes / GIB:.1f} GiB free, {needed_bytes / GIB:.1f} GiB for {num_checkpoints + 1} checkpoints"
    if free_bytes < needed_bytes:
        meaning = "saves would fail, and three in a row end the run; what is saved stays"
        return failed("space", found, meaning, "free space, another --runs-dir, or a smaller network")
    if free_bytes < 4 * needed_bytes:
        return warning("space", found, "little room for several runs", "plan where the next runs go")
    return ok("space", found, "a quota may be smaller: ask the site's quota command")


def check_inodes(status: os.statvfs_result, num_checkpoints: int, ranks: int) -> Verdict:
    """A checkpoint is a folder with a file of each rank and a manifest."""
    if status.f_files == 0:
        return ok("inodes", "not limited")
    needed = (ranks + 2) * (num_checkpoints + 1)
    found = f"{status.f_favail:,} free"
    if status.f_favail < needed:
        return failed("inodes", found, f"a run makes about {needed} files at a time", "remove files, or ask for more")
    return ok("inodes", found)


def write_speed(path: Path, num_bytes: int) -> float:
    """Bytes per second of writing a file, flush to disk and rename included; the file is removed."""
    aside = path.with_name(f".{path.name}.partial")
    started_s = time.monotonic()
    try:
        with aside.open("wb") as file:
            for begin in range(0, num_bytes, len(BLOCK)):
                file.write(BLOCK[: num_bytes - begin])
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        fsync(path.parent)
        return num_bytes / (time.monotonic() - started_s)
    finally:
        aside.unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def measure_save(folder: Path, checkpoint_bytes: int) -> tuple[Verdict, float | None]:
    """What writing a checkpoint would take from here, and None if the disk is full."""
    speed = 0.0

    def write() -> str:
        nonlocal speed
        with scratch_folder(folder) as scratch:
            speed = write_speed(scratch / "checkpoint", min(checkpoint_bytes, PROBE_BYTES))
        return f"{speed / 2**20:.0f} MiB/s: {checkpoint_bytes / speed:.1f} s for {checkpoint_bytes / GIB:.2f} GiB"

    verdict = tried("write speed", write, meaning="a checkpoint could not be saved", todo="free space or quota")
    return verdict, (checkpoint_bytes / speed if speed else None)
