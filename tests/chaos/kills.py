"""Ranks that die at named places and at random times: nothing that was committed is lost, and no bit differs.

Two ranks train a tiny run under DeepSpeed. One of them is killed by SIGKILL, at a phase of its life
(runtime/liveness/phases.py) or at a random moment; the other is killed soon after, as Slurm does it. The run is started
again and killed again, until it is complete; then it is compared with a run that nobody has disturbed. Everything
follows from a seed.

Ranks are forked from a process that has imported everything: a start costs a second instead of six.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

from jetmae.attempts import complete_record, said_cause
from jetmae.config import load_experiment
from jetmae.launch.freeze import freeze
from jetmae.launch.local_processes import local_rank_environment
from jetmae.records.attempts import StartLine
from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from tests.conftest import TINY, TINY_DECODER

RANKS = 2
STAGES = (1, 2, 3)
SETTINGS = (*TINY, *TINY_DECODER, "data.evaluation_jets=8", "data.train_jets=32", "optim.batch_size=8",
            "optim.steps=16", "optim.lr=1e-3", "optim.warmup_epochs=0", "optim.ema_decay=0.9", "model.drop_path=0.2",
            "log.every_steps=1", "log.checkpoint_steps=2", "log.validate_epochs=1",
            "log.pictures_epochs=2")  # fmt: skip
PHASES = (
    "configuration", "rendezvous", "lease: take", "open data", "build network", "restore: verify", "restore: read",
    "step: fetch", "step: compute", "step: record", "validate", "export best", "draw", "save: begin", "save: copy",
    "save: write", "save: flush", "save: commit", "save: manifest", "save: rename", "save: pointer", "save: prune",
    "mean image: fetch", "evaluate: fetch", "evaluate: pictures", "complete", "leave",
)  # fmt: skip
ONLY_MAIN = ("save: commit", "save: manifest", "save: rename", "save: pointer", "save: prune", "evaluate: pictures",
             "complete")  # fmt: skip
RANDOM_TIME = "at a random time"
START_S = 6.0  # a start rarely lasts longer; random times are drawn from it
TIMEOUT_S = 120.0


@dataclass
class Toll:
    """What was done to the runs, and what it came to."""

    kills: Counter = field(default_factory=Counter)  # by phase
    starts: int = 0
    runs: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def num_kills(self) -> int:
        return sum(self.kills.values())

    def __str__(self) -> str:
        lines = [f"{self.num_kills} kills in {self.runs} runs and {self.starts} starts"]
        lines += [f"  {count:5}  {phase}" for phase, count in sorted(self.kills.items())]
        return "\n".join([*lines, f"{len(self.violations)} violations", *self.violations[:20]])


def strike(folder: Path, dataset: Path, *, kills: int, seed: int) -> Toll:
    """Train runs of all ZeRO stages in turn below `folder`, under fire until there were so many kills."""
    import torch
    import torch.utils.tensorboard  # what the ranks need, so that they need not import it again and again

    import jetmae.run  # noqa: F401
    from jetmae import evaluation

    torch.set_num_threads(1)  # a thread pool would not survive the fork
    evaluation.PICTURED_JETS = 8  # the pictures of the report are not what is tested here
    toll, chance, references = Toll(), random.Random(seed), {}
    while toll.num_kills < kills and not toll.violations:
        stage = STAGES[toll.runs % len(STAGES)]
        if stage not in references:
            references[stage] = frozen_run(folder / f"undisturbed-{stage}", dataset, stage)
            assert train(references[stage], os.urandom(8).hex(), None) == [0] * RANKS, references[stage].logs
        run = frozen_run(folder / f"run-{toll.runs}", dataset, stage)
        toll.runs += 1
        while not run.completed.exists() and not toll.violations:
            start_under(draw_fire(chance) if toll.num_kills < kills else None, run, toll)
        toll.violations += differences(run, references[stage])
    return toll


def frozen_run(root: Path, dataset: Path, stage: int) -> RunFolder:
    overrides = [*SETTINGS, f"engine.zero_stage={stage}", f"data.path={dataset}"]
    run = RunFolder(root)
    freeze(load_experiment("pretrain", "small", overrides), run)
    return run


@dataclass(frozen=True)
class Fire:
    """Where a rank is to be killed: at the n-th time it reaches a phase, or after some seconds."""

    rank: int
    phase: str
    nth: int
    after_s: float


def draw_fire(chance: random.Random) -> Fire:
    """Every phase is as likely as a random time is."""
    phase = chance.choice((*PHASES, RANDOM_TIME))
    rank = 0 if phase in ONLY_MAIN else chance.randrange(RANKS)
    often = phase.startswith(("step", "save"))
    return Fire(rank, phase, chance.randint(1, 4 if often else 1), chance.uniform(0, START_S))


def start_under(fire: Fire | None, run: RunFolder, toll: Toll) -> None:
    """One start of all ranks, and what must hold when it has ended."""
    token = os.urandom(8).hex()
    before, toll.starts = run.last_commit(), toll.starts + 1
    codes = train(run, token, fire)
    if -signal.SIGKILL in codes:
        toll.kills[fire.phase if fire else "unasked"] += 1
    elif any(codes):
        toll.violations.append(f"{run.root.name}: exit codes {codes} under {fire}; see {run.logs}")
    if any(codes):
        start = StartLine(start_token=token)
        complete_record(run, start, start=token, code=128 + 9, cause=said_cause(run, start) or "crashed")
    end = read_lines(run.attempts)[-1]
    if end["event"] != "end":
        toll.violations.append(f"{run.root.name}: no end line after {fire}: {end}")
    if run.last_commit() < before or end["resumed_step"] < before:
        toll.violations.append(f"{run.root.name}: {fire} lost commits: {before} before, {end}")


def train(run: RunFolder, token: str, fire: Fire | None) -> list[int]:
    """Exit codes of the ranks of one start, negative for signals."""
    ranks = [fork_rank(run, rank, token, fire) for rank in range(RANKS)]
    give_up_at_s = time.monotonic() + TIMEOUT_S
    strike_at_s = time.monotonic() + fire.after_s if fire and fire.phase == RANDOM_TIME else float("inf")
    codes: dict[int, int] = {}
    while len(codes) < RANKS:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[pid] = os.waitstatus_to_exitcode(status)
        if any(codes.values()) or time.monotonic() > give_up_at_s:
            kill(ranks, ended=codes)
        elif time.monotonic() > strike_at_s:
            kill([ranks[fire.rank]], ended=codes)
            strike_at_s = float("inf")
        time.sleep(0.01)
    return [codes[pid] for pid in ranks]


def kill(ranks: list[int], *, ended: Container[int]) -> None:
    """But for those that were waited for, whose numbers may be somebody else's."""
    for pid in ranks:
        if pid not in ended:
            os.kill(pid, signal.SIGKILL)


