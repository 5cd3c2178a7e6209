"""A process beside each rank that ends the rank when it hangs, and reports in which phase that was.

The rank starts its watchdog before it imports anything heavy. A thread could not do this work: a rank that holds the
interpreter's lock, or is stopped, runs no other thread either. The two share

    a pipe             the watchdog's standard input; it closes when the rank has ended, for whatever reason
    the phase memory   the rank's phase, heartbeats and time limit (runtime/liveness/phases.py)
    the stacks         memory into which faulthandler writes the stacks of all threads: when the watchdog asks for them
                       by STACKS_SIGNAL, and when the rank dies of a bus error or the like. Neither needs Python to run

The watchdog starts with all signals blocked, since Slurm sends its signals to every process of a step.

The rank that is to blame is ended first. When a rank has had no heartbeat for the limit of its phase, the watchdog
looks at its main thread. If that waits for its peers in a collective, the rank is given as long again. In this time the
watchdog of the rank it waits for ends that one, and with it the job: srun --kill-on-bad-exit or
launch/local_processes.py sees to that. Any other rank is killed at once, also one that is stopped or does not answer.
The signal is SIGKILL: a rank that hangs cannot handle SIGTERM.

When a rank has died and could not report why, for example of SIGKILL, its watchdog writes the report.

Seconds are counted while the watchdog itself runs: a job that is suspended as a whole, and goes on later, is not ended.
"""

import faulthandler
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jetmae.runtime.liveness.phases import END, PhaseMemory, share_phase_at
from jetmae.runtime.liveness.rank_report import (
    CAUSE,
    FOLLOWED,
    RankReport,
    is_waiting,
    one_line,
    read_report,
    this_rank,
)

STACKS_SIGNAL = signal.SIGRTMIN + 5  # USR1 is NCCL's; USR2, TERM and CONT are Slurm's; QUIT is the terminal's
POLL_S = 0.5
MARGIN_S = 15.0  # for ending the peer that is to blame, beyond the limit that it has as well
STACKS_TIMEOUT_S = 2.0
WRITE_TIMEOUT_S = 5.0  # the run folder may be what hangs

_watchdog: subprocess.Popen[bytes] | None = None  # holds the pipe open


# -- in the rank -------------------------------------------------------------------------------------------------------


def start_watchdog(logs: Path) -> None:
    """Have this process watched until it ends. To be called once, in the main thread."""
    global _watchdog  # noqa: PLW0603  a process has one
    phase, stacks = os.memfd_create("jetmae-phase"), os.memfd_create("jetmae-stacks")
    share_phase_at(phase)
    faulthandler.enable(stacks)
    faulthandler.register(STACKS_SIGNAL, stacks)
    report = this_rank(logs)
    known = (os.getpid(), threading.get_ident(), phase, stacks, logs, report.start, report.rank)
    command = [sys.executable, "-S", "-m", "jetmae.runtime.liveness.watchdog", *map(str, known)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}  # -S: it has no site-packages
    blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        _watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment,
                                     pass_fds=(phase, stacks))  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)


# -- in the watchdog ---------------------------------------------------------------------------------------------------


def main() -> None:
    pid, main_thread, phase, stacks, logs, start, number = sys.argv[1:]
    rank = Rank(int(pid), int(main_thread), PhaseMemory(int(phase)), int(stacks))
    guard(rank, RankReport(Path(logs), start, int(number)))


def guard(rank: "Rank", report: RankReport) -> None:
    """Watch until the rank has ended, or end it."""
    count, silence_s, patience_s, looked_at_s = 0, 0.0, 0.0, time.monotonic()
    while rank.lives(POLL_S):
        phase, now_s = rank.phase_memory.read(), time.monotonic()
        silence_s += min(now_s - looked_at_s, 2 * POLL_S)
        looked_at_s = now_s
        if phase.count != count:
            count, silence_s, patience_s = phase.count, 0.0, 0.0
        elif silence_s > phase.limit_s + patience_s:
            finding = rank.examine()
            if patience_s or not finding.waits:
                end(rank, report, f"hung in {phase} for {silence_s:.0f} s", finding)
                return
            patience_s = phase.limit_s + MARGIN_S
    if rank.phase_memory.read().phase != END:
        post_mortem(rank, report)


