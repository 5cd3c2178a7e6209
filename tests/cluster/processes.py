"""Processes that cannot outlive their owner, and questions about the ones that run."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Answer = TypeVar("Answer")
POLL_INTERVAL_S = 0.05
FIRST_PORT = 10_000
PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct", "setpriv", "unshare")
PACKAGES = "slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ClusterError(RuntimeError):
    """The cluster could not do what it was asked; the message carries its logs where they help."""


def require_programs() -> None:
    """Raises ClusterError when Slurm is not installed: a test that needs it must fail, not pass by skipping."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=search_path()) is None]
    if missing:
        raise ClusterError(
            f"cannot start a Slurm cluster: {', '.join(missing)} not found on this machine; "
            f"as root: apt-get update && apt-get install --no-install-recommends {PACKAGES}"
        )


def search_path() -> str:
    """PATH, with the folders of system programs behind it: an ordinary user's often lacks the sbin ones."""
    return os.pathsep.join(filter(None, (os.environ.get("PATH"), SYSTEM_PATH)))


def start_owned(
    command: list[str], environment: Mapping[str, str], log: Path, *, death_signal: str
) -> subprocess.Popen:
    """Start a process that the kernel signals as soon as the thread that called this has ended, however it ended.

    It has its own session, so Ctrl-C in a terminal does not reach it.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", death_signal, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_until(condition: Callable[[], Answer], timeout_s: float, what: Callable[[], str] | str) -> Answer:
    """The first true answer of `condition`. Raises ClusterError, saying `what` was awaited, after `timeout_s`."""
    give_up_at_s = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > give_up_at_s:
            raise ClusterError(f"waited {timeout_s:g} s in vain for {what() if callable(what) else what}")
        time.sleep(POLL_INTERVAL_S)
    return answer


def draw_ports(count: int) -> list[int]:
    """Free ports of this host below the range from which the kernel gives ports to clients, so that none takes them."""
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(FIRST_PORT, max(first_ephemeral, FIRST_PORT + 1000))
    ports: set[int] = set()
    while len(ports) < count:
        candidate = candidates[int.from_bytes(os.urandom(4), "big") % len(candidates)]
        if _is_free(candidate):
            ports.add(candidate)
    return sorted(ports)


def accepts_connections(unix_socket: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(unix_socket)) == 0


def descendants(root_pid: int) -> dict[int, str]:
    """Process ids below `root_pid` and what each runs; ended ones that nobody has collected yet do not count."""
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for pid, parent_pid, is_alive, name in _process_table():
        children.setdefault(parent_pid, []).append(pid)
        if is_alive:
            names[pid] = name
    found, unvisited = {}, [root_pid]
    while unvisited:
        for pid in children.get(unvisited.pop(), []):
            unvisited.append(pid)
            if pid in names:
                found[pid] = names[pid]
    return found


def is_running(pid: int) -> bool:
    return any(entry_pid == pid and is_alive for entry_pid, _, is_alive, _ in _process_table())


def command_line(pid: int) -> str:
    """The words a process was started with; empty when it has ended meanwhile."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def kill_with_descendants(process: subprocess.Popen, first_signal: signal.Signals, timeout_s: float = 10) -> None:
    """End a process and everything below it, and return when none of them runs."""
    doomed = [process.pid, *descendants(process.pid)]
    process.send_signal(first_signal)
    process.wait(timeout_s)
    wait_until(lambda: not any(map(is_running, doomed)), timeout_s, lambda: f"the end of {doomed}")


def _process_table() -> list[tuple[int, int, bool, str]]:
    """(process id, parent's id, is alive, name) of every process that this one can see."""
    table = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it ended while we looked
                name, rest = (entry / "stat").read_text(errors="replace").rsplit(")", 1)
                state, parent_pid = rest.split()[:2]
                table.append((int(entry.name), int(parent_pid), state not in "ZX", name.split("(", 1)[1]))
    return table


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
