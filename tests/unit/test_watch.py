"""What `runs.py` says of a run: its state from folder and queue, its output, and what may be done to its job."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jetmae.errors import JetmaeError
from jetmae.run_folder import RunFolder
from jetmae.runtime.lease import held_lease
from jetmae.slurm import queue as slurm_jobs
from jetmae.slurm.queue import JobStart, QueuedJob
from jetmae.watch import status
from jetmae.watch.board import command, named, ssh_line
from jetmae.watch.logs import Reader, follow, log_files
from jetmae.watch.status import queue_for, status_of
from tests.conftest import PROJECT, type_command
from tests.unit.run_records import end, start, steps, write_lines

CONFIG = """task: pretrain
data: {path: /nowhere}
optim: {steps: 100}
"""
RUNNING, PENDING = QueuedJob("RUNNING", "None", 0.0), QueuedJob("PENDING", "Priority", 0.0)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run that has been frozen and nothing else."""
    folder = RunFolder(tmp_path / "runs" / "run")
    folder.logs.mkdir(parents=True)
    folder.config.write_text(CONFIG)
    return folder


# -- states ------------------------------------------------------------------------------------------------------------

STOPPED = [start(1, 10.0), end(1, 20.0, "preempted")]


@pytest.mark.parametrize(
    ("events", "queue", "state"),
    [
        ([start(1, 10.0)], {"7": RUNNING}, "running"),
        (STOPPED, {"7": PENDING}, "preempted, waiting"),
        ([start(1, 10.0), end(1, 20.0, "time_limit")], {"7": PENDING}, "time limit, waiting"),
        (STOPPED, {"7": RUNNING}, "starting"),
        (STOPPED, {"7": QueuedJob("COMPLETING", "None", 0.0)}, "ending"),
        (STOPPED, {}, "stopped (preempted)"),
        ([start(1, 10.0), end(1, 20.0, "crashed")], {}, "crashed"),
        ([start(1, 10.0)], {}, "crashed (lost)"),
        ([start(1, 10.0)], {"8": RUNNING}, "crashed (lost)"),
        ([start(1, 10.0)], None, "unknown"),
        ([start(1, 10.0, job_id="7_2")], {"7_2": RUNNING, "7_3": PENDING}, "running"),
    ],
)
def test_state_follows_from_the_folder_and_the_queue(run, events, queue, state):
    write_lines(run.attempts, events)
    assert status_of(run, queue).state == state
    run.completed.write_text("100\n")
    assert status_of(run, queue).state == "complete"
    assert status_of(run, queue).step == 100


@pytest.mark.parametrize(
    ("queue", "state"),
    [({"9": PENDING}, "queued"), ({"9": RUNNING}, "starting"), ({}, "cancelled or lost before it began")],
)
@pytest.mark.parametrize("events", [[], STOPPED])
def test_a_submitted_job_counts_before_its_first_record(run, events, queue, state):
    write_lines(run.attempts, events)
    run.launch.write_text(json.dumps({"job_id": "9", "started_at": "2026-01-01T00:00:00+0000"}))
    assert status_of(run, queue).state == state
    assert status_of(run, queue).job_id == "9"


@pytest.mark.parametrize(
    ("events", "cause", "state"),
    [
        ([], "cancelled", "cancelled (before it began)"),
        ([], "crashed", "crashed (before its first record)"),
        ([], "node_failure", "stopped (node failure)"),
        (STOPPED, "cancelled", "cancelled (while it waited)"),
        (STOPPED, "crashed", "stopped (preempted)"),
        (STOPPED[:1], "cancelled", "cancelled"),
        (STOPPED[:1], "time_limit", "stopped (time limit)"),
        (STOPPED[:1], "crashed", "crashed (lost)"),
        ([start(1, 10.0), end(1, 20.0, "crashed")], "cancelled", "crashed"),
    ],
)
def test_slurm_says_how_a_job_ended_that_could_not(run, monkeypatch, events, cause, state):
    write_lines(run.attempts, events)
    run.launch.write_text(json.dumps({"job_id": "7", "started_at": "1970-01-01T00:00:05+0000"}))
    monkeypatch.setattr(status, "cause_of_last_end", lambda job: cause)
    found = status_of(run, {})
    assert (found.state, found.has_ended) == (state, True)


