"""Storage that fills up or becomes read-only under a run: a bounded end, one line, and the same command goes on."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jetmae.checkpoint.checkpoints import MAX_FAILED_SAVES
from jetmae.errors import EXIT_BAD_CONFIG
from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from tests.conftest import PROJECT, TINY, TINY_DECODER, succeed, type_command

pytestmark = pytest.mark.slow

STEPS = 60
WORDS = ("pretrain", *TINY, *TINY_DECODER, "optim.batch_size=8", f"optim.steps={STEPS}", "log.checkpoint_steps=2",
         "log.every_steps=1", "--name", "run", "--cluster", "local", "--ranks-per-node", "1")  # fmt: skip
DISK_BYTES = 32 << 20
FOR_RECORDS_BYTES = 64 << 10  # enough for lines, too little for a checkpoint
PAGE_BYTES = 4096


def mount(*words: object) -> None:
    finished = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, f"this test has to mount file systems, as root: {finished.stderr}"


def unmount(folder: Path) -> None:
    """Also if something in it is still in use."""
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[RunFolder]:
    """One run for all tests of this file, on a disk of its own: each start meets another fault, the last completes."""
    disk = tmp_path_factory.mktemp("disk")
    mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk)
    try:
        yield RunFolder(disk / "run")
    finally:
        unmount(disk)


def fill(run: RunFolder, leave_bytes: int) -> None:
    status = os.statvfs(run.root)
    with (run.root.parent / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave_bytes)


def fill_last_page(path: Path) -> None:
    """With blanks, which JSON does not mind: even on a full disk, a file grows to the end of its last page."""
    with path.open("r+b") as file:
        content = file.read()
        blanks = b" " * (-len(content) % PAGE_BYTES)
        file.seek(len(content) - 1)
        file.write(blanks + b"\n")


def free(run: RunFolder) -> None:
    (run.root.parent / "filler").unlink()


@contextmanager
def read_only(run: RunFolder) -> Iterator[None]:
    """What is opened by its path can only be read; what is open stays as it was."""
    mount("--bind", run.root, run.root)
    try:
        mount("-o", "remount,bind,ro", run.root)
        yield
    finally:
        unmount(run.root)


def command(run: RunFolder, sample: Path) -> tuple:
    return (*WORDS, f"data.path={sample}", "--runs-dir", run.root.parent)


@contextmanager
def training(run: RunFolder, sample: Path, *, then: str) -> Iterator[subprocess.Popen]:
    """A start that trains slowly, at the moment when it has done some steps and committed some; ends it at last.

    No save is going on then: the checkpoint that it would delete at its end would make room for others.
    """
    slowly = {**os.environ, "OMP_NUM_THREADS": "1", "JETMAE_FAILPOINTS": "step: fetch=sleep=0.2"}
    words = [sys.executable, PROJECT / "jobs" / "launch.py", *map(str, command(run, sample))]
    before, commit = len(steps(run)), run.last_commit()
    with subprocess.Popen(words, env=slowly, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline_s = time.monotonic() + 120
        while len(steps(run)) < before + 5 or run.last_commit() < commit + 2 or saves(run):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline_s, f"no steps before {then}"
            time.sleep(0.02)
        yield process


def saves(run: RunFolder) -> bool:
    """Whether a checkpoint is being written, or one being deleted."""
    names = os.listdir(run.checkpoints)
    return any(name.startswith(".step-") for name in names) or sum(name.startswith("step-") for name in names) > 2


def steps(run: RunFolder) -> list[int]:
    return [line["step"] for line in read_lines(run.metrics) if line["split"] == "train"]


def failed_saves(run: RunFolder) -> list[dict]:
    return [line for line in read_lines(run.timeline) if line.get("outcome") == "failed"]


def error_lines(process: subprocess.Popen) -> str:
    """What it wrote on stderr when it ended as one does that a person has to help."""
    _, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_BAD_CONFIG, errors
    assert "Traceback" not in errors
    return errors


def test_a_disk_too_full_for_checkpoints_ends_the_run_after_three_saves(sample, run):
    with training(run, sample, then="a full disk") as process:
        fill(run, FOR_RECORDS_BYTES)
        errors = error_lines(process)
    end = read_lines(run.attempts)[-1]
    assert f"JetmaeError: {MAX_FAILED_SAVES} saves in a row failed, the last one: " in end["message"]
    assert "free space" in end["message"]
    assert "\n" not in end["message"]
    assert f"error: {MAX_FAILED_SAVES} saves in a row failed" in errors
    failed = failed_saves(run)
    assert len(failed) == MAX_FAILED_SAVES
    assert steps(run)[-1] >= failed[0]["step"] + 4  # training went on
    assert run.last_commit() == end["last_committed_step"] == failed[0]["step"] - 2


def test_a_disk_too_full_for_a_line_ends_the_run_and_nothing_is_half_written(sample, run):
    free(run)
    with training(run, sample, then="a disk without a byte") as process:
        assert read_lines(run.attempts)[-1]["event"] == "start"
        fill(run, 0)
        fill_last_page(run.attempts)
        pad_metrics(run)
        errors = error_lines(process)
    assert "metrics.jsonl cannot be written (No space left on device): free space" in errors
    assert "attempts.jsonl cannot be written (No space left on device): free space" in errors
    assert read_lines(run.attempts)[-1]["event"] == "start"
    assert not list(run.root.glob("*.partial"))
    assert run.last_commit() > 0


def pad_metrics(run: RunFolder) -> None:
    """Its writer has it open, and a line of its may come at any time: blanks are appended until the page is full."""
    with run.metrics.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b" ")
        except OSError:
            return


def test_a_run_folder_that_becomes_read_only_ends_the_run(sample, run):
    free(run)
    with training(run, sample, then="a read-only folder") as process, read_only(run):
        errors = error_lines(process)
    assert f"error: {MAX_FAILED_SAVES} saves in a row failed, the last one: Read-only file system" in errors
    assert "attempts.jsonl cannot be written (Read-only file system)" in errors


def test_a_run_folder_that_is_read_only_starts_nothing(sample, run):
    before = run.attempts.read_bytes()
    with read_only(run):
        refused = type_command("launch.py", *command(run, sample))
    assert refused.returncode == EXIT_BAD_CONFIG
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: cannot write into {run.root} (Read-only file system)")
    assert run.attempts.read_bytes() == before


def test_with_space_again_the_same_command_completes_it_and_no_record_is_lost(sample, run):
    succeed(type_command("launch.py", *command(run, sample)))
    assert run.completed.read_text().strip() == str(STEPS)
    lines = read_lines(run.attempts)
    assert [line["event"] for line in lines] == ["start", "end"] * 4
    assert [line["cause"] for line in lines[1::2]] == [*["crashed"] * 3, "completed"]
    assert sorted(set(steps(run))) == list(range(1, STEPS + 1))
    for earlier, later in zip(lines[1::2], lines[3::2], strict=False):
        assert later["resumed_step"] >= earlier["last_committed_step"] > 0
