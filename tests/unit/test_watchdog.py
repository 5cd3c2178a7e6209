"""The watchdog: a rank that hangs ends in bounded time, with a report of where it was; others are left alone."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jetmae.errors import JetmaeError
from jetmae.runtime.liveness import phases, watchdog
from jetmae.runtime.liveness.phases import PhaseMemory
from jetmae.runtime.liveness.rank_report import CAUSE, FOLLOWED, RankReport, read_report, reporting_failure
from jetmae.runtime.liveness.watchdog import Finding, Rank, guard

HANG_S = 60  # longer than any of these tests may take
RANK = """
import os, signal, sys, time
from pathlib import Path
from jetmae.runtime.liveness import phases
from jetmae.runtime.liveness import watchdog
from jetmae.runtime.liveness.rank_report import reporting_failure

logs = Path(sys.argv[1])
watchdog.start_watchdog(logs)
print(watchdog._watchdog.pid, flush=True)
phases.set_limit(float(sys.argv[4]))
with reporting_failure(logs):
    phases.enter_phase("step: fetch", "step 7")
    exec(compile(sys.argv[2], sys.argv[3], "exec"))
"""
STOP_ITSELF = "os.kill(os.getpid(), signal.SIGSTOP)"


class WatchedProcess:
    """A small process with a watchdog."""

    def __init__(self, logs: Path, does: str, *, in_file: str = "loader.py", limit_s: float = 1.0):
        self.logs = logs
        environment = {**os.environ, "RANK": "3", "JETMAE_START": "abc.1"}
        command = [sys.executable, "-c", RANK, logs, does, in_file, str(limit_s)]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.watchdog_pid = int(self.process.stdout.readline())

    def await_end(self) -> tuple[int, str]:
        """Its exit code and what stands on stderr, after its watchdog has ended too."""
        _, errors = self.process.communicate(timeout=HANG_S / 2)  # both hold the pipe
        return self.process.returncode, errors

    def message(self, kind: str) -> str | None:
        return read_report(self.logs, kind, "abc.1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "found"),
    [
        ("sum(range(10**15))", "it is in <module> (loader.py:1)"),  # and holds the interpreter's lock
        (f"time.sleep({HANG_S})", "it is in <module> (loader.py:1)"),
        (STOP_ITSELF, "it is stopped by a signal"),
    ],
)
def test_a_rank_that_hangs_is_ended_and_its_report_says_where(tmp_path, does, found):
    watched = WatchedProcess(tmp_path / "logs", does)
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):  # Slurm sends them to the watchdog too
        os.kill(watched.watchdog_pid, number)
    code, errors = watched.await_end()
    assert code == -signal.SIGKILL
    host = os.uname().nodename
    line = watched.message(CAUSE)
    assert line.startswith(f"rank 3 on {host} hung in 'step: fetch' (step 7) for ")
    assert found in line
    assert line in errors
    assert ("stacks in" in line) == ("stopped" not in found)


@pytest.mark.slow
@pytest.mark.parametrize("beat", ["enter_phase('step: compute')", "heartbeat()"])
def test_a_rank_that_makes_progress_is_left_alone(tmp_path, beat):
    watched = WatchedProcess(tmp_path, f"for _ in range(15): phases.{beat}; time.sleep(0.2)", limit_s=2)
    assert watched.await_end() == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_rank_that_waits_for_its_peers_is_not_the_first_to_go(tmp_path):
    """It waits for longer than the limit, until a peer has been ended, say."""
    watched = WatchedProcess(tmp_path, "time.sleep(3)", in_file="/torch/distributed/distributed_c10d.py")
    assert watched.await_end() == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_who_is_killed_leaves_no_watchdog_and_gets_a_report(tmp_path):
    watched = WatchedProcess(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    code, errors = watched.await_end()
    assert code == -signal.SIGKILL
    assert "died in 'step: fetch' (step 7): without a word" in watched.message(CAUSE)
    assert watched.message(CAUSE) in errors


@pytest.mark.slow
def test_a_bus_error_is_called_so_with_stacks(tmp_path):
    watched = WatchedProcess(tmp_path, "os.kill(os.getpid(), signal.SIGBUS)")
    assert watched.await_end()[0] == -signal.SIGBUS
    assert "died in 'step: fetch' (step 7): Bus error" in watched.message(CAUSE)
    assert "loader.py" in (tmp_path / "cause-abc.1-rank-3.txt").read_text()


class FakeRank(Rank):
    """A rank whose process is a list of what happens at each look: seconds that pass, and what is found."""

    def __init__(self, seconds: list[float], finding: Finding, monkeypatch):
        super().__init__(0, 0, PhaseMemory(), 0)
        self.phase_memory.limit_s = 10.0
        self.phase_memory.write("step: compute", "")
        now_s, killed = [0.0], []
        monkeypatch.setattr(watchdog.time, "monotonic", lambda: now_s[0])

        def pass_time(_self, _wait_s: float) -> bool:
            now_s[0] += seconds.pop(0) if seconds else 0
            return bool(seconds)

        monkeypatch.setattr(FakeRank, "lives", pass_time)
        monkeypatch.setattr(FakeRank, "examine", lambda _self: finding)
        monkeypatch.setattr(FakeRank, "kill", lambda _self: killed.append(now_s[0]))
        self.__dict__["killed_at_s"] = killed


def test_time_in_which_the_whole_job_is_suspended_does_not_count(tmp_path, monkeypatch):
    rank = FakeRank([0.5] * 10 + [1000.0] + [0.5] * 8, Finding("it is somewhere"), monkeypatch)
    guard(rank, RankReport(tmp_path, "s", 0))
    assert rank.killed_at_s == []


def test_who_still_waits_when_nobody_else_was_ended_goes_last(tmp_path, monkeypatch):
    """As when ranks are in different collectives. The limit is 10 s."""
    rank = FakeRank([0.5] * 100, Finding("it waits for its peers", waits=True), monkeypatch)
    guard(rank, RankReport(tmp_path, "s", 0))
    assert rank.killed_at_s == [pytest.approx(20 + watchdog.MARGIN_S, abs=1.5)]
    assert "waits for its peers" in read_report(tmp_path, FOLLOWED, "s")
    assert read_report(tmp_path, CAUSE, "s") is None


def test_storage_that_hangs_does_not_keep_the_rank_alive(tmp_path, monkeypatch):
    rank = FakeRank([0.5] * 100, Finding("it is somewhere"), monkeypatch)
    killed, killed_before_storage_was_back = threading.Event(), []
    monkeypatch.setattr(FakeRank, "kill", lambda _self: killed.set())
    monkeypatch.setattr(RankReport, "write", lambda *_: killed_before_storage_was_back.append(killed.wait(5)))
    monkeypatch.setattr(watchdog, "WRITE_TIMEOUT_S", 1.0)
    guard(rank, RankReport(tmp_path, "s", 0))
    assert killed_before_storage_was_back == [True]


def fail_in(file: str, error: Exception) -> None:
    exec(compile("raise error", file, "exec"), {"error": error})


@pytest.mark.parametrize(
    ("file", "error", "kind"),
    [
        ("/x/jetmae/data/loader.py", RuntimeError("no\nsuch"), CAUSE),
        ("/x/torch/distributed/distributed_c10d.py", RuntimeError("Connection closed by peer"), FOLLOWED),
        ("/x/jetmae/config.py", JetmaeError("alone"), CAUSE),
        ("/x/jetmae/runtime/world.py", JetmaeError("agreed, and so written down by rank 0"), None),
    ],
)
def test_whether_a_rank_that_fails_is_to_blame(tmp_path, monkeypatch, file, error, kind):
    monkeypatch.setenv("JETMAE_START", "s")
    monkeypatch.setenv("RANK", "1")
    phases.enter_phase("step: fetch")
    with pytest.raises(type(error)), reporting_failure(tmp_path):
        fail_in(file, error)
    found = {kind: read_report(tmp_path, kind, "s") for kind in (CAUSE, FOLLOWED)}
    assert [name for name, message in found.items() if message] == ([kind] if kind else [])
    if kind:
        message = " ".join(str(error).split())
        assert found[kind] == f"rank 1 on {os.uname().nodename} in 'step: fetch': {type(error).__name__}: {message}"
    assert phases.current_phase().phase == phases.END


def test_of_several_that_are_to_blame_the_first_rank_is_named(tmp_path):
    for rank in (10, 9):
        RankReport(tmp_path, "7.0.2", rank).write(CAUSE, f"rank {rank} did it", "")
    assert read_report(tmp_path, CAUSE, "7.0.*") == f"rank 9 did it (and 1 more: {tmp_path}/cause-7.0.*-*)"
    assert read_report(tmp_path, CAUSE, "7.1.*") is None