def test_a_local_start_after_a_job_is_local(run):
    write_lines(run.attempts, [*STOPPED, start(2, 30.0, job_id=None), end(2, 40.0, "cancelled", job_id=None)])
    run.launch.write_text(json.dumps({"ranks": 2, "started_at": "1970-01-01T00:00:25+0000"}))
    found = status_of(run, {"7": RUNNING})
    assert (found.job_id, found.state) == (None, "stopped (cancelled)")


def test_a_local_launch_before_its_first_record_leaves_the_job_that_was_before(run):
    write_lines(run.attempts, STOPPED)
    run.launch.write_text(json.dumps({"ranks": 2, "started_at": "1970-01-01T00:00:25+0000"}))
    assert status_of(run, {}).job_id == "7"


def test_a_local_run_is_running_as_long_as_its_process_lives(run):
    write_lines(run.attempts, [start(1, 10.0, job_id=None)])
    assert status_of(run, {}).state == "crashed (lost)"
    with held_lease(run.root):
        assert status_of(run, {}).state == "running"
    write_lines(run.attempts, [start(1, 10.0, job_id=None, hosts=["another-machine"])])
    assert status_of(run, {}).state == "unknown"


def test_step_pace_and_eta(run):
    run.launch.write_text(json.dumps({"job_id": "7", "total_steps": 100, "started_at": "1970-01-01T00:00:00+0000"}))
    write_lines(run.attempts, [*STOPPED, start(2, 30.0)])
    write_lines(run.metrics, [*steps(1, 1, 12, at_s=11.0), *steps(2, 9, 20, at_s=31.0, pace_s=2.0)])
    found = status_of(run, {"7": RUNNING}, total_steps=7)
    assert (found.step, found.total_steps, found.starts) == (20, 100, 2)
    assert (found.eta_s, found.jets_per_s, found.loss) == (160.0, 80.0, 1 / 20)
    assert status_of(run, {"7": PENDING}).eta_s is None


# -- logs --------------------------------------------------------------------------------------------------------------


def test_a_log_is_followed_across_files_until_the_run_has_ended(run, monkeypatch, capsys):
    monkeypatch.setattr("jetmae.watch.logs.POLL_S", 0.0)
    monkeypatch.setattr("jetmae.watch.logs.STATE_POLL_S", 0.0)
    write_lines(run.attempts, [start(1, 10.0), start(2, 30.0, job_id="8")])
    pieces = iter([("7_1_log.out", "first\nhal"), ("7_1_log.out", "f\n"), ("8_1_log.out", "requeued\n")])

    def write_next_piece() -> bool:
        name, text = next(pieces, ("8_1_log.out", "last\n"))
        with (run.logs / name).open("a") as file:
            file.write(text)
        return text == "last\n"

    follow(Reader(lambda: log_files(run, rank=1)), write_next_piece)
    assert capsys.readouterr().out == "first\nhalf\nrequeued\nlast\n"


# -- Slurm's answers ---------------------------------------------------------------------------------------------------


def test_answers_of_slurm_are_understood(monkeypatch):
    answers = {
        "squeue": "7|RUNNING|1000|None\n8_1|PENDING|1001|Resources\ngarbage\n",
        "sacct": "1000|1010|1020|cpu=2,gres/gpu=4,node=2\n1021|Unknown|Unknown|\n1021|1030|Unknown|\n",
    }
    monkeypatch.setattr(slurm_jobs, "ask", lambda *words, **_: answers[words[0]])
    queue = slurm_jobs.queue_of([0])
    assert queue == {"7": QueuedJob("RUNNING", "None", 1000.0), "8_1": QueuedJob("PENDING", "Resources", 1001.0)}
    assert [job.waits for job in queue.values()] == [False, True]
    assert slurm_jobs.starts_of("7") == [JobStart(1000, 1010, 1020, 4), JobStart(1021, 1030, None, 0)]


def test_local_runs_do_not_trouble_slurm(run, monkeypatch):
    monkeypatch.setattr(status, "queue_of", lambda users: pytest.fail("asked Slurm"))
    write_lines(run.attempts, [start(1, 10.0, job_id=None)])
    assert queue_for([run]) == {}


# -- the commands ------------------------------------------------------------------------------------------------------


