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

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from jetmae.errors import EXIT_STOPPED
from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder

LAUNCHER = Path(__file__).resolve().parents[1] / "jobs" / "launch.py"
STEPS = 20
SETTINGS = (
    f"optim.steps={STEPS}", "optim.batch_size=32", "optim.lr=1e-3", "optim.warmup_epochs=0.5", "log.every_steps=1",
    "log.checkpoint_steps=5", "log.pictures_epochs=1000", "log.validate_epochs=1000", "data.evaluation_jets=32",
    "data.train_jets=256",
)  # fmt: skip
SEED = (  # the seed's recipe with a network of seconds; on a GPU the preset `small` too, with all that recipes can do
    "--config", "seed", "model.dim=64", "model.depth=2", "model.heads=4", "reconstruct.decoder_dim=64",
    "reconstruct.decoder_depth=1", "reconstruct.decoder_heads=4", "optim.schedule=cosine",
)  # fmt: skip
SMALL = ("--config", "small")
ENGINES = {"cuda": [(p, z) for p in ("fp32", "bf16", "fp16") for z in range(4)], "cpu": [("bf16", 2)]}
EXACT = {
    "cuda": [("seed", SEED, "fp32"), ("seed", SEED, "bf16"), ("small", SMALL, "bf16")],
    "cpu": [("seed", SEED, "fp32")],
}
KINDS = {  # by device, and by whether kernels repeat themselves; the first is what the others are compared with
    ("cuda", False): ("alone", "again", "killed"),
    ("cuda", True): ("alone", "again", "killed", "stopped"),
    ("cpu", True): ("alone", "killed"),
}
LIMIT_S = {"cuda": 60, "cpu": 200}  # of one start
SHOWN_FAILURES, SHOWN_LINES = 3, 20


@dataclass(frozen=True)
class Trial:
    """One run, and a failpoint for its first start."""

    name: str
    words: tuple[str, ...]
    failpoint: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Exit codes of the starts, training losses by step, the last checkpoint's arrays, and the last output."""

    codes: list[int]
    losses: dict[int, float]
    validation_loss: float
    arrays: dict[str, NDArray[np.float32]]
    output: str
    seconds: float


def main() -> int:
    arguments = parse()
    engines = engine_trials(arguments)
    exact = exactness_trials(arguments)
    trials = [*exact, *engines]  # those with two starts first
    with ThreadPoolExecutor(arguments.at_once) as pool:
        outcomes = dict(zip(trials, pool.map(lambda trial: run(trial, arguments), trials), strict=True))
    failures = [(trial, outcome) for trial, outcome in outcomes.items() if outcome.codes[-1] != 0]
    for trial, outcome in failures[:SHOWN_FAILURES]:
        print(f"-- {trial.name}: exit codes {outcome.codes}", *outcome.output.splitlines()[-SHOWN_LINES:], sep="\n")
    print_engines({trial: outcomes[trial] for trial in engines})
    print_exactness({trial.name: outcomes[trial] for trial in exact})
    return int(bool(failures))


def engine_trials(arguments: argparse.Namespace) -> list[Trial]:
    return [
        Trial(f"{precision} ZeRO {stage}", (*SEED, f"engine.precision={precision}", f"engine.zero_stage={stage}"))
        for precision, stage in ENGINES[arguments.device]
    ]


def exactness_trials(arguments: argparse.Namespace) -> list[Trial]:
    """For each precision and kind of kernels: a run, its repetition, one that is killed and one that is stopped."""
    trials = []
    for recipe, words, precision in EXACT[arguments.device]:
        for deterministic in (False, True):
            settings = (*words, f"engine.precision={precision}", f"engine.deterministic={deterministic}")
            kernels = "repeatable kernels" if deterministic else "any kernels"
            step = random.randint(6, STEPS - 2)  # not at a checkpoint alone: what is lost is done again
            faults = {"killed": f"step: compute#{step}=kill", "stopped": f"step: compute#{step}=term"}
            trials += [
                Trial(f"{recipe} {precision}, {kernels}: {kind}", settings, faults.get(kind))
                for kind in KINDS.get((arguments.device, deterministic), ())
            ]
    return trials