def fork_rank(run: RunFolder, rank: int, token: str, fire: Fire | None) -> int:
    """A process that becomes a rank, as `python -m jetmae.rank` does it after its imports."""
    from jetmae import rank as program

    if pid := os.fork():
        return pid
    code = 1
    try:
        run.logs.mkdir(exist_ok=True)
        output = os.open(run.logs / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1), os.dup2(output, 2)
        os.environ.update(local_rank_environment(rank, RANKS, token))
        if fire and fire.phase != RANDOM_TIME:
            os.environ["JETMAE_FAILPOINTS"] = f"{fire.phase}@rank{fire.rank}#{fire.nth}=kill"
        sys.argv = ["jetmae.rank", str(run.root)]
        program.exit_with_one_line(program.main)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def differences(run: RunFolder, reference: RunFolder) -> list[str]:
    """In what a run that was killed differs from the undisturbed one: nothing may."""
    found = []
    for split in ("train", "validation", "test"):
        if (seen := losses(run, split)) != (expected := losses(reference, split)):
            found.append(f"{run.root.name}: {split} losses {seen}, undisturbed {expected}")
    for path in [*sorted(reference.root.glob("checkpoints/step-*/rank-*")), reference.best_weights]:
        name = path.relative_to(reference.root)
        if not (run.root / name).exists() or (run.root / name).read_bytes() != path.read_bytes():
            found.append(f"{run.root.name}: {name} differs from the undisturbed one")
    if left := [path.name for path in run.checkpoints.glob(".step-*")]:
        found.append(f"{run.root.name}: left behind: {left}")
    return found


def losses(run: RunFolder, split: str) -> dict[int, set[float]]:
    """Of each step; what was done several times must agree in every bit."""
    by_step: dict[int, set[float]] = {}
    for line in read_lines(run.metrics):
        if line["split"] == split:
            by_step.setdefault(line["step"], set()).add(line["loss"])
    return by_step
