"""A real Slurm cluster of several machines on this one: start it, use it, cut its power, end it.

    with SlurmCluster() as cluster:
        job_id = cluster.submit("--nodes=2", shell="srun hostname")
        cluster.wait_for(job_id, "COMPLETED")

Ordinary commands work with `cluster.environment`. Jobs see this machine's file system and run as this user. The kernel
ends every daemon with the thread that called `start`, so nothing is left even when the owner is killed.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.cluster import configuration
from tests.cluster.processes import (
    ClusterError,
    accepts_connections,
    command_line,
    descendants,
    kill_with_descendants,
    require_programs,
    search_path,
    start_owned,
    wait_until,
)

FOLDER_PREFIX = "jetmae-cluster-"
START_TIMEOUT_S = 60
COMMAND_TIMEOUT_S = 60
PROBE_TIMEOUT_S = 3
SLURM_PROCESSES = {"slurmd", "slurmstepd"}
ABANDONED_AFTER_S = 60
FINAL_STATES = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT"}

Job = dict[str, str]


class SlurmCluster:
    """Three nodes by default, each with 2 CPUs, 8 GiB and 2 GPUs that are only names.

    Partitions: `low` (default; preempted with 8 s of grace), `abrupt` (preempted with none), `high` (preempts both).
    """

    def __init__(self, num_nodes: int = 3, *, preempt_send_user_signal: bool = False):
        self._num_nodes = num_nodes
        self._preempt_send_user_signal = preempt_send_user_signal
        self._daemons: dict[str, subprocess.Popen] = {}
        self._machines: dict[str, subprocess.Popen] = {}

    # -- its life ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start every daemon and return when all nodes are idle. Raises ClusterError, with the logs, if that fails."""
        require_programs()
        _remove_abandoned_folders()
        self.folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self._lock = _lock(self.folder)
        user_signal = self._preempt_send_user_signal
        self._layout = configuration.lay_out(self.folder, self._num_nodes, preempt_send_user_signal=user_signal)
        try:
            self._start_daemons()
        except BaseException as error:
            logs = self.logs()
            self.stop()
            if not isinstance(error, Exception):  # Ctrl-C or the end of the program: not the cluster's failure
                raise
            raise ClusterError(f"the cluster did not start: {error}\n{logs}") from error

    def stop(self) -> None:
        """End every process of the cluster, jobs included, and remove its folder."""
        for node in list(self._machines):
            self.power_cut(node)
        for daemon in reversed(list(self._daemons.values())):
            kill_with_descendants(daemon, signal.SIGKILL)
        self._daemons.clear()
        os.close(self._lock)
        shutil.rmtree(self.folder)

    @property
    def nodes(self) -> list[str]:
        return list(self._layout.addresses)

    @property
    def ports(self) -> list[int]:
        return list(self._layout.ports.values())

    @property
    def has_own_machines(self) -> bool:
        """Nodes have host names and process ids of their own; only root can have that."""
        return self._layout.has_own_machines

    @property
    def environment(self) -> dict[str, str]:
        """For subprocesses: sbatch, squeue and submitit find the cluster, `python` is the one that runs this."""
        inherited = {
            key: value for key, value in os.environ.items() if not re.match("(SLURM|SBATCH|SRUN|SALLOC)_", key)
        }
        path = os.pathsep.join((str(Path(sys.executable).parent), search_path()))
        return {**inherited, "PATH": path, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def logs(self, num_lines: int = 40) -> str:
        """The last lines of every daemon's log and of every job's output, under their names."""
        paths = sorted(path for path in self.folder.glob("*/*") if path.parent.name in ("log", "output"))
        # What a daemon writes to its log goes to stderr too: that is of use where it did not come as far as a log.
        wanted = [path for path in paths if path.suffix != ".stderr" or path.with_suffix(".log") not in paths]
        return "\n".join(f"---- {path.name}\n{_tail(path, num_lines)}" for path in wanted)

    # -- commands and jobs -------------------------------------------------------------------------------------------

    def run(self, *command: str | Path, stdin: str = "", timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """What a command prints, run with the cluster's environment. Raises ClusterError when it fails."""
        words = list(map(str, command))
        finished = subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.environment,
            cwd=self._layout.output_folder,
            check=False,
        )
        if finished.returncode != 0:
            raise ClusterError(
                f"{' '.join(words)} ended with {finished.returncode}: {finished.stdout}{finished.stderr}"
            )
        return finished.stdout.strip()

    def submit(self, *words: str | Path, shell: str | None = None) -> str:
        """`sbatch words...`, or a script of these `shell` lines with words as sbatch's options; returns the job id."""
        script = "" if shell is None else f"#!/bin/bash\n{shell}\n"
        return self.run("sbatch", "--parsable", *words, stdin=script).split(";")[0]

    def job(self, job_id: str) -> Job:
        """Every field of `scontrol show job`, as text; of an array, name one element: 7_2."""
        jobs = [_fields(line) for line in self.run("scontrol", "-o", "show", "job", job_id).splitlines()]
        if len(jobs) != 1:
            raise ClusterError(f"{job_id} names {len(jobs)} jobs: expected one; name an element, as in {job_id}_0")
        return jobs[0]

    def state(self, job_id: str) -> str:
        return self.job(job_id)["JobState"]

    def accounting(self, job_id: str, *columns: str) -> list[list[str]]:
        """sacct's columns for a job, one row per start of it (a requeue adds one), without its steps."""
        names = ",".join(columns)
        options = ("--parsable2", "--noheader", "--allocations", "--duplicates", f"--format={names}")
        return [line.split("|") for line in self.run("sacct", *options, "--jobs", job_id).splitlines()]

    def wait_for_accounting(self, job_id: str, states: list[str], timeout_s: float = 30) -> None:
        """Wait until sacct knows these states, one per start of a job; it learns them a little later than squeue."""
        self._wait_until(
            lambda: [row[0] for row in self.accounting(job_id, "State")] == states,
            timeout_s,
            lambda: f"sacct to say {states} of job {job_id}: {self.accounting(job_id, 'State')}",
        )

    def output(self, job_id: str) -> str:
        """What the batch script and its tasks have written so far; empty before the first start."""
        path = Path(self.job(job_id)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(self, job_id: str, wanted: str | Callable[[Job], object], timeout_s: float = 60) -> Job:
        """Wait until a job is in the state `wanted`, or `wanted(fields)` is true; returns its fields.

        Raises ClusterError, with the job's output, after `timeout_s` or once it has ended in another way for good.
        """
        holds = wanted if callable(wanted) else lambda job: job["JobState"] == wanted
        seen: Job = {}

        def is_there() -> bool:
            seen.update(self.job(job_id))
            if holds(seen):
                return True
            if seen["JobState"] in FINAL_STATES:
                raise ClusterError(f"job {job_id} is {seen['JobState']} for good; its output:\n{self.output(job_id)}")
            return False

        self._wait_until(is_there, timeout_s, lambda: f"job {job_id}: {seen}; its output:\n{self.output(job_id)}")
        return dict(seen)

    def wait_for_output(self, job_id: str, text: str, timeout_s: float = 60) -> str:
        """Wait until a job has written `text`; returns all it has written."""
        self.wait_for(job_id, lambda _: text in self.output(job_id), timeout_s)
        return self.output(job_id)

    def preempt(self, job_id: str) -> str:
        """Submit a job that needs all the nodes of a running one and ranks above it; returns its id.

        It holds the nodes until it is cancelled.
        """
        nodes = self.job(job_id)["NodeList"]
        count = len(self.run("scontrol", "show", "hostnames", nodes).split())
        options = ("--partition=high", "--exclusive", "--job-name=preemptor", "--output=/dev/null")
        return self.submit(*options, f"--nodes={count}", f"--nodelist={nodes}", shell="exec sleep infinity")

    def cancel(self, *job_ids: str, timeout_s: float = 30) -> None:
        """Cancel jobs and wait until nothing of them runs."""
        self.run("scancel", *job_ids)
        self._wait_until(lambda: not self.run("squeue", "-h", "-j", ",".join(job_ids)), timeout_s, f"end of {job_ids}")

    def cancel_all(self, timeout_s: float = 30) -> None:
        """Cancel every job and wait until no process of any is left."""
        if jobs := self.jobs_left():
            self.run("scancel", *jobs)
        self._wait_until(lambda: not self.anything_left(), timeout_s, lambda: f"the end of {self.anything_left()}")

    # -- machines and what runs on them ------------------------------------------------------------------------------

    def power_cut(self, node: str) -> None:
        """Kill every process of a node at once, with no warning to anybody."""
        machine = self._machines.pop(node)
        # A namespace dies with its unshare; the stand-in of an ordinary user has to be told, and then kills its tree.
        kill_with_descendants(machine, signal.SIGKILL if self.has_own_machines else signal.SIGTERM)

    def power_on(self, node: str, timeout_s: float = 60) -> None:
        """Start a node and wait until jobs can use it."""
        self._start_machine(node)
        usable = ("idle", "planned", "mixed", "allocated")
        self._wait_until(lambda: self.node_state(node) in usable, timeout_s, f"{node} to be up")

    def node_state(self, node: str) -> str:
        """As sinfo says it: idle, planned (idle, for a waiting job), mixed, allocated, completing, down.

        A `*` behind it: the node does not answer.
        """
        return self.run("sinfo", "--noheader", "--nodes", node, "--partition=low", "--format=%T")

    def nodes_without_power(self) -> list[str]:
        return [node for node in self.nodes if node not in self._machines]

    def jobs_left(self) -> list[str]:
        """Ids of the jobs that wait or run, or whose processes still end."""
        return self.run("squeue", "--noheader", "--format=%A").split()

    def processes_left(self) -> dict[int, str]:
        """Process ids, as this machine counts them, and command lines of what runs on the nodes besides Slurm."""
        found = {}
        for machine in self._machines.values():
            below = list(descendants(machine.pid).items())
            # The one child of unshare, which comes first, only keeps the namespace.
            for pid, name in below[1:] if self.has_own_machines else below:
                if name not in SLURM_PROCESSES:
                    found[pid] = command_line(pid)
        return found

    def anything_left(self) -> list[str]:
        """Jobs and processes of jobs, in words; empty when the cluster is idle."""
        jobs = [f"job {job_id}" for job_id in self.jobs_left()]
        return jobs + [f"process {pid}: {command}" for pid, command in self.processes_left().items()]

    # -- starting ----------------------------------------------------------------------------------------------------

    def _start_daemons(self) -> None:
        """Each needs the one before it; the nodes come up together."""
        configuration.write_configuration(self._layout)
        self._start_daemon("munged", configuration.munge_command(self._layout))
        self._start_database()
        self._start_daemon("slurmdbd", ["slurmdbd", "-D"])
        self._wait_for_answer("sacctmgr", "--noheader", "show", "cluster")
        self.run("sacctmgr", "--immediate", "add", "cluster", configuration.CLUSTER_NAME)
        self._start_daemon("slurmctld", ["slurmctld", "-D"])
        self._wait_for_answer("scontrol", "ping")
        for node in self.nodes:
            self._start_machine(node)
        self._wait_until(lambda: {self.node_state(node) for node in self.nodes} == {"idle"}, what="idle nodes")

    def _start_database(self) -> None:
        bootstrap = configuration.database_command(self._layout, "--bootstrap")
        self.run(*bootstrap, stdin=configuration.bootstrap_sql())
        self._start_daemon("mariadbd", configuration.database_command(self._layout))
        self._wait_until(lambda: accepts_connections(self._layout.database_socket), what="MariaDB")

    def _start_daemon(self, name: str, command: list[str]) -> None:
        environment = {**self.environment, "MYSQL_UNIX_PORT": str(self._layout.database_socket)}
        log = self._layout.log_folder / f"{name}.stderr"
        self._daemons[name] = start_owned(command, environment, log, death_signal="KILL")

    def _start_machine(self, node: str) -> None:
        command = configuration.machine_command(self._layout, node)
        death_signal = "KILL" if self.has_own_machines else "TERM"
        log = self._layout.log_folder / f"{node}.stderr"
        self._machines[node] = start_owned(command, self.environment, log, death_signal=death_signal)

    def _wait_for_answer(self, *command: str) -> None:
        """Wait until a command succeeds: the daemon it asks is ready."""
        refusals: list[Exception] = []

        def succeeds() -> bool:
            try:  # a client that asks while its daemon starts may wait for ever; the next one gets an answer
                self.run(*command, timeout_s=PROBE_TIMEOUT_S)
            except (ClusterError, subprocess.TimeoutExpired) as error:
                refusals.append(error)
                return False
            return True

        self._wait_until(succeeds, START_TIMEOUT_S, lambda: f"{' '.join(command)}: {refusals[-1]}")

    def _wait_until(
        self, condition: Callable[[], object], timeout_s: float = START_TIMEOUT_S, what: Callable[[], str] | str = ""
    ) -> None:
        """As `wait_until`, but a daemon that has ended ends the wait too, with its name and the logs."""

        def holds() -> object:
            for name, process in (self._daemons | self._machines).items():
                if process.poll() is not None:
                    raise ClusterError(f"{name} has ended with {process.returncode}\n{self.logs()}")
            return condition()

        wait_until(holds, timeout_s, what)


def _lock(folder: Path) -> int:
    """A lock on a folder that lasts as long as this process: what has none is abandoned."""
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _remove_abandoned_folders() -> None:
    """Remove what owners that were killed could not; a new folder may not have its lock yet, so it is spared."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError):  # another user's, in use, or removed meanwhile
            if time.time() - folder.stat().st_mtime > ABANDONED_AFTER_S:
                os.close(_lock(folder))
                shutil.rmtree(folder)


def _fields(line: str) -> Job:
    """`JobId=7 JobName=a b Priority=3` as a dictionary; a value may contain blanks."""
    return dict(re.findall(r"(?:^| )([A-Za-z:/]+)=(.*?)(?= [A-Za-z:/]+=|$)", line))


def _tail(path: Path, num_lines: int) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-num_lines:])
