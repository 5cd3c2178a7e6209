"""TensorBoard on the machine of the runs: it can only be reached from there, and an ssh line leads there."""

import getpass
import os
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from jetmae.errors import JetmaeError

LOOPBACK = "127.0.0.1"  # TensorBoard asks nobody for a password


def free_port() -> int:
    """A port of this machine that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port


def ssh_line(port: int, environment: Mapping[str, str] = os.environ) -> str:
    """The command to type on one's own computer. A compute node is reached through the host that submitted its job."""
    user, host = getpass.getuser(), socket.gethostname()
    login = environment.get("SLURM_SUBMIT_HOST") if environment.get("SLURM_JOB_ID") else None
    through = ["-J", f"{user}@{login}"] if login and login != host else []
    return shlex.join(["ssh", "-N", "-L", f"{port}:{LOOPBACK}:{port}", *through, f"{user}@{host}"])


def named(folders: Mapping[str, Path]) -> list[str]:
    """TensorBoard's option for the event files in these folders, each under its name.

    Raises:
        JetmaeError: a path that the option would split.
    """
    for folder in folders.values():
        if {",", ":"} & set(str(folder)):
            raise JetmaeError(f"{folder}: TensorBoard splits paths at , and : expected none; rename or link the folder")
    return ["--logdir_spec", ",".join(f"{name}:{folder}" for name, folder in folders.items())]


def command(what: list[str], port: int) -> list[str]:
    where = ["--host", LOOPBACK, "--port", str(port)]
    return [sys.executable, "-m", "tensorboard.main", *what, *where, "--reload_interval", "10"]


def serve(what: list[str], port: int | None) -> NoReturn:
    """Replace this process by TensorBoard; Ctrl-C ends it. `what` is its option that names folders."""
    port = port or free_port()
    words = command(what, port)
    print(f"at your desk:  {ssh_line(port)}")
    print(f"then open:     http://localhost:{port}/    (Ctrl-C here ends it)", flush=True)
    os.execv(words[0], words)
