"""Jobs that were queued before the move ask for modules by their old names, in scripts and in submitit's pickles."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from tests.conftest import TINY, TINY_DECODER, launch, succeed
from tests.integration.ranks import run_two_ranks

SHORT = (*TINY, *TINY_DECODER, "optim.batch_size=8", "optim.steps=3", "optim.warmup_epochs=0")
OLD_MODULE = b"jetmae.runtime.train_job"
A_TASK_OF_SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "1",
    "SLURM_NNODES": "1",
}
CALL = "import pickle, sys; pickle.load(sys.stdin.buffer)()"


def old_pickle(name: bytes, **attributes: object) -> bytes:
    """An object as the old code has pickled it: the class by its old path, and then its attributes."""
    state = pickle.dumps(attributes, protocol=2).removeprefix(b"\x80\x02").removesuffix(b".")
    return b"\x80\x02c" + OLD_MODULE + b"\n" + name + b"\n)\x81" + state + b"b."


def call(pickled: bytes, **environment: str) -> subprocess.CompletedProcess:
    """Unpickle and call, as submitit does it on a rank."""
    command = [sys.executable, "-c", CALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, input=pickled, capture_output=True, env=environment, timeout=400, check=False)


def freeze(sample: Path, runs: Path, *options: object) -> RunFolder:
    """A tiny run that has not been started."""
    frozen = launch("pretrain", *SHORT, f"data.path={sample}", "--name", "tiny", "--freeze", *options, runs=runs)
    return RunFolder(Path(succeed(frozen).stdout.strip()))


def is_complete_after_one_start(run: RunFolder) -> bool:
    """Whether nothing is left to do, and the record says so."""
    events = [(line["event"], line.get("cause")) for line in read_lines(run.attempts)]
    return run.completed.read_text() == "3\n" and events == [("start", None), ("end", "completed")]


@pytest.mark.slow
def test_jetmae_run_trains_on_all_ranks_to_the_end(sample, tmp_path):
    run = freeze(sample, tmp_path, "--ranks-per-node", 2)
    ended = run_two_ranks("jetmae.run", run.root)
    assert [rank.code for rank in ended] == [0, 0], ended
    assert is_complete_after_one_start(run)


@pytest.mark.slow
def test_an_old_pickle_of_a_train_job_trains_to_the_end(sample, tmp_path):
    run = freeze(sample, tmp_path)
    finished = call(old_pickle(b"TrainJob", run_dir=str(run.root)), **A_TASK_OF_SLURM)
    assert finished.returncode == 0, finished.stderr
    assert is_complete_after_one_start(run)
    assert read_lines(run.attempts)[0]["start_token"] == "7.0.0"


def test_an_old_pickle_of_a_command_job_becomes_the_command():
    finished = call(old_pickle(b"CommandJob", command=[sys.executable, "-c", "print('the report')"]))
    assert finished.stdout == b"the report\n", finished.stderr


@pytest.mark.parametrize("code", [0, 137])
def test_the_supervisor_judges_alike_under_both_names(tmp_path, code):
    old, new = (judge(name, tmp_path / name, code) for name in ("jetmae.supervisor", "jetmae.launch.supervisor"))
    assert old == new
    assert f"exit code {code}" in old[1]
    assert old[0] == code


def judge(module: str, folder: Path, code: int) -> tuple[int, str, list[dict]]:
    """Exit code, words and record of a supervisor that finds the same run each time, outside Slurm."""
    (folder / "run").mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    command = [sys.executable, "-m", module, "run", str(code)]
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert finished.stderr == ""
    lines = read_lines(folder / "run" / "attempts.jsonl")
    return finished.returncode, finished.stdout, [{**line, "time_s": None} for line in lines]
