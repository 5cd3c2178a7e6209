"""Whatever becomes of a rank, a start ends soon, says who and where it was, leaves no process, and the run goes on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jetmae.errors import EXIT_BUSY
from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from tests.conftest import PROJECT, TINY, TINY_DECODER, type_command

pytestmark = pytest.mark.slow

HANG_LIMIT_S = 10
STEPS = 24
WORDS = ("pretrain", *TINY, *TINY_DECODER, "optim.batch_size=8", f"optim.steps={STEPS}", "log.checkpoint_steps=2",
         f"engine.hang_limit_s={HANG_LIMIT_S}", "--name", "run", "--cluster", "local")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """One run for all tests of this file: each start fails in another way, or completes it."""
    return RunFolder(tmp_path_factory.mktemp("runs") / "run")


def command(run: RunFolder, sample: Path) -> tuple:
    return (*WORDS, f"data.path={sample}", "--runs-dir", run.root.parent)


def await_no_process(run: RunFolder) -> None:
    """Wait until no rank and no watchdog of this run is left."""
    deadline_s = time.monotonic() + 10
    while left := [pid for pid in Path("/proc").glob("[0-9]*") if belongs_to(pid, run)]:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.05)


def belongs_to(process: Path, run: RunFolder) -> bool:
    try:
        return str(run.root).encode() in (process / "cmdline").read_bytes()
    except OSError:  # it has just ended
        return False


@pytest.mark.parametrize(
    ("failpoint", "expected"),
    [
        ("step: fetch@rank1#2=stop", ["rank 1 on ", " hung in 'step: fetch'", "stopped by a signal"]),
        ("step: fetch@rank0#2=sleep=300", ["rank 0 on ", " hung in 'step: fetch'", "stacks in"]),
        ("step: compute@rank0#2=kill", ["rank 0 on ", " died in 'step: compute'"]),
        ("step: fetch@rank1#2=raise", ["rank 1 on ", " in 'step: fetch'", "RuntimeError: failpoint"]),
    ],
)
def test_a_start_ends_soon_and_says_whose_fault_it_was(sample, run, failpoint, expected):
    words = command(run, sample)
    finished = type_command("launch.py", *words, "--ranks-per-node", "2", JETMAE_FAILPOINTS=failpoint)
    await_no_process(run)
    start, end = read_lines(run.attempts)[-2:]
    assert finished.returncode not in (0, 75)
    assert (end["event"], end["attempt"], end["cause"]) == ("end", start["attempt"], "crashed")
    for part in expected:
        assert part in end["message"]
        assert part in finished.stderr
    assert "\n" not in end["message"]
    assert end["time_s"] - start["time_s"] < HANG_LIMIT_S + 60


def test_the_same_command_completes_it_while_a_second_start_is_refused(sample, run):
    slowly = {**os.environ, "OMP_NUM_THREADS": "1", "JETMAE_FAILPOINTS": "step: fetch@rank0=sleep=1.5"}
    words = [sys.executable, PROJECT / "jobs" / "launch.py", *command(run, sample), "--ranks-per-node", "2"]
    with subprocess.Popen(words, env=slowly, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as first:
        attempts = len(read_lines(run.attempts))
        deadline_s = time.monotonic() + 120
        while len(read_lines(run.attempts)) == attempts:
            assert first.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        second = type_command("launch.py", *command(run, sample), "--ranks-per-node", "1")
        assert first.poll() is None, "the first ended before the second was refused"
        assert first.wait(120) == 0, first.stderr.read()
    assert second.returncode == EXIT_BUSY
    (line,) = second.stderr.strip().splitlines()
    assert "is being trained by process" in line
    lines = read_lines(run.attempts)
    assert [line["event"] for line in lines] == ["start", "end"] * (len(lines) // 2)
    assert lines[-1]["cause"] == "completed"
    assert run.completed.read_text().strip() == str(STEPS)
    await_no_process(run)
