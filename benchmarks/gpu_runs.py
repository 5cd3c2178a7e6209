"""Whole runs on one GPU: does each precision train under each ZeRO stage, and does a resumed run repeat every bit?

    python benchmarks/gpu_runs.py --device cuda --data data/sample --folder /tmp/runs

Runs are started by `jobs/launch.py`, many at the same time, for each of them is small and mostly starts up. The first
table has the losses of every engine; the second compares a run that is killed or stopped at a random step, and goes on,
with one that was left alone, and this one with its own repetition.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jetmae.errors import EXIT_STOPPED
from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder

LAUNCHER = Path(__file__).resolve().parents[1] / "jobs" / "launch.py"
STEPS = 20
SETTINGS = (
    f"optim.steps={STEPS}", "optim.batch_size=32", "optim.lr=1e-3", "optim.warmup_epochs=0.1", "log.every_steps=1",
    "log.checkpoint_steps=5", "log.pictures_epochs=1000", "data.evaluation_jets=64",
)  # fmt: skip
ENGINES = {"cuda": [(p, z) for p in ("fp32", "bf16", "fp16") for z in range(4)], "cpu": [("fp32", 0), ("bf16", 2)]}
EXACT = {"cuda": ["fp32", "bf16", "fp16"], "cpu": ["fp32"]}
LIMIT_S = 150


@dataclass(frozen=True)
class Trial:
    """One run, and a failpoint for its first start."""

    name: str
    overrides: tuple[str, ...]
    failpoint: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Exit codes of the starts, training losses by step, the last checkpoint's files, and the last output."""

    codes: list[int]
    losses: dict[int, float]
    validation_loss: float
    files: dict[str, bytes]
    output: str
    seconds: float


def main() -> int:
    arguments = parse()
    engines = engine_trials(arguments)
    exact = exactness_trials(arguments)
    trials = [*exact, *engines]  # those with two starts first
    with ThreadPoolExecutor(arguments.at_once) as pool:
        outcomes = dict(zip(trials, pool.map(lambda trial: run(trial, arguments), trials), strict=True))
    for trial, outcome in outcomes.items():
        if outcome.codes[-1] != 0:
            print(f"-- {trial.name}: exit codes {outcome.codes}\n{outcome.output[-3000:]}")
    print_engines({trial: outcomes[trial] for trial in engines})
    print_exactness({trial.name: outcomes[trial] for trial in exact})
    return int(any(outcome.codes[-1] for outcome in outcomes.values()))


def engine_trials(arguments: argparse.Namespace) -> list[Trial]:
    return [
        Trial(f"{precision} ZeRO {stage}", (f"engine.precision={precision}", f"engine.zero_stage={stage}"))
        for precision, stage in ENGINES[arguments.device]
    ]


def exactness_trials(arguments: argparse.Namespace) -> list[Trial]:
    """For each precision and kind of kernels: a run, its repetition, one that is killed and one that is stopped."""
    trials = []
    for precision in EXACT[arguments.device]:
        for deterministic in (False, True):
            settings = (f"engine.precision={precision}", f"engine.deterministic={deterministic}", "engine.zero_stage=1")
            kernels = "repeatable kernels" if deterministic else "any kernels"
            step = random.randint(6, STEPS - 2)  # not at a checkpoint alone: what is lost is done again
            faults = {"alone": None, "again": None, "killed": f"step: compute#{step}=kill",
                      "stopped": f"step: compute#{step}=term"}  # fmt: skip
            trials += [Trial(f"{precision}, {kernels}: {kind}", settings, fault) for kind, fault in faults.items()]
    return trials


def run(trial: Trial, arguments: argparse.Namespace) -> Outcome:
    """Start a run, and a second time if the first start was made to end early."""
    began_s = time.perf_counter()
    name = "".join(letter if letter.isalnum() else "-" for letter in trial.name)
    command = [sys.executable, str(LAUNCHER), "pretrain", "--name", name, "--runs-dir", str(arguments.folder),
               "--cluster", "local", "--ranks-per-node", "1", f"data.path={arguments.data}",
               f"engine.device={arguments.device}", *SETTINGS, *trial.overrides]  # fmt: skip
    first = start(command, trial.failpoint)
    starts = [first, start(command, None)] if trial.failpoint else [first]
    if trial.failpoint and first.returncode not in (EXIT_STOPPED, 128 + signal.SIGKILL):
        starts = [first]  # it ended before, or otherwise
    folder = RunFolder(arguments.folder / name)
    lines = read_lines(folder.metrics) if folder.metrics.exists() else []
    validation = [line["loss"] for line in lines if line["split"] == "validation"]
    checkpoint = folder.checkpoints / f"step-{STEPS:08d}"
    return Outcome(
        codes=[started.returncode for started in starts],
        losses={line["step"]: line["loss"] for line in lines if line["split"] == "train"},
        validation_loss=validation[-1] if validation else float("nan"),
        files={path.name: path.read_bytes() for path in checkpoint.iterdir()} if checkpoint.is_dir() else {},
        output=starts[-1].stdout,
        seconds=time.perf_counter() - began_s,
    )


def start(command: list[str], failpoint: str | None) -> subprocess.CompletedProcess[str]:
    fault = {"JETMAE_FAILPOINTS": failpoint} if failpoint else {}
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **fault}
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=LIMIT_S,
    )  # fmt: skip


def print_engines(outcomes: dict[Trial, Outcome]) -> None:
    print(f"\n{'engine':14} {'trained':8} {'first loss':>11} {'last loss':>11} {'validation':>11} {'whole run, s':>13}")
    for trial, outcome in outcomes.items():
        losses = list(outcome.losses.values()) or [float("nan")]
        print(f"{trial.name:14} {'yes' if outcome.codes == [0] else 'NO':8} {losses[0]:11.5f} {losses[-1]:11.5f}"
              f" {outcome.validation_loss:11.5f} {outcome.seconds:13.1f}")  # fmt: skip


def print_exactness(outcomes: dict[str, Outcome]) -> None:
    print(f"\n{'against the same run left alone':40} {'ended':>12} {'losses':>22} {'last checkpoint':>16}")
    for name, outcome in outcomes.items():
        if not name.endswith(": alone"):
            alone = outcomes[name.rpartition(":")[0] + ": alone"]
            same = outcome.files == alone.files and bool(alone.files)
            print(f"{name:40} {outcome.codes!s:>12} {compared(outcome.losses, alone.losses):>22}"
                  f" {'same bytes' if same else 'DIFFERS':>16}")  # fmt: skip


def compared(losses: dict[int, float], others: dict[int, float]) -> str:
    """In words: whether losses are equal, or by how much they differ at most."""
    if not others or losses.keys() != others.keys():
        return f"{len(losses)} of {len(others)} steps"
    largest = max(abs(losses[step] - others[step]) / abs(others[step]) for step in others)
    return "equal" if largest == 0 else f"differ by {largest:.1e}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--data", type=Path, required=True, help="the converted sample")
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are made")
    parser.add_argument("--at-once", type=int, default=max(1, len(os.sched_getaffinity(0)) - 2), help="runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
