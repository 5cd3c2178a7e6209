"""Odd and hostile environments: a job is what was typed, it is seen while it waits, and nothing ends in a traceback."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.training import SETTINGS
from tests.conftest import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
TYPED = ("--partition", "high", "--time", "7", "--lead-time-s", "77", "--nodes", "2", "--ranks-per-node", "1",
         "--qos", "normal", "--sbatch", "begin=now+1hour")  # fmt: skip
WANTED = {"Partition": "high", "TimeLimit": "00:07:00", "Requeue": "1", "NumNodes": "2-2", "QOS": "normal",
          "Dependency": "(null)", "Reason": "BeginTime", "OverSubscribe": "OK", "Features": "(null)",
          "Comment": None, "ArrayJobId": None, "NumTasks": "2"}  # fmt: skip
PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
UNSET = "(unset)"
SEEN = "seen"  # the run whose job waits while others look at it
SUBMITTING = ("SBATCH_", "SALLOC_", "SCANCEL_", "SLURM_", "JETMAE_", "PYTHONIO", "TMPDIR", "HOME", "USER", "umask")


def each(**values: str) -> list[dict[str, str]]:
    """One environment for each variable alone."""
    return [{name: value} for name, value in values.items()]


ENVIRONMENTS = [
    {},
    *each(SBATCH_ACCOUNT="nobody", SBATCH_ARRAY_INX="0-3", SBATCH_CLUSTERS="other", SBATCH_CONSTRAINT="",
          SBATCH_DEPENDENCY="afterok:1", SBATCH_DISTRIBUTION="plane", SBATCH_ERROR="/nowhere/err",
          SBATCH_EXCLUSIVE="1", SBATCH_EXPORT="NONE", SBATCH_GET_USER_ENV="1", SBATCH_GPUS="9", SBATCH_HINT="x",
          SBATCH_INPUT="/nowhere/in", SBATCH_JOB_NAME="other", SBATCH_MEM_PER_NODE="1T", SBATCH_NO_REQUEUE="1",
          SBATCH_OPEN_MODE="truncate", SBATCH_OUTPUT="/nowhere/out", SBATCH_OVERCOMMIT="1", SBATCH_PARTITION="nowhere",
          SBATCH_QOS="urgent", SBATCH_REQUEUE="0", SBATCH_SIGNAL="USR1@5", SBATCH_TIMELIMIT="1-0", SBATCH_WAIT="1",
          SBATCH_THREADS_PER_CORE="9", SBATCH_USE_MIN_NODES="1", SBATCH_DEBUG="5", SBATCH_TEST_ONLY="1"),
    *each(SQUEUE_STATES="COMPLETED", SQUEUE_PARTITION="low", SQUEUE_FORMAT="%j", SQUEUE_FORMAT2="jobid",
          SQUEUE_SORT="x", SQUEUE_USERS="nobody", SQUEUE_ACCOUNT="nobody", SQUEUE_LICENSES="x", SQUEUE_NAMES="other"),
    *each(SINFO_FORMAT="%n", SINFO_PARTITION="low", SINFO_SORT="x", SACCT_FORMAT="jobid", SCONTROL_ALL="1",
          SCANCEL_INTERACTIVE="1", SCANCEL_STATE="RUNNING", SALLOC_PARTITION="low"),
    *each(SLURM_TIME_FORMAT="relative", SLURM_CLUSTERS="other", SLURM_EXPORT_ENV="NONE", SLURM_HINT="x",
          SLURM_BITSTR_LEN="1", SLURM_DEBUG_FLAGS="all", SLURM_UMASK="0777", SLURM_EXIT_ERROR="7"),
    {"SLURM_JOB_ID": "999", "SLURM_NTASKS": "8", "SLURM_NNODES": "8", "SLURM_PROCID": "3", "SLURM_MEM_PER_CPU": "9"},
    {"SLURM_ARRAY_JOB_ID": "999", "SLURM_ARRAY_TASK_ID": "4", "SLURM_RESTART_COUNT": "x"},
    {"JETMAE_START": "x", "RANK": "3", "WORLD_SIZE": "9", "JETMAE_LEAD_TIME_S": "soon", "JETMAE_SUCCESSORS": "1"},
    PLAIN_C,
    {**PLAIN_C, "PYTHONIOENCODING": "ascii:strict"},
    *each(LC_ALL="xx_YY", LANG="en_US.ISO-8859-1", PYTHONIOENCODING="latin-1", TMPDIR="/nowhere", HOME="/nowhere"),
    *each(HOME=UNSET, USER=UNSET, TERM="dumb", COLUMNS="1", LINES="x", MPLBACKEND="nonsense", MPLCONFIGDIR="/proc"),
    *each(HDF5_USE_FILE_LOCKING="maybe", HDF5_PLUGIN_PATH="/nowhere", NCCL_SOCKET_IFNAME="none0", TZ="Mars/Base",
          GLOO_SOCKET_IFNAME="none0", CUDA_VISIBLE_DEVICES="x,,-1", OMP_NUM_THREADS="abc", POSIXLY_CORRECT="1"),
    {"OMP_NUM_THREADS": "0", "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1", "FORCE_COLOR": "1"},
    {"umask": "077"},
    {"umask": "000"},
]  # fmt: skip


@pytest.fixture
def odd(cluster, sample, tmp_path) -> Iterator["Odd"]:
    yield Odd(cluster, sample, tmp_path)
    if left := cluster.jobs_left():
        cluster.cancel(*left)


class Odd:
    """Commands as a user of an odd environment types them."""

    def __init__(self, cluster: SlurmCluster, sample: Path, folder: Path):
        self.cluster, self.sample, self.folder = cluster, sample, folder
        self.seen_job = ""

    def submit_one_to_be_seen(self) -> None:
        submitted = self.submit({}, SEEN)
        assert faults_of(submitted) == []
        (self.seen_job,) = self.cluster.jobs_left()

    def type(self, environment: dict[str, str], script: str, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
        mask = environment.get("umask", "022")
        given = {name: value for name, value in environment.items() if name != "umask"}
        whole = {name: value for name, value in {**self.cluster.environment, **given}.items() if value != UNSET}
        command = ["bash", "-c", f'umask {mask}; exec "$@"', "bash", sys.executable, PROJECT / "jobs" / script, *words]
        return subprocess.run(command, capture_output=True, env=whole, cwd=self.folder, timeout=120, check=False)

    def submit(self, environment: dict[str, str], name: str) -> subprocess.CompletedProcess[bytes]:
        words = ("--runs-dir", self.folder / name, "--name", name, *SETTINGS, f"data.path={self.sample}", *TYPED)
        return self.type(environment, "launch.py", "pretrain", *words)

    def faults(self, number: int, environment: dict[str, str]) -> list[str]:
        """What goes wrong in an environment, in words: at a submission, or, if it concerns only that, at a look."""
        if not any(name.startswith(SUBMITTING) for name in environment):
            return self.faults_of_a_look(environment)
        name = f"run-{number}"
        submitted = self.submit(environment, name)
        found = [f"launch: {fault}" for fault in faults_of(submitted)]
        match = re.search(rb"^job (\d+) submitted", submitted.stdout, flags=re.MULTILINE)
        if match is None:
            return [*found, "launch: no job"]
        found += self.differences(match[1].decode(), name)
        if any(variable.startswith("SCANCEL_") for variable in environment):
            cancelled = self.type(environment, "runs.py", "--runs-dir", self.folder / name, "cancel", name)
            found += [f"cancel: {fault}" for fault in faults_of(cancelled)]
            if match[1].decode() in self.cluster.jobs_left():
                found.append("cancel: the job is still there")
        return found

    def faults_of_a_look(self, environment: dict[str, str]) -> list[str]:
        """At a job that waits in the queue since before."""
        found = []
        for command, *rest in (("list",), ("status", SEEN)):
            looked = self.type(environment, "runs.py", "--runs-dir", self.folder / SEEN, command, *rest)
            found += [f"{command}: {fault}" for fault in faults_of(looked)]
            if not (b"queued" in looked.stdout and self.seen_job.encode() in looked.stdout):
                found.append(f"{command} does not show job {self.seen_job}: {looked.stdout!r}")
        if any(variable.startswith("SQUEUE_") for variable in environment):
            again = self.submit(environment, SEEN)
            if f"has job {self.seen_job}".encode() not in again.stdout + again.stderr:
                found.append(f"a second launch does not see the first: {again.stdout!r} {again.stderr!r}")
        return found

    def differences(self, job: str, name: str) -> list[str]:
        """Between what Slurm has and what was typed."""
        facts = {"JobName": name, **WANTED}
        has = self.cluster.job(job)
        found = [f"{key} is {has.get(key)}, not {value}" for key, value in facts.items() if has.get(key) != value]
        script = self.cluster.run("scontrol", "write", "batch_script", job, "-")
        if "#SBATCH --signal=USR2@77" not in script or str(self.folder) not in has["StdOut"]:
            found.append(f"another script or output: {has['StdOut']}")
        return found


def faults_of(finished: subprocess.CompletedProcess[bytes]) -> list[str]:
    found = [] if finished.returncode == 0 else [f"exit code {finished.returncode}: {finished.stderr.decode()}"]
    return found + (["a traceback"] if b"Traceback" in finished.stderr + finished.stdout else [])


def test_there_are_enough_and_all_differ():
    assert len(ENVIRONMENTS) >= 60
    assert all(first != second for first, second in itertools.combinations(ENVIRONMENTS, 2))


def test_a_job_is_what_was_typed_and_is_seen_in_every_environment(odd):
    odd.submit_one_to_be_seen()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = pool.map(odd.faults, range(len(ENVIRONMENTS)), ENVIRONMENTS)
    faults = {str(environment): found for environment, found in zip(ENVIRONMENTS, results, strict=True) if found}
    assert faults == {}


def test_doctor_has_its_verdicts_in_odd_environments(odd):
    """It imports all of training, which takes seconds: two processes, each with many oddities at once."""
    merged = [
        {**PLAIN_C, "PYTHONIOENCODING": "ascii:strict", "SQUEUE_FORMAT": "%j", "SINFO_FORMAT": "%n", "HOME": UNSET,
         "SLURM_TIME_FORMAT": "relative", "SBATCH_PARTITION": "high", "MPLCONFIGDIR": "/proc", "COLUMNS": "1"},
        {"SBATCH_SIGNAL": "USR1@5", "SBATCH_ARRAY_INX": "0-3", "SLURM_JOB_ID": "999", "TMPDIR": "/nowhere",
         "CUDA_VISIBLE_DEVICES": "x,,-1", "OMP_NUM_THREADS": "abc", "HDF5_USE_FILE_LOCKING": "maybe", "TERM": "dumb"},
    ]  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda environment: odd.type(environment, "doctor.py", "--runs-dir", odd.folder), merged))
    for finished in said:
        assert faults_of(finished) == []
    assert b"partition high from SBATCH_PARTITION" in said[0].stderr
    assert b"partition high" in said[0].stdout
    assert b"left out: SBATCH_ARRAY_INX, SBATCH_SIGNAL, SLURM_* of job 999" in said[1].stderr
