"""A process tree that ends as a whole, for those who may not make namespaces: a machine, or a command of a user.

`python machine.py COMMAND...` runs COMMAND and adopts every process that comes to be below it, daemons included. TERM,
the end of its owner or the end of COMMAND cuts the power: all of them are killed. Its exit code is COMMAND's. Runs as a
plain file with nothing but the standard library, because it must start in milliseconds.
"""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends; slurmstepd detaches itself in that way."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def run_until_it_ends(command: list[str]) -> int:
    """The exit code of a command, as shells count it; the orphans that end meanwhile are collected too."""
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command])
    while True:
        pid, status = os.wait()
        if pid == process.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def cut_power() -> None:
    """Kill children until none is left: the orphans of each round become children of the next."""
    with suppress(ChildProcessError):
        while True:
            for pid in _children():
                os.kill(pid, signal.SIGKILL)
            os.wait()


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


if __name__ == "__main__":
    adopt_orphans()
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the command, which gets it too
    signal.signal(signal.SIGTERM, _stop)
    try:
        sys.exit(run_until_it_ends(sys.argv[1:]))
    finally:
        cut_power()
