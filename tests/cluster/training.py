"""A tiny training on the test cluster, its interruptions, and what must hold afterwards."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from tests.cluster.processes import wait_until
from tests.cluster.slurm_cluster import SlurmCluster
from tests.conftest import PROJECT, TINY, TINY_DECODER

START_TIMEOUT_S = 180  # of a job on a busy machine: queue, imports, rendezvous
SETTINGS = (*TINY, *TINY_DECODER, "optim.batch_size=8", "optim.lr=1e-3", "optim.warmup_epochs=0",
            "log.checkpoint_steps=10", "log.validate_epochs=0.1")  # fmt: skip


def losses(run: RunFolder, split: str = "train") -> list[float]:
    """Loss of each step; where a step was done twice, both lines must agree in every bit."""
    by_step: dict[int, set[float]] = {}
    for line in read_lines(run.metrics):
        if line["split"] == split:
            by_step.setdefault(line["step"], set()).add(line["loss"])
    assert all(len(values) == 1 for values in by_step.values()), "a repeated step has another loss"
    return [by_step[step].pop() for step in sorted(by_step)]


class Training:
    """One run, submitted with `python jobs/launch.py pretrain`."""

    def __init__(self, cluster: SlurmCluster, sample: Path, runs: Path, name: str, *words: str):
        self.cluster, self.words = cluster, (*SETTINGS, f"data.path={sample}", *words)
        self.options = ["--name", name, "--runs-dir", str(runs)]
        self.run = RunFolder(runs / name)
        self.job_id = self.printed = ""

    def submit(self, *options: str) -> "Training":
        self.printed = self.cluster.run(*self._command("--nodes", "2", "--mem", "3G", *options))
        self.job_id = next(line.split()[1] for line in self.printed.splitlines() if line.startswith("job "))
        return self

    def run_here(self) -> "Training":
        """The same run, uninterrupted, as two processes of this machine."""
        command = self._command("--nodes", "2", "--cluster", "local")
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return self

    def _command(self, *options: str) -> list[str]:
        return [sys.executable, str(PROJECT / "jobs" / "launch.py"), "pretrain", *self.words, *self.options, *options]

    @property
    def starts(self) -> list[dict]:
        return [line for line in read_lines(self.run.attempts) if line["event"] == "start"]

    @property
    def ends(self) -> list[dict]:
        return [line for line in read_lines(self.run.attempts) if line["event"] == "end"]

    def steps_of_attempt(self, attempt: int) -> int:
        lines = read_lines(self.run.metrics)
        return sum(line["split"] == "train" and line["attempt"] == attempt for line in lines)

    def await_steps(self, attempt: int, steps: int = 12) -> None:
        """Wait until an attempt has done some steps; more than lie between two commits."""
        what = f"{steps} steps of attempt {attempt}"
        wait_until(lambda: self.steps_of_attempt(attempt) >= steps, START_TIMEOUT_S, what)

    def await_process(self, rank: int) -> int:
        """The process of a rank, as soon as there is one."""
        return wait_until(lambda: self.process_of(rank), START_TIMEOUT_S, f"the process of rank {rank}")

    def process_of(self, rank: int) -> int | None:
        """The process of this machine that is a rank of this run on the cluster, seen from outside its node."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
                is_rank = b"jetmae.rank" in command and str(self.run.root).encode() in command
                if is_rank and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    return int(folder.name)
            except OSError:  # it has just ended
                continue
        return None

    def signal_job(self, name: str) -> None:
        """To every process of the job's steps, as Slurm does it."""
        self.cluster.run("scancel", f"--signal={name}", self.job_id)

    def signal_rank(self, rank: int, number: signal.Signals) -> None:
        """To the process of a rank, which must be there."""
        os.kill(self.await_process(rank), number)

    def signal_rank_if_there(self, rank: int, number: signal.Signals) -> None:
        """To the process of a rank that may be about to end."""
        pid = self.process_of(rank)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def await_end(self, timeout_s: float = 480) -> str:
        """Wait until the job is over for good, and return its state."""
        final = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.cluster.wait_for(self.job_id, lambda job: job["JobState"] in final, timeout_s)
        return self.cluster.state(self.job_id)

    def check_like(self, reference: "Training", causes: list[str]) -> None:
        """Complete, equal to the uninterrupted run in every bit, and with one honest record per start."""
        assert self.run.completed.exists()
        for split in ("train", "validation", "test"):
            assert losses(self.run, split) == losses(reference.run, split), split
        assert [end["cause"] for end in self.ends] == causes
        assert [start["attempt"] for start in self.starts] == list(range(1, len(causes) + 1))
        for earlier, later in zip(self.ends, self.ends[1:], strict=False):
            assert later["resumed_step"] >= (earlier.get("last_committed_step") or 0)
        assert self.process_of(0) is None
        assert self.process_of(1) is None
