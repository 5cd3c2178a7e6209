"""The sbatch templates as files: clean, complete, and a chain that depends on the right things."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jetmae.launch import submission
from jetmae.launch.resources import Resources
from tests.conftest import PROJECT, TINY, succeed

TEMPLATES = sorted((PROJECT / "slurm").iterdir())
NOT_IN_A_TEMPLATE = {"wckey"}  # submitit's own mark
CODE = (
    'if (cd -- "$code" && sha256sum --check --status SHA256SUMS) 2>/dev/null; then\n'
    '    export PYTHONPATH="$code${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1\nfi\n'
)
FAKE_SBATCH = """#!/bin/sh
echo "$*" >> "$CALLS"
wc -l < "$CALLS"
"""


def options_of(script: str) -> dict[str, str]:
    """The #SBATCH options of a script and their values."""
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, flags=re.MULTILINE))


def template(name: str) -> str:
    return (PROJECT / "slurm" / name).read_text()


def test_there_are_four():
    assert [path.name for path in TEMPLATES] == ["array.sbatch", "chain.sh", "tensorboard.sbatch", "train.sbatch"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    finished = subprocess.run([shellcheck, "--norc", path], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("name", ["train.sbatch", "array.sbatch"])
def test_every_option_of_the_launcher_is_in_the_template(tmp_path, name):
    launched = options_of(submission.script([tmp_path], Resources(nodes=2), name="run"))
    own = options_of(template(name))
    assert {"requeue", "open-mode", "signal"} <= set(launched)
    assert set(launched) - set(own) == NOT_IN_A_TEMPLATE
    for option in ("requeue", "open-mode", "signal", "time"):
        assert own[option] == launched[option]


def test_srun_and_what_follows_it_are_the_launchers(tmp_path):
    launched = submission.script([tmp_path], Resources(), name="run")
    for text in ("--kill-on-bad-exit=1", "--wait=60", "trap : TERM USR2", "jetmae.launch.supervisor", CODE):
        assert text in launched
        assert text in template("train.sbatch")


@pytest.mark.slow
def test_a_chain_waits_for_what_it_needs_and_leaves_out_what_is_complete(sample, tmp_path):
    calls = submit_chain(sample, tmp_path)
    jobs = {re.search(r"--job-name=\S*?([a-z-]+) ", call)[1]: number for number, call in enumerate(calls, start=1)}
    waits = [re.search(r"--dependency=(\S+)", call)[1] for call in calls]
    assert jobs == {"pretrain": 1, "finetune": 2, "scratch": 3, "probe": 4, "probe-random": 5, "probe-observables": 6,
                    "jetmae-report": 7}  # fmt: skip
    needs_pretrain = "singleton,afterok:1"
    singly = "singleton"
    assert waits == [singly, needs_pretrain, singly, needs_pretrain, singly, singly, "afterok:1:2:3:4:5:6"]
    assert all("--kill-on-invalid-dep=yes" in call for call in calls)

    for run in ("pretrain", "scratch"):
        (tmp_path / "runs" / "chain" / run / "COMPLETED").touch()
    calls = submit_chain(sample, tmp_path)
    waits = [re.search(r"--dependency=(\S+)", call)[1] for call in calls]
    assert waits == ["singleton", "singleton", "singleton", "singleton", "afterok:1:2:3:4"]


def submit_chain(sample: Path, folder: Path) -> list[str]:
    """`slurm/chain.sh` with an sbatch that numbers its calls; returns them."""
    fake, calls = folder / "bin" / "sbatch", folder / "calls"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(FAKE_SBATCH)
    fake.chmod(0o755)
    calls.write_text("")
    encoder = [word for word in TINY if word.startswith("model.")]
    words = [*encoder, "--name", "chain", "--runs-dir", folder / "runs", "--nodes", "2", f"data.path={sample}"]
    path = f"{fake.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CALLS": str(calls)}
    command = ["bash", PROJECT / "slurm" / "chain.sh", *words]
    succeed(subprocess.run(command, env=environment, capture_output=True, text=True, check=False))
    return calls.read_text().splitlines()
