"""All ranks of a run as processes of this machine. Standard library only.

Rank 0 writes to the terminal, the others into the run's logs folder.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from jetmae.launch.run_code import code_environment
from jetmae.run_folder import RunFolder

POLL_S = 0.2
GRACE_S = 20.0  # for the other ranks to end by themselves after one has failed


def run_ranks(run_dir: Path, *, ranks: int, logs: Path, start: str) -> int:
    """Start the ranks, wait for all of them, and return the first exit code that is not 0, or 0.

    Stop signals are passed on; a Ctrl-C reaches the ranks by itself. When a rank fails and the others do not follow
    within GRACE_S, they are ended. They run the run's own code. `start` is the token of this start, by which they meet.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        processes = [
            _start(
                run_dir,
                code_environment(RunFolder(run_dir), local_rank_environment(rank, ranks, start)),
                None if rank == 0 else logs / f"rank-{rank}.log",
            )
            for rank in range(ranks)
        ]

        def pass_on(number: int, _frame: FrameType | None) -> None:
            for process in processes:
                process.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGUSR2):
            stack.callback(signal.signal, number, signal.signal(number, pass_on))
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))
        return _wait(processes, logs)


def _wait(processes: list[subprocess.Popen[bytes]], logs: Path) -> int:
    failed_at_s, first_failure = None, 0
    while any(process.poll() is None for process in processes):
        failures = [(rank, process.returncode) for rank, process in enumerate(processes) if process.returncode]
        if failures and failed_at_s is None:
            failed_at_s = time.monotonic()
            first_failure = failures[0][1]
            if failures[0][0] > 0 and first_failure < 0:
                print(
                    f"rank {failures[0][0]} died of signal {-first_failure}; its output is in {logs}", file=sys.stderr
                )
        if failed_at_s is not None and time.monotonic() - failed_at_s > GRACE_S:
            for process in processes:
                process.kill()
        time.sleep(POLL_S)
    codes = [process.returncode for process in processes if process.returncode]
    code = first_failure or (codes[0] if codes else 0)
    return code if code >= 0 else 128 - code


def _start(run_dir: Path, environment: dict[str, str], log: Path | None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "jetmae.rank", str(run_dir)]
    if log is None:
        return subprocess.Popen(command, env=environment)
    with log.open("a") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def local_rank_environment(rank: int, ranks: int, start: str) -> dict[str, str]:
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    defaults = {"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": "lo"}
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "JETMAE_START": start, "JETMAE_HOST": "127.0.0.1"}
    text = [{key: str(value) for key, value in settings.items()} for settings in (defaults, place)]
    return {**text[0], **os.environ, **text[1]}
