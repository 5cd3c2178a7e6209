"""What failures cost a long run: the simulation, the closed form and Daly's interval check each other."""

import math
import subprocess
import sys
from itertools import islice, repeat
from statistics import mean

import pytest

from jetmae.errors import JetmaeError
from jetmae.records.attempts import SILENT_END
from jetmae.run_folder import RunFolder
from jetmae.watch.goodput import Costs, best_interval_s, expected_goodput, lifetimes_s, simulate_goodput
from jetmae.watch.measured_times import MeasuredTime, chosen_times, measured_times
from jetmae.watch.parts import Parts
from tests.conftest import PROJECT, type_command
from tests.unit.run_records import end, make_ledger, restore, save, start, steps, write_lines

DAY_S = 24 * 3600.0
ASYNCHRONOUS = Costs(save_stall_s=0.3, save_s=4, restore_s=3, start_s=60, requeue_s=20, lost_s=30)
SYNCHRONOUS = Costs(save_stall_s=40, save_s=40, restore_s=30, start_s=120, requeue_s=300, lost_s=60)
CLUSTERS = [
    (ASYNCHRONOUS, 3 * 3600.0),
    (SYNCHRONOUS, 3 * 3600.0),
    (SYNCHRONOUS, 20 * 60.0),
]  # mean time between failures


def test_without_failures_the_goodput_is_exact():
    parts = simulate_goodput(ASYNCHRONOUS, 100.0, [math.inf], length_s=60.0 + 10 * 100.3 + 50.0)
    assert parts.productive_s == pytest.approx(1050.0)
    assert parts.saving_s == pytest.approx(10 * 0.3)
    assert parts == Parts(productive_s=parts.productive_s, saving_s=parts.saving_s, starting_s=60.0)


def test_a_failure_takes_what_is_not_committed():
    costs = Costs(save_stall_s=1, save_s=5, restore_s=2, start_s=10, requeue_s=7, lost_s=3)
    # Saves begin 100 s and 201 s after the first step. One failure at 204 s, before the second is committed; one later.
    early = simulate_goodput(costs, 100.0, [10 + 204.0, math.inf], length_s=1000.0)
    late = simulate_goodput(costs, 100.0, [10 + 207.0, math.inf], length_s=1000.0)
    assert early.replayed_s == 102.0  # two intervals and two seconds were done, one interval was committed
    assert late.replayed_s == 5.0
    for parts in (early, late):
        assert (parts.lost_s, parts.queued_s, parts.starting_s, parts.restoring_s) == (3.0, 7.0, 20.0, 2.0)
        assert parts.wall_s == pytest.approx(1000.0)


def test_a_job_that_dies_while_it_starts_has_done_nothing():
    parts = simulate_goodput(ASYNCHRONOUS, 100.0, repeat(59.0), length_s=10 * (59.0 + 30.0 + 20.0))
    assert (parts.productive_s, parts.starting_s, parts.restoring_s) == (0.0, 590.0, 0.0)
    with pytest.raises(ValueError, match="too few lifetimes"):
        simulate_goodput(ASYNCHRONOUS, 100.0, [59.0], length_s=1000.0)


def test_a_save_waits_for_the_one_before_it():
    costs = Costs(save_stall_s=1, save_s=30, restore_s=0, start_s=0, requeue_s=0, lost_s=0)
    parts = simulate_goodput(costs, 9.0, [math.inf], length_s=300.0)
    assert (parts.productive_s, parts.saving_s) == (90.0, 210.0)
    assert best_interval_s(costs, mtbf_s=10.0) == 29.0
    assert expected_goodput(costs, 9.0, mtbf_s=1e12) == pytest.approx(0.3)