@pytest.fixture
def without_slurm(tmp_path) -> dict[str, str]:
    """An environment in which every Slurm command fails, as with a controller that is down."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("squeue", "sacct", "scancel", "scontrol"):
        (folder / name).write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_commands_survive_a_slurm_that_does_not_answer(run, without_slurm):
    write_lines(run.attempts, [start(1, 10.0)])
    write_lines(run.metrics, steps(1, 1, 12, at_s=11.0))
    runs = ("--runs-dir", run.root.parent)
    listed = type_command("runs.py", *runs, "list", **without_slurm)
    assert listed.returncode == 0
    assert listed.stdout.splitlines()[1].split() == [
        "run",
        "pretrain",
        "unknown",
        "12/100",
        "12",
        "%",
        "-",
        "-",
        "1",
        "7",
    ]
    shown = type_command("runs.py", *runs, "status", "run", **without_slurm)
    assert shown.returncode == 0
    assert "unknown: Slurm does not say what became of job 7" in shown.stdout
    for action in ("cancel", "requeue"):
        refused = type_command("runs.py", *runs, action, "run", **without_slurm)
        assert refused.returncode == 78
        assert "Slurm does not say what job 7" in refused.stderr


def test_a_local_run_is_not_cancelled_from_here(run):
    write_lines(run.attempts, [start(1, 10.0, job_id=None)])
    with held_lease(run.root):
        refused = type_command("runs.py", "cancel", run.root)
    assert refused.returncode == 78
    assert "press Ctrl-C where it was launched" in refused.stderr
    assert "nothing to cancel" in type_command("runs.py", "cancel", run.root).stdout


def test_a_requeue_without_a_job_says_how_to_start_again(run):
    run.launch.write_text(json.dumps({"command": ["jobs/launch.py", "pretrain", "a b=c"], "working_directory": "/x y"}))
    refused = type_command("runs.py", "requeue", run.root)
    assert refused.stderr.endswith("start it again: cd '/x y' && python jobs/launch.py pretrain 'a b=c'\n")


def test_logs_of_a_run(run):
    (run.logs / "run.log").write_text("attempt 1\n")
    (run.logs / "rank-1.log").write_text("rank one\n")
    assert type_command("runs.py", "logs", run.root).stdout == "attempt 1\n"
    assert type_command("runs.py", "logs", run.root, "--rank", 1).stdout == "rank one\n"
    assert "rank 2 has written nothing" in type_command("runs.py", "logs", run.root, "--rank", 2).stderr


def test_a_reader_that_has_seen_enough_ends_it_quietly(run):
    (run.logs / "run.log").write_text("a line\n" * 100_000)
    shell = f"{sys.executable} {PROJECT / 'jobs' / 'runs.py'} logs {run.root} | head -1"
    finished = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
    assert (finished.stdout, finished.stderr) == ("a line\n", "")


def test_a_folder_without_runs_says_so(tmp_path):
    for words in (("--runs-dir", tmp_path, "list"), ("list", "--runs-dir", tmp_path)):
        assert type_command("runs.py", *words).stdout == f"no runs in {tmp_path}\n"


def test_the_ssh_line_leads_to_a_compute_node_through_the_login_node(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    monkeypatch.setattr("getpass.getuser", lambda: "me")
    assert ssh_line(6006, {}) == "ssh -N -L 6006:127.0.0.1:6006 me@node7"
    job = {"SLURM_JOB_ID": "1", "SLURM_SUBMIT_HOST": "login1"}
    assert ssh_line(6006, job) == "ssh -N -L 6006:127.0.0.1:6006 -J me@login1 me@node7"


def test_tensorboard_listens_on_loopback_only_and_names_the_runs():
    what = named({"a": Path("/runs/a/tensorboard"), "b": Path("/runs/b/tensorboard")})
    assert what == ["--logdir_spec", "a:/runs/a/tensorboard,b:/runs/b/tensorboard"]
    words = command(what, 6006)
    assert words[words.index("--host") + 1] == "127.0.0.1"
    with pytest.raises(JetmaeError, match="TensorBoard splits paths"):
        named({"a": Path("/runs/a,b/tensorboard")})


def test_help_names_every_command():
    printed = subprocess.run(
        [sys.executable, PROJECT / "jobs" / "runs.py", "--help"], capture_output=True, text=True, check=False
    )
    for name in ("list", "status", "logs", "cancel", "requeue", "tensorboard", "report", "goodput"):
        assert f"jetmae runs {name}" in printed.stdout
