"""Names that no file system takes, folders of others, machines without a cluster: one line each, and no traceback."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jetmae import command_line
from jetmae.errors import JetmaeError, exit_with_one_line
from jetmae.launch import submission
from jetmae.launch.resources import Resources
from jetmae.run_folder import find_run, is_run
from tests.conftest import TINY, launch, type_command

LONG = "x" * 300


@pytest.mark.parametrize("words", [("status", LONG), ("logs", LONG), ("status", f"{LONG}/y"), ("goodput", LONG),
                                   ("cancel", LONG), ("report", LONG)])  # fmt: skip
def test_a_run_whose_name_is_too_long(tmp_path, words):
    finished = type_command("runs.py", "--runs-dir", tmp_path, *words)
    assert finished.returncode == 78
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("finetune", f"init_from={LONG}"), ("finetune", f"init_from=/{LONG}"),
                                   ("pretrain", "--name", LONG), ("pretrain", f"data.path=/{LONG}")])  # fmt: skip
def test_a_launch_with_a_name_that_is_too_long(tmp_path, sample, words):
    finished = launch(words[0], *TINY[:3], f"data.path={sample}", *words[1:], runs=tmp_path)
    assert finished.returncode in (65, 78)
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize("mistake", [PermissionError(13, "Permission denied", "/home/other/runs"),
                                     OSError(36, "File name too long", LONG),
                                     NotADirectoryError(20, "Not a directory", "a/b")])  # fmt: skip
def test_what_the_file_system_refuses_is_one_line(mistake, capsys):
    def refuse() -> None:
        raise mistake

    with pytest.raises(SystemExit, match="78"):
        exit_with_one_line(refuse)
    said = capsys.readouterr().err
    assert said.startswith(f"error: {mistake.filename}: {mistake.strerror}; expected a file or folder")


@contextmanager
def as_another_user() -> Iterator[None]:
    """This process as a user who may not read everything, if it is root."""
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_cannot_be_read_is_no_run(tmp_path):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "config.yaml").touch()
    (tmp_path / "runs" / "run").chmod(0o000)
    with as_another_user():
        assert not is_run(tmp_path / "runs" / "run")
        with pytest.raises(JetmaeError, match="no run 'run'"):
            find_run("run", tmp_path / "runs")


def test_a_run_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    for name, text in {"good": "task: pretrain\ndata: {path: /nowhere}\noptim: {steps: 9}\n", "bad": "["}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    finished = type_command("runs.py", "--runs-dir", tmp_path, "list")
    assert finished.returncode == 0
    assert "good" in finished.stdout
    assert finished.stderr.startswith("bad: ")


@pytest.mark.parametrize("script", ["jetmae", "my clone/jobs/runs.py"])
def test_a_command_that_is_told_survives_the_shell(monkeypatch, script):
    monkeypatch.setattr(sys, "argv", [script])
    words = shlex.split(command_line.typed("runs status", "/a b/it's; one"))
    assert words[-2:] == ["status", "/a b/it's; one"]
    assert "my clone/jobs/runs.py" in words or words[:2] == ["jetmae", "runs"]


@pytest.mark.parametrize(
    ("said", "todo"),
    [
        ("sbatch: fatal: Could not establish a configuration source", "--cluster local"),
        ("sbatch: error: Unable to contact slurm controller (connect failure)", "--cluster local"),
        ("sbatch: error: invalid partition specified: gpuu", "sinfo"),
    ],
)
def test_an_sbatch_without_a_cluster_points_to_this_machine(tmp_path, monkeypatch, capfd, said, todo):
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho 'sbatch: error: first line' >&2\necho '{said}' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    reason = said.split(": ", 2)[2]
    with pytest.raises(JetmaeError, match=todo) as refused:
        submission.submit([tmp_path / "run"], Resources(), name="run")
    assert reason in str(refused.value)
    assert capfd.readouterr().err == ""
