"""All ranks of a run as processes of this machine. Standard library only.

Rank 0 writes to the terminal if the run is alone, the others into the run's logs folder.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from jetmae.launch.run_code import code_environment
from jetmae.run_folder import RunFolder

POLL_S = 0.2
GRACE_S = 20.0  # for the other ranks to end by themselves after one has failed


class LocalRun:
    """The ranks of one run, which have been started. They run the run's own code."""

    def __init__(self, run_dir: Path, *, ranks: int, logs: Path, start: str, at_once: int = 1):
        """`start` is the token of this start, by which the ranks meet. `at_once` runs share the cores."""
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = logs
        self.processes = [
            _start(
                run_dir,
                code_environment(RunFolder(run_dir), local_rank_environment(rank, ranks, start, at_once=at_once)),
                None if rank == 0 and at_once == 1 else logs / f"rank-{rank}.log",
            )
            for rank in range(ranks)
        ]
        self._failed_at_s: float | None = None
        self._first_failure = 0

    def has_ended(self) -> bool:
        """Whether all ranks have. Ranks that do not follow one that failed within GRACE_S are ended."""
        running = any(process.poll() is None for process in self.processes)
        failures = [(rank, process.returncode) for rank, process in enumerate(self.processes) if process.returncode]
        if running and failures and self._failed_at_s is None:
            self._note_failure(*failures[0])
        if running and self._failed_at_s is not None and time.monotonic() - self._failed_at_s > GRACE_S:
            for process in self.processes:
                process.kill()
        return not running

    @property
    def exit_code(self) -> int:
        """The first that is not 0, or 0."""
        codes = [process.returncode for process in self.processes if process.returncode]
        code = self._first_failure or (codes[0] if codes else 0)
        return code if code >= 0 else 128 - code

    def send_signal(self, number: int) -> None:
        """To all ranks that run."""
        for process in self.processes:
            process.send_signal(number)

    def _note_failure(self, rank: int, code: int) -> None:
        self._failed_at_s, self._first_failure = time.monotonic(), code
        if rank > 0 and code < 0:
            print(f"rank {rank} died of signal {-code}; its output is in {self.logs}", file=sys.stderr)


@contextmanager
def passing_on_signals(running: list[LocalRun]) -> Iterator[list[int]]:
    """Pass stop signals on to the runs in the list; a Ctrl-C reaches them by itself. Yields the signals that came."""
    received: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for run in running:
            run.send_signal(number)

    with ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGUSR2):
            stack.callback(signal.signal, number, signal.signal(number, pass_on))
        interrupted = signal.signal(signal.SIGINT, lambda number, _frame: received.append(number))
        stack.callback(signal.signal, signal.SIGINT, interrupted)
        try:
            yield received
        except BaseException:
            for run in running:
                run.send_signal(signal.SIGTERM)  # nobody waits for them any more: they save and end
            raise


def _start(run_dir: Path, environment: dict[str, str], log: Path | None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "jetmae.rank", str(run_dir)]
    if log is None:
        return subprocess.Popen(command, env=environment)
    with log.open("a") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def local_rank_environment(rank: int, ranks: int, start: str, *, at_once: int = 1) -> dict[str, str]:
    """Of one rank; `at_once` runs with so many ranks share the cores."""
    threads = max(1, len(os.sched_getaffinity(0)) // (ranks * at_once))
    defaults = {"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": "lo"}
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "JETMAE_START": start, "JETMAE_HOST": "127.0.0.1"}
    text = [{key: str(value) for key, value in settings.items()} for settings in (defaults, place)]
    return {**text[0], **os.environ, **text[1]}
