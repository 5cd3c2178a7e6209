"""A process beside each rank that ends the rank if it gets on no longer, and says where it hung.

The rank starts its watchdog before it imports anything heavy. A thread could not do its work: a rank that holds the
interpreter's lock, or is stopped, runs no other thread either. The two share

    a pipe            the watchdog's standard input; it ends when the rank has ended, however that came about
    the rank's post   memory with its place and time limit (runtime/liveness/phases.py)
    the stacks        memory into which faulthandler writes the stacks of all threads when the watchdog asks for them by
                      STACKS_SIGNAL, or when the rank dies of a bus error or the like. Neither needs the interpreter

The watchdog is born with all signals blocked, since Slurm sends its signals to every process of a step.

The guilty one goes first. When a rank has shown no sign of life for the limit of its phase, the watchdog looks at its
main thread. One that waits for its peers in a collective is given as long again, in which the watchdog of the rank it
waits for has ended that one, and with it the job: srun --kill-on-bad-exit or launch/local_processes.py sees to that.
Anyone else, so also a rank that is stopped or does not answer, is killed at once; SIGTERM is what a rank that hangs
cannot hear. A rank that dies without a word, of SIGKILL say, gets its last words from its watchdog too.

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

from jetmae.runtime.liveness import phases
from jetmae.runtime.liveness.phases import PhaseMemory
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
MARGIN_S = 15.0  # for ending a guilty peer, beyond the limit that it has as well
STACKS_TIMEOUT_S = 2.0
WRITE_TIMEOUT_S = 5.0  # the run folder may be what hangs

_watchdog: subprocess.Popen | None = None  # holds the pipe open


# -- in the rank -------------------------------------------------------------------------------------------------------


def start_watchdog(logs: Path) -> None:
    """Have this process watched until it ends. To be called once, in the main thread."""
    global _watchdog
    post, stacks = os.memfd_create("jetmae-post"), os.memfd_create("jetmae-stacks")
    phases.share_phase_at(post)
    faulthandler.enable(stacks)
    faulthandler.register(STACKS_SIGNAL, stacks)
    report = this_rank(logs)
    known = (os.getpid(), threading.get_ident(), post, stacks, logs, report.start, report.rank)
    command = [sys.executable, "-S", "-m", "jetmae.runtime.liveness.watchdog", *map(str, known)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}  # -S: it has no site-packages
    blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        _watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment,
                                     pass_fds=(post, stacks))  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)


# -- in the watchdog ---------------------------------------------------------------------------------------------------


def main() -> None:
    pid, main_thread, post, stacks, logs, start, number = sys.argv[1:]
    rank = Rank(int(pid), int(main_thread), PhaseMemory(int(post)), int(stacks))
    guard(rank, RankReport(Path(logs), start, int(number)))


def guard(rank: "Rank", report: RankReport) -> None:
    """Watch until the rank has ended, or end it."""
    count, silence_s, patience_s, looked_at_s = 0, 0.0, 0.0, time.monotonic()
    while rank.lives(POLL_S):
        place, now_s = rank.post.read(), time.monotonic()
        silence_s += min(now_s - looked_at_s, 2 * POLL_S)
        looked_at_s = now_s
        if place.count != count:
            count, silence_s, patience_s = place.count, 0.0, 0.0
        elif silence_s > place.limit_s + patience_s:
            finding = rank.examine()
            if patience_s or not finding.waits:
                return end(rank, report, f"hung in {place} for {silence_s:.0f} s", finding)
            patience_s = place.limit_s + MARGIN_S
    if rank.post.read().phase != phases.END:
        post_mortem(rank, report)


def end(rank: "Rank", report: RankReport, what: str, finding: "Finding") -> None:
    """Leave last words and kill the rank, also if the words cannot be written because storage hangs."""
    kind = FOLLOWED if finding.waits else CAUSE
    stacks_in = f"; stacks in {report.path(kind)}" if finding.stacks else ""
    words = f"{report} {what}: {finding.words}; ended by its watchdog{stacks_in}"
    writer = threading.Thread(target=speak, args=(report, kind, words, finding.stacks), daemon=True)
    writer.start()
    writer.join(WRITE_TIMEOUT_S)
    rank.kill()
    writer.join(WRITE_TIMEOUT_S)


def post_mortem(rank: "Rank", report: RankReport) -> None:
    """The words of a rank that had no time for them. If others have spoken, it has been ended because of them."""
    stacks = rank.stacks()
    fatal = re.search(r"Fatal Python error: (.*)", stacks)
    how = fatal[1] if fatal else "without a word; killed, or out of memory, or as its output tells"
    kind = FOLLOWED if read_report(report.logs, CAUSE, report.start) else CAUSE
    speak(report, kind, f"{report} died in {rank.post.read()}: {how}", stacks)


def speak(report: RankReport, kind: str, words: str, stacks: str) -> None:
    with suppress(OSError):  # whoever would read it may have ended
        print(one_line(words), file=sys.stderr, flush=True)
    with suppress(OSError):
        report.leave(kind, words, stacks)


@dataclass(frozen=True)
class Finding:
    """What keeps a rank, as far as its watchdog can see."""

    words: str
    stacks: str = ""
    waits: bool = False  # for its peers


@dataclass(frozen=True)
class Rank:
    """The process that is watched."""

    pid: int
    main_thread: int
    post: PhaseMemory
    stacks_descriptor: int

    def lives(self, wait_s: float) -> bool:
        """Whether it still does after so long; if it ends, the answer comes at once."""
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
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
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