@pytest.mark.parametrize(("costs", "mtbf_s"), CLUSTERS)
@pytest.mark.parametrize("interval_s", [20.0, 200.0, 2000.0])
def test_the_simulation_agrees_with_the_closed_form(costs, mtbf_s, interval_s):
    simulated = simulate_goodput(costs, interval_s, lifetimes_s(mtbf_s, seed=1), length_s=10_000 * mtbf_s).goodput
    expected = expected_goodput(costs, interval_s, mtbf_s)
    assert 1 - simulated == pytest.approx(1 - expected, rel=0.03)  # 10,000 failures: 1 % is one standard deviation


@pytest.mark.parametrize(("costs", "mtbf_s"), CLUSTERS)
def test_dalys_interval_is_the_best_one(costs, mtbf_s):
    daly_s = best_interval_s(costs, mtbf_s)
    intervals_s = [daly_s * 1.1**power for power in range(-10, 11)]
    lifetimes = list(islice(lifetimes_s(mtbf_s, seed=2), 5_000))  # the same failures for every interval
    simulated = {
        every_s: simulate_goodput(costs, every_s, lifetimes, 4_500 * mtbf_s).goodput for every_s in intervals_s
    }
    assert max(simulated, key=simulated.get) == pytest.approx(daly_s, rel=0.25)  # the optimum is flat
    assert simulated[intervals_s[10]] == pytest.approx(max(simulated.values()), abs=0.001)
    exact = max((daly_s * 1.01**power for power in range(-60, 61)), key=lambda t: expected_goodput(costs, t, mtbf_s))
    assert exact == pytest.approx(daly_s, rel=0.02)


@pytest.mark.parametrize(("mtbf_min", "best_min"), [(24 * 60, 117), (6 * 60, 57), (15, 9.1)])
def test_dalys_own_examples(mtbf_min, best_min):
    """Figures 3 to 5 of his paper: a dump of 5 minutes, a restart of 10."""
    costs = Costs(save_stall_s=300, save_s=300, restore_s=600, start_s=0, requeue_s=0, lost_s=0)
    assert best_interval_s(costs, 60 * mtbf_min) / 60 == pytest.approx(best_min, rel=0.01)


def test_where_a_save_takes_longer_than_the_machine_lives_one_interval_is_a_lifetime():
    assert best_interval_s(SYNCHRONOUS, mtbf_s=15.0) == 15.0


def test_two_weeks_with_a_failure_every_three_hours_are_97_percent_productive():
    """Llama 3's rate, and the goal that the checkpoints are built for."""
    costs = Costs(save_stall_s=0.3, save_s=4, restore_s=3, start_s=60, requeue_s=10, lost_s=30)
    interval_s, mtbf_s = best_interval_s(costs, 3 * 3600), 3 * 3600
    goodputs = [
        simulate_goodput(costs, interval_s, lifetimes_s(mtbf_s, seed), 14 * DAY_S).goodput for seed in range(20)
    ]
    assert min(goodputs) >= 0.97
    assert mean(goodputs) == pytest.approx(expected_goodput(costs, interval_s, mtbf_s), abs=0.001)


