"""What is written into a run folder before a start: the experiment, which never changes, and the launch record."""

import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from jetmae.config import RANDOM, Experiment, as_yaml, identity_of, read_experiment
from jetmae.errors import JetmaeError
from jetmae.files import make_folder, write_text
from jetmae.records.launch import TIME_FORMAT, LaunchRecord, read_launch, write_launch
from jetmae.run_folder import RunFolder, find_run

LAUNCH_PACKAGES = ("jetmae", "torch", "timm", "deepspeed", "numpy", "h5py")


def located(experiment: Experiment, runs_dir: Path) -> Experiment:
    """The experiment with absolute paths: a job may start in another working directory.

    Raises:
        JetmaeError: init_from names no run.
    """
    data = experiment.data.model_copy(update={"path": str(Path(experiment.data.path).resolve())})
    init_from = experiment.init_from
    if init_from not in (None, RANDOM) and not Path(init_from).is_absolute():
        init_from = str(find_run(init_from, runs_dir).root)
    return experiment.model_copy(update={"data": data, "init_from": init_from})


def freeze(experiment: Experiment, run: RunFolder) -> None:
    """Write config.yaml. If there is one, it may differ only in what is free on a resume (config.FREE_ON_RESUME).

    Raises:
        JetmaeError: the folder holds another experiment, or cannot be written.
    """
    make_folder(run.root)
    frozen = read_experiment(run.config) if run.config.exists() else experiment
    old, new = identity_of(frozen), identity_of(experiment)
    if different := [f"{key}={new.get(key)} (frozen: {old.get(key)})" for key in old if old[key] != new.get(key)]:
        raise JetmaeError(
            f"{run.root} holds another experiment: {', '.join(different)}; continue it as it is, or use another --name"
        )
    if frozen != experiment or not run.config.exists():
        write_text(run.config, as_yaml(experiment))


def write_launch_record(run: RunFolder, *, ranks: int, total_steps: int, job_id: str | None = None) -> None:
    """Write launch.json: with what code, packages and command the run is started, and when it was ever started.

    Raises:
        JetmaeError: launch.json of an earlier start is damaged.
    """
    now_s = time.time()
    record = LaunchRecord(
        command=sys.argv,
        working_directory=os.getcwd(),
        started_at=time.strftime(TIME_FORMAT, time.localtime(now_s)),
        launches_s=[*read_launch(run.launch).launches_s, now_s],
        ranks=ranks,
        total_steps=total_steps,
        job_id=job_id,
        git_commit=_git("rev-parse", "HEAD"),
        git_diff=_git("diff", "HEAD"),
        packages={name: version(name) for name in LAUNCH_PACKAGES},
        python=sys.version.split()[0],
    )
    write_launch(run.launch, record)


def _git(*words: str) -> str | None:
    if shutil.which("git") is None:
        return None
    finished = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True)
    return finished.stdout.strip() if finished.returncode == 0 else None
