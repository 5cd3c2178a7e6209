"""Two machines with networks of their own: network namespaces that cables (veth) join, each with its name and hosts.

Needs root and iproute2. Whatever runs there ends with it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.integration.ranks import Ended

BECOME = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
TIMEOUT_S = 400  # of a rank, on a busy machine


@dataclass(frozen=True)
class Machine:
    """A network namespace, and the name and the /etc/hosts that its processes have."""

    namespace: str
    hostname: str
    hosts: Path

    def start(self, *command: object, **environment: str) -> subprocess.Popen:
        become = ["unshare", "--uts", "--mount", "sh", "-c", BECOME, "sh", self.hostname, self.hosts]
        clean = {name: value for name, value in os.environ.items() if not name.endswith("_SOCKET_IFNAME")}
        return subprocess.Popen(
            list(map(str, ("ip", "netns", "exec", self.namespace, *become, *command))),
            cwd=PROJECT,
            env={**clean, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ip(self, *words: str) -> None:
        ip("-n", self.namespace, *words)


def ip(*words: str) -> str:
    """One command of iproute2; where it is not there or not permitted, the test fails and says what is missing."""
    try:
        finished = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.fail("no command ip: as root, apt-get install iproute2")
    if finished.returncode:
        pytest.fail(f"ip {' '.join(words)}: {finished.stderr.strip()}; network namespaces need root (CAP_SYS_ADMIN)")
    return finished.stdout


@contextmanager
def two_machines(folder: Path, *, hosts: str) -> Iterator[list[Machine]]:
    """Without a cable yet. `hosts` is each one's /etc/hosts, where {name} stands for its own name."""
    machines, unique = [], os.urandom(4).hex()
    try:
        for name in ("gpu1", "gpu2"):
            path = folder / f"hosts-{name}"
            path.write_text("127.0.0.1 localhost\n::1 localhost\n" + hosts.format(name=name))
            machine = Machine(f"jetmae-{unique}-{name}", name, path)
            ip("netns", "add", machine.namespace)
            machines.append(machine)
            machine.ip("link", "set", "lo", "up")
        yield machines
    finally:
        for machine in machines:
            for pid in ip("netns", "pids", machine.namespace).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            ip("netns", "del", machine.namespace)


def join_by_cable(machines: list[Machine], interface: str, addresses: tuple[str, str]) -> None:
    """An interface of the same name on both, with one address each; IPv6 without the wait for duplicates."""
    first, second = machines
    first.ip("link", "add", interface, "type", "veth", "peer", "name", interface, "netns", second.namespace)
    for machine, address in zip(machines, addresses, strict=True):
        machine.ip("addr", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
        machine.ip("link", "set", interface, "up")


def add_interface(machine: Machine, interface: str, address: str) -> None:
    """One that leads nowhere, as the bridge of a container service does: the cable's other end is here too."""
    machine.ip("link", "add", interface, "type", "veth", "peer", "name", f"{interface}-end")
    machine.ip("addr", "add", address, "dev", interface)
    machine.ip("link", "set", interface, "up")


def run_rank_on_each(machines: list[Machine], module: str, *words: object, **environment: str) -> list[Ended]:
    """One rank on each machine, with what launch/train_job.py sets there."""
    start = os.urandom(4).hex()
    ranks = [
        machine.start(sys.executable, "-m", module, *words, RANK=str(rank), LOCAL_RANK="0",
                      WORLD_SIZE=str(len(machines)), JETMAE_START=start, JETMAE_HOST=machine.hostname, **environment)
        for rank, machine in enumerate(machines)
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=TIMEOUT_S) for rank in ranks]
    return [Ended(rank.returncode, err + out) for rank, (out, err) in zip(ranks, outputs, strict=True)]