def test_lifetimes_are_a_function_of_their_seed():
    first, again, other = (list(islice(lifetimes_s(10.0, seed), 3000)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 3000
    assert mean(first) == pytest.approx(10.0, rel=0.06)


# -- figures of a run --------------------------------------------------------------------------------------------------

EVENTS = [
    start(1, 100.0, job_id=None),
    end(1, 150.0, "crashed", job_id=None, message="why", last_committed_step=20),
    start(2, 200.0, job_id=None),
]
LINES = [*steps(1, 1, 26, at_s=105.0), *steps(2, 21, 40, at_s=210.0)]
TIMELINE = [
    *(save(1, step, 104.0 + step, stall_s=0.1 * step, write_s=4.0) for step in (10, 20)),
    {**save(1, 25, 129.0, stall_s=1.0, write_s=1.0), "outcome": "failed"},
    restore(2, 20, 205.0, duration_s=3.0),
    save(2, 30, 219.0, stall_s=9.0, write_s=9.0),
]


def test_the_figures_of_a_run_are_medians():
    ledger = make_ledger(EVENTS, LINES, TIMELINE, launches_s=[100.0, 190.0], now_s=230.0)
    figures = measured_times(ledger, checkpoint_steps=10)
    values_s = {name: figure.value_s for name, figure in figures.items()}
    assert values_s["step_s"] == 1.0
    assert values_s["interval_s"] == 10.0
    assert (values_s["save_stall_s"], values_s["save_s"], values_s["restore_s"]) == (2.0, 4.0, 3.0)
    assert values_s["start_s"] == pytest.approx((4.0 + 16.0) / 2)  # the second: 10 s to its first record, 6 s after it
    assert values_s["requeue_s"] == 40.0
    assert values_s["lost_s"] == ledger.attempts[0].parts.lost_s > 0
    assert figures["save_s"].origin == "median of 3 saves"


def test_a_failure_whose_end_nobody_knows_says_nothing_of_what_was_lost():
    silent = [EVENTS[0], {**EVENTS[1], "message": SILENT_END}, EVENTS[2]]
    figures = measured_times(make_ledger(silent, LINES, TIMELINE, now_s=230.0), checkpoint_steps=10)
    assert "lost_s" not in figures
    assert "start_s" in figures


def test_what_is_given_comes_first_and_what_is_missing_is_named():
    measured = {
        "save_s": MeasuredTime(4.0, "median of 3 saves"),
        "step_s": MeasuredTime(1.0, "median of 2 logged steps"),
    }
    chosen = chosen_times({"step_s": None, "save_s": 5.0}, measured)
    assert chosen == {"step_s": measured["step_s"], "save_s": MeasuredTime(5.0, "--save-s")}
    with pytest.raises(JetmaeError, match=r"the run has not shown --lost-s: expected .* in seconds"):
        chosen_times({"lost_s": None, "save_s": None}, measured)


def test_the_table_of_a_run(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.config.write_text("task: pretrain\noptim: {steps: 100}\nlog: {checkpoint_steps: 10}\n")
    refused = type_command("runs.py", "goodput", run.root)
    assert f"{run.root} has never started: expected a run to measure" in refused.stderr
    for path, lines in ((run.attempts, EVENTS), (run.metrics, LINES), (run.timeline, TIMELINE)):
        write_lines(path, lines)
    printed = type_command("runs.py", "goodput", run.root, "--save-stall-s", "0.3", "--mtbf-gpu-h", "49152")
    rows = [line.split() for line in printed.stdout.splitlines()]
    assert ["save", "stall", "0.3", "s", "--save-stall-s"] in rows
    assert ["interval", "10", "s", "log.checkpoint_steps=10"] in rows
    table = [row for row in rows if row and row[0].replace(",", "").isdigit()]
    assert [int(row[0].replace(",", "")) for row in table] == [2**power for power in range(3, 15)]
    gpus, failures, *best, goodput, _, present, _ = table[-1]
    assert (gpus, failures, best) == ("16,384", "8", ["0:01:20", "80"])
    assert 90 < float(present) < float(goodput) < 99


def test_without_a_run_every_figure_is_asked_for_and_nothing_heavy_is_imported():
    refused = type_command("runs.py", "goodput", "--step-s", "1")
    assert refused.returncode == 78
    assert refused.stderr.startswith(
        "error: no RUN is named to measure --interval-s --save-stall-s --save-s --restore-s"
    )
    assert "expected a number above 0" in type_command("runs.py", "goodput", "--step-s", "0").stderr
    names = ("step", "interval", "save-stall", "save", "restore", "start", "requeue", "lost")
    options = [word for name in names for word in (f"--{name}-s", "5")]
    command = [sys.executable, "-X", "importtime", PROJECT / "jobs" / "runs.py", "goodput", *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in finished.stderr.splitlines()}
    assert "16,384" in finished.stdout
    assert not loaded & {"torch", "h5py", "matplotlib", "deepspeed", "submitit"}