def run(trial: Trial, arguments: argparse.Namespace) -> Outcome:
    """Start a run, and a second time if the first start was made to end early."""
    began_s = time.perf_counter()
    name = "".join(letter if letter.isalnum() else "-" for letter in trial.name)
    command = [sys.executable, str(LAUNCHER), "pretrain", "--name", name, "--runs-dir", str(arguments.folder),
               "--cluster", "local", "--ranks-per-node", "1", f"data.path={arguments.data}",
               f"engine.device={arguments.device}", *SETTINGS, *trial.words]  # fmt: skip
    first = start(command, trial.failpoint, arguments.device)
    starts = [first, start(command, None, arguments.device)] if trial.failpoint else [first]
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
        arrays={name: array for path in checkpoint.glob("*.safetensors") for name, array in load_file(path).items()},
        output=starts[-1].stdout,
        seconds=time.perf_counter() - began_s,
    )


def start(command: list[str], failpoint: str | None, device: str) -> subprocess.CompletedProcess[str]:
    """One start, ended after a while."""
    fault = {"JETMAE_FAILPOINTS": failpoint} if failpoint else {}
    limited = ["timeout", str(LIMIT_S[device]), *command]
    return subprocess.run(
        limited, env={"OMP_NUM_THREADS": "1", **os.environ, **fault}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def print_engines(outcomes: dict[Trial, Outcome]) -> None:
    print(f"\n{'engine':14} {'trained':8} {'first loss':>11} {'last loss':>11} {'validation':>11} {'whole run, s':>13}")
    for trial, outcome in outcomes.items():
        losses = list(outcome.losses.values()) or [float("nan")]
        print(f"{trial.name:14} {'yes' if outcome.codes == [0] else 'NO':8} {losses[0]:11.5f} {losses[-1]:11.5f}"
              f" {outcome.validation_loss:11.5f} {outcome.seconds:13.1f}")  # fmt: skip


def print_exactness(outcomes: dict[str, Outcome]) -> None:
    print(f"\n{'against the same run left alone':40} {'ended':>12} {'losses':>20} {'arrays of last checkpoint':>26}")
    for name, outcome in outcomes.items():
        if not name.endswith(": alone"):
            alone = outcomes[name.rpartition(":")[0] + ": alone"]
            print(f"{name:40} {outcome.codes!s:>12} {compared_losses(outcome, alone):>20}"
                  f" {compared_arrays(outcome, alone):>26}")  # fmt: skip


def compared_losses(outcome: Outcome, alone: Outcome) -> str:
    """In words: whether all are equal, or by how much they differ at most."""
    if not alone.losses or outcome.losses.keys() != alone.losses.keys():
        return f"{len(outcome.losses)} of {len(alone.losses)} steps"
    largest = max(abs(outcome.losses[step] - loss) / abs(loss) for step, loss in alone.losses.items())
    return "equal" if largest == 0 else f"differ by {largest:.1e}"


def compared_arrays(outcome: Outcome, alone: Outcome) -> str:
    """The same of weights and moments, as a part of each array's largest value."""
    if not alone.arrays or outcome.arrays.keys() != alone.arrays.keys():
        return "missing"
    differences = {name: np.abs(outcome.arrays[name] - array).max(initial=0) for name, array in alone.arrays.items()}
    if not any(differences.values()):
        return "equal"
    largest = max(difference / np.abs(alone.arrays[name]).max() for name, difference in differences.items())
    return f"{sum(map(bool, differences.values()))} of {len(differences)} differ by {largest:.1e}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--data", type=Path, required=True, help="the converted sample")
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are made")
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)), help="runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
