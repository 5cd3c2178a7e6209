"""Ranks of a Slurm job that are killed at named phases (runtime/liveness/), ten times per job.

No commit is lost, no bit differs, and every start leaves one record that says who died and where.

All failpoints of a job are armed in each of its starts, each strikes once, and the earliest place is struck first.
Those of the loop lie behind a commit, so that the crash budget, three starts in a row without progress, holds out.

What the killed job shows of saves, restores, starts, queue and losses is what failures cost on this cluster.
"""

import random
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

from jetmae.run_folder import RunFolder
from jetmae.watch.goodput import Costs, best_interval_s, lifetimes_s, simulate_goodput
from jetmae.watch.measured_times import measured_times
from jetmae.watch.status import ledger_of, queue_for, status_of
from tests.chaos.kills import ONLY_MAIN
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.training import Training

pytestmark = pytest.mark.slow

CHECKPOINT_STEPS = 4
SETTINGS = ("optim.steps=160", f"log.checkpoint_steps={CHECKPOINT_STEPS}", "log.validate_epochs=1")
EARLY = ("configuration", "rendezvous", "lease: take", "open data", "build network")
RESTORING = ("restore: verify", "restore: read")
STEPPING = ("step: fetch", "step: compute", "step: record")
SAVING = ("save: begin", "save: copy", "save: write", "save: flush", "save: commit", "save: manifest", "save: rename",
          "save: pointer", "save: prune")  # fmt: skip
KILLS = 10
DAY_S = 24 * 3600.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def reference(sample, runs) -> Training:
    """The undisturbed run, on two processes of this machine."""
    return Training(None, sample, runs, "reference", *SETTINGS).run_here()


def draw_kills(chance: random.Random) -> list[str]:
    """Ten failpoints: one of a start, one of a restore, and eight of the loop."""
    phases = [chance.choice(EARLY), chance.choice(RESTORING)]
    phases += [chance.choice(chance.choice((STEPPING, SAVING))) for _ in range(KILLS - len(phases))]
    return [draw_place(phase, chance) for phase in phases]


def draw_place(phase: str, chance: random.Random) -> str:
    rank = 0 if phase in ONLY_MAIN else chance.randrange(2)
    nth = 1
    if phase in STEPPING:
        nth = chance.randint(2 * CHECKPOINT_STEPS + 1, 3 * CHECKPOINT_STEPS)  # the save before the last is committed
    elif phase in SAVING:
        nth = chance.randint(3, 4)
    return f"{phase}@rank{rank}#{nth}=kill"


def kill_ten_times(
    cluster: SlurmCluster, sample: Path, reference: Training, monkeypatch: pytest.MonkeyPatch, *, seed: int
) -> tuple[RunFolder, Counter]:
    """One job under ten kills, and what must hold afterwards; also returns how often a rank died in each phase."""
    runs = reference.run.root.parent
    once = runs / f"struck-{seed}"
    kills = draw_kills(random.Random(seed))
    monkeypatch.setenv("JETMAE_FAILPOINTS", "; ".join(kills))
    monkeypatch.setenv("JETMAE_FAILPOINTS_ONCE", str(once))
    training = Training(cluster, sample, runs, f"killed-{seed}", *SETTINGS).submit()
    try:
        state = training.await_end(timeout_s=1000)
    finally:
        cluster.cancel(training.job_id)
    struck = [kill for number, kill in enumerate(kills) if Path(f"{once}.{number}").exists()]
    print(f"seed {seed}: {len(struck)} kills in {len(training.starts)} starts of one job: {', '.join(struck)}")
    assert state == "COMPLETED", (kills, training.ends)
    assert struck == kills
    assert len(training.starts) > KILLS - 2  # two ranks may have been struck in the same start
    training.check_like(reference, ["crashed"] * (len(training.starts) - 1) + ["completed"])
    for end in training.ends[:-1]:
        assert re.search(r"rank \d on node\d died in '", end["message"])
    return training.run, Counter(kill.partition("@")[0] for kill in struck)


@pytest.mark.timeout(1500)
def test_a_job_that_is_killed_ten_times_loses_no_commit_and_no_bit_and_little_time(
    cluster, sample, reference, monkeypatch
):
    run, toll = kill_ten_times(cluster, sample, reference, monkeypatch, seed=2)
    assert toll.total() == KILLS
    monkeypatch.setenv("PATH", cluster.environment["PATH"])
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    assert goodput_of_two_weeks(costs_of(run), failure_every_s=3 * 3600.0) >= 0.97


def costs_of(run: RunFolder) -> Costs:
    """Measured: what a save, a restore, a start and a failure have cost this run."""
    ledger = ledger_of(status_of(run, queue_for([run])))
    figures = measured_times(ledger, checkpoint_steps=CHECKPOINT_STEPS)
    print(*(f"{name:12} {figure.value_s:8.3f}  {figure.origin}" for name, figure in figures.items()), sep="\n")
    return Costs(**{field.name: figures[field.name].value_s for field in fields(Costs)})


def goodput_of_two_weeks(costs: Costs, *, failure_every_s: float) -> float:
    """The worst of 20 simulated fortnights."""
    interval_s = best_interval_s(costs, failure_every_s)
    fortnights = [
        simulate_goodput(costs, interval_s, lifetimes_s(failure_every_s, seed), 14 * DAY_S) for seed in range(20)
    ]
    goodputs = sorted(fortnight.goodput for fortnight in fortnights)
    print(f"14 days, saving every {interval_s:.0f} s: goodput {goodputs[0]:.4f} to {goodputs[-1]:.4f}")
    return goodputs[0]


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_ten_jobs_are_killed_a_hundred_times(cluster, sample, reference, monkeypatch):
    toll = Counter()
    for seed in range(100, 110):
        toll += kill_ten_times(cluster, sample, reference, monkeypatch, seed=seed)[1]
    print(*sorted(toll.items()), sep="\n")
    assert toll.total() == 100
    assert len(toll) >= 12
