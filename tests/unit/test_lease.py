"""Who owns a run folder: one start at a time, whatever becomes of the one before."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from jetmae.errors import EXIT_BUSY, FolderBusy
from jetmae.runtime import lease
from jetmae.runtime.lease import Lease, acquire, held_lease

SHORT_LEASE_S = 6.0  # five renewals, on a machine that has other things to do
OWNER = """
import fcntl, sys
from pathlib import Path
from jetmae.errors import FolderBusy
from jetmae.runtime import lease

lease.LEASE_S = float(sys.argv[2])
print("ready", flush=True)
with open(sys.argv[3]) as gate:
    fcntl.flock(gate, fcntl.LOCK_SH)
try:
    with lease.held_lease(Path(sys.argv[1])) as mine:
        print(mine.token, flush=True)
        for _ in sys.stdin:
            print(mine.holds(), flush=True)
except FolderBusy as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def gate(tmp_path) -> Iterator[TextIO]:
    """What all starters wait at while it is locked."""
    with (tmp_path / "gate").open("w") as file:
        yield file


class Starter:
    """A process that takes the folder when the gate opens, keeps it, and says on demand whether it still has it."""

    def __init__(self, root: Path, gate: TextIO):
        command = [sys.executable, "-c", OWNER, root, str(SHORT_LEASE_S), gate.name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == "ready"

    def answer(self) -> str:
        """Its token, or why it was refused."""
        return self._line()

    def holds(self) -> str:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._line()

    def end(self) -> int:
        self.process.communicate(timeout=30)
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def _line(self) -> str:
        return self.process.stdout.readline().strip()


@pytest.fixture
def no_patience(monkeypatch):
    """Whoever has to watch an owner fails."""
    monkeypatch.setattr(lease, "_watch", lambda *_: pytest.fail("it watches"))


def write_lease(root: Path, token: int, **changes: object) -> None:
    """A lease file as an owner of this process would write it, but for `changes` of its owner."""
    content = {"owner": {**lease._me(), **changes}, "renewals": 3, "released": False}
    (root / f".lease-{token:08d}.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_of_twenty_starts_exactly_one_wins_each_token(tmp_path, gate):
    for token in ("1", "2"):
        fcntl.flock(gate, fcntl.LOCK_EX)
        starters = [Starter(tmp_path, gate) for _ in range(20)]
        fcntl.flock(gate, fcntl.LOCK_UN)
        answers = {starter: starter.answer() for starter in starters}
        winners = [starter for starter, answer in answers.items() if answer.isdigit()]
        assert [answers[winner] for winner in winners] == [token]
        (winner,) = winners
        for loser in answers.keys() - {winner}:
            assert f"is being trained by process {winner.process.pid} on {os.uname().nodename}" in answers[loser]
            assert loser.end() == EXIT_BUSY
        assert winner.holds() == "True"
        winner.kill()  # so the next ones find a dead owner, and all of them reach for the next token at once


@pytest.mark.slow
def test_a_paused_owner_is_replaced_and_knows_it_when_it_wakes_up(tmp_path, gate):
    paused = Starter(tmp_path, gate)
    assert paused.answer() == "1"
    os.kill(paused.process.pid, signal.SIGSTOP)
    other = Starter(tmp_path, gate)
    assert other.answer() == "2"
    os.kill(paused.process.pid, signal.SIGCONT)
    assert paused.holds() == "False"
    assert other.holds() == "True"
    assert paused.end() == 0  # and its release says nothing about the other's lease
    assert other.holds() == "True"
    other.kill()


def test_who_looked_too_early_does_not_get_a_token_that_is_given(tmp_path, monkeypatch):
    look, looks = lease._newest, []

    def look_too_early_once(root: Path) -> object:
        """An empty folder the first time, in which another start takes token 1 a moment later."""
        looks.append(look(root))
        if len(looks) == 1:
            write_lease(root, 1, machine="another", host="node7")
        return looks[-1]

    monkeypatch.setattr(lease, "_newest", look_too_early_once)
    monkeypatch.setattr(lease, "LEASE_S", 0.2)
    assert acquire(tmp_path).token == 2
    assert [seen.token for seen in looks[:2]] == [0, 1]


def test_an_owner_is_alive_as_long_as_it_renews(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", SHORT_LEASE_S)
    with held_lease(tmp_path):
        while lease._newest(tmp_path).content["renewals"] < 2:
            time.sleep(0.05)
        with pytest.raises(FolderBusy, match=f"trained by process {os.getpid()}"):
            acquire(tmp_path)


def test_a_released_folder_is_free_at_once(tmp_path, no_patience):
    for token in (1, 2, 3):
        with held_lease(tmp_path) as mine:
            assert mine == Lease(tmp_path, token)
            assert mine.holds()
    assert [path.name for path in tmp_path.iterdir()] == [".lease-00000003.json"]


def test_an_owner_that_is_gone_from_this_machine_is_replaced_at_once(tmp_path, no_patience):
    with subprocess.Popen(["true"]) as process:
        pass
    write_lease(tmp_path, 4, pid=process.pid)
    assert acquire(tmp_path).token == 5


def test_a_process_of_another_machine_is_not_looked_for_here(tmp_path, monkeypatch):
    with subprocess.Popen(["true"]) as process:
        pass
    write_lease(tmp_path, 4, pid=process.pid, machine="another")
    monkeypatch.setattr(lease, "LEASE_S", 0.2)
    watched = []
    watch = lease._watch
    monkeypatch.setattr(lease, "_watch", lambda root, seen: watched.append(seen.token) or watch(root, seen))
    assert acquire(tmp_path).token == 5
    assert watched == [4]


def test_a_requeued_job_takes_over_from_its_earlier_start_at_once(tmp_path, monkeypatch, no_patience):
    write_lease(tmp_path, 1, job_id="77", restart_count=0, machine="another")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert acquire(tmp_path).token == 2


def test_another_job_that_lives_is_named(tmp_path, monkeypatch):
    write_lease(tmp_path, 1, job_id="77", machine="another", host="node7")
    monkeypatch.setattr(lease.time, "sleep", lambda _: write_lease(tmp_path, 1, job_id="77", host="node7", pid=1))
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    with pytest.raises(FolderBusy, match=r"trained by job 77 on node7: wait for it, cancel it, or use another --name"):
        acquire(tmp_path)


def test_an_owner_that_died_before_it_wrote_its_name_is_replaced(tmp_path, monkeypatch):
    (tmp_path / ".lease-00000006.json").touch()
    monkeypatch.setattr(lease, "LEASE_S", 0.2)
    assert acquire(tmp_path).token == 7


def test_a_former_owner_that_writes_its_lease_again_changes_nothing(tmp_path):
    with held_lease(tmp_path):
        pass
    with held_lease(tmp_path) as mine:
        write_lease(tmp_path, mine.token - 1)
        assert mine.holds()
