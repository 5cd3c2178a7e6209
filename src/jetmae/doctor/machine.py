"""This host: Python and its packages, shared memory, Slurm's commands."""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

from jetmae.doctor.verdict import Verdict, failed, ok, warning
from jetmae.slurm.command import ask

MIN_PYTHON = (3, 11)
IMPORT_TIMEOUT_S = 300.0
SLOW_IMPORT_S = 60.0
SMALL_SHARED_MEMORY_MIB = 64
COMMANDS = {  # and what goes wrong without
    "sbatch": "nothing can be submitted",
    "srun": "ranks cannot be started",
    "scontrol": "a job can neither see why it is stopped nor requeue itself",
    "squeue": "a second job in the same run folder is not noticed",
    "scancel": "jobs cannot be cancelled",
    "sacct": "submitit does not see how a job ended",
}


def check_machine() -> Iterator[Verdict]:
    yield check_python(sys.version_info[:2])
    # The training program's own imports: torch, DeepSpeed, timm and everything below them.
    yield check_import("jetmae.run")
    yield check_shared_memory(shared_memory_mib())


def check_slurm() -> Iterator[Verdict]:
    """Slurm's commands are there, and its controller answers."""
    yield from (check_command(name) for name in COMMANDS)
    yield check_controller(ask("scontrol", "ping"))


def check_python(version: tuple[int, int]) -> Verdict:
    found = f"{platform.python_version()} at {sys.executable}"
    if version >= MIN_PYTHON:
        return ok("python", found)
    wanted = ".".join(map(str, MIN_PYTHON))
    return failed("python", found, f"jetmae needs {wanted} or newer", f"make the environment with python{wanted}")


def check_import(module: str) -> Verdict:
    """Import in a process of its own, as a job would: an import may also end its process."""
    name, started_s = f"import {module}", time.monotonic()
    command = [sys.executable, "-c", f"import {module}"]
    try:
        finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return failed(name, f"not done after {IMPORT_TIMEOUT_S:.0f} s", *_SLOW_IMPORT)
    elapsed_s = time.monotonic() - started_s
    if finished.returncode != 0:
        last = (finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"])[-1]
        return failed(name, last, "every rank would end with this", "activate the environment, or: make setup")
    if elapsed_s > SLOW_IMPORT_S:
        return warning(name, f"{elapsed_s:.0f} s", *_SLOW_IMPORT)
    return ok(name, f"{elapsed_s:.1f} s")


_SLOW_IMPORT = (
    "every start, also after each preemption, waits for this",
    "move the Python environment to a faster file system, or into a container image",
)


def shared_memory_mib() -> float | None:
    """Size of /dev/shm; None where there is none."""
    try:
        return shutil.disk_usage("/dev/shm").total / 2**20
    except OSError:
        return None


def check_shared_memory(size_mib: float | None, *, name: str = "/dev/shm") -> Verdict:
    if size_mib is None or size_mib < SMALL_SHARED_MEMORY_MIB:
        found = "missing" if size_mib is None else f"{size_mib:.0f} MiB"
        meaning = "NCCL and gloo pass data between the ranks of a node through it; they fail with a bus error"
        todo = "in a container: a larger --shm-size, or bind the host's /dev/shm; else tell the administrators"
        return failed(name, found, meaning, todo)
    return ok(name, f"{size_mib:.0f} MiB")


def check_command(name: str) -> Verdict:
    place = shutil.which(name)
    if place is not None:
        return ok(name, place)
    todo = "load Slurm's module, add its folder to PATH, or bind it into the container"
    level = warning if name in {"sacct", "squeue", "scancel"} else failed
    return level(name, "not on PATH", COMMANDS[name], todo)


def check_controller(answer: str | None) -> Verdict:
    """`scontrol ping`'s answer; it is None if the command failed or did not answer in time."""
    if answer and "UP" in answer:
        return ok("slurmctld", answer.strip().splitlines()[0])
    found = answer.strip() if answer else "no answer to scontrol ping"
    return failed("slurmctld", found, "nothing can be submitted now", "try later; look at the site's status page")


def hdf5_locking_setting() -> str:
    return os.environ.get("HDF5_USE_FILE_LOCKING", "not set")


def check_hdf5_locking(setting: str, *, locks_work: bool) -> Verdict:
    """Shards are opened without locks; only `data.py convert` reads other people's HDF5 with the default."""
    found = f"HDF5_USE_FILE_LOCKING {setting}, flock {'works' if locks_work else 'does not work'} there"
    if locks_work or setting.upper() in ("FALSE", "0", "BEST_EFFORT"):
        return ok("HDF5 locking", found, "training opens shards without locks in any case")
    meaning = "training opens shards without locks, but data.py convert cannot open its sources there"
    return warning("HDF5 locking", found, meaning, "export HDF5_USE_FILE_LOCKING=FALSE")