def end(rank: "Rank", report: RankReport, what: str, finding: "Finding") -> None:
    """Write a report and kill the rank, also if the report cannot be written because storage hangs."""
    kind = FOLLOWED if finding.waits else CAUSE
    stacks_in = f"; stacks in {report.path(kind)}" if finding.stacks else ""
    message = f"{report} {what}: {finding.state}; ended by its watchdog{stacks_in}"
    writer = threading.Thread(target=publish, args=(report, kind, message, finding.stacks), daemon=True)
    writer.start()
    writer.join(WRITE_TIMEOUT_S)
    rank.kill()
    writer.join(WRITE_TIMEOUT_S)


def post_mortem(rank: "Rank", report: RankReport) -> None:
    """Report for a rank that has died and could not. If another rank is the cause, this one was ended because of it."""
    stacks = rank.stacks()
    fatal = re.search(r"Fatal Python error: (.*)", stacks)
    how = fatal[1] if fatal else "without a word; killed, or out of memory, or as its output tells"
    kind = FOLLOWED if read_report(report.logs, CAUSE, report.start) else CAUSE
    publish(report, kind, f"{report} died in {rank.phase_memory.read()}: {how}", stacks)


def publish(report: RankReport, kind: str, message: str, stacks: str) -> None:
    """Print the message and write the report, as far as each is possible."""
    with suppress(OSError):  # whoever would read it may have ended
        print(one_line(message), file=sys.stderr, flush=True)
    with suppress(OSError):
        report.write(kind, message, stacks)


@dataclass(frozen=True)
class Finding:
    """What a rank that hangs does, as far as its watchdog can see."""

    state: str  # for a person
    stacks: str = ""
    waits: bool = False  # for its peers


@dataclass(frozen=True)
class Rank:
    """The process that is watched."""

    pid: int
    main_thread: int
    phase_memory: PhaseMemory
    stacks_descriptor: int

    def lives(self, wait_s: float) -> bool:
        """Whether it still lives after `wait_s`; if it ends, the answer comes at once."""
        return not select.select([sys.stdin], [], [], wait_s)[0]

    def examine(self) -> Finding:
        state = self._state()
        if state in "Tt":
            return Finding("it is stopped by a signal")
        stacks = self._ask_for_stacks()
        innermost = re.search(rf'hread 0x{self.main_thread:016x} .*\n  File "(.*)", line (\d+) in (.*)', stacks)
        if innermost is None:
            return Finding(f"it does not answer (state {state})")
        file, line, function = innermost.groups()
        waits = is_waiting(file)
        why = "waits for its peers" if waits else "is"
        return Finding(f"it {why} in {function} ({Path(file).name}:{line})", stacks, waits)

    def stacks(self, offset: int = 0) -> str:
        """What faulthandler has written."""
        size = os.fstat(self.stacks_descriptor).st_size
        return os.pread(self.stacks_descriptor, size - offset, offset).decode(errors="replace")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _state(self) -> str:
        """R, S, D, T and so on, of its main thread."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return "X"

    def _ask_for_stacks(self) -> str:
        """The stacks of all threads, or an empty text if they do not come."""
        offset = os.fstat(self.stacks_descriptor).st_size
        with suppress(ProcessLookupError):
            os.kill(self.pid, STACKS_SIGNAL)
        deadline_s, written = time.monotonic() + STACKS_TIMEOUT_S, ""
        while time.monotonic() < deadline_s and (not written or written != self.stacks(offset)):
            written = self.stacks(offset)
            time.sleep(POLL_S / 5)
        return written


if __name__ == "__main__":
    main()
