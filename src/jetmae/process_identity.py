"""Whether another process is still there: asked before its files are taken over or removed.

A process id means something on one machine only, from its start to its next, and in one of its containers.
"""

import hashlib
import os
from pathlib import Path


def this_machine() -> str:
    """The same text wherever process ids mean the same: the boot of the machine, and the PID namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def machine_code() -> str:
    """The same in eight characters, for names of files."""
    return hashlib.sha256(this_machine().encode()).hexdigest()[:8]


def is_running(pid: int) -> bool:
    """Whether a process of this machine is there. In doubt it is."""
    try:
        os.kill(pid, 0)  # sends nothing; /proc may hide the processes of other users, this does not
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # there, and another user's; or no number that any process could have
        return True
    return True
