"""Where a run's time went: every second in one part, whatever was killed when."""

import json
from dataclasses import astuple
from random import Random

import pytest

from jetmae.records.attempts import SILENT_END
from jetmae.run_folder import RunFolder
from jetmae.slurm.queue import JobStart
from jetmae.watch.ledger import Ledger
from jetmae.watch.parts import NAMES, Parts
from tests.conftest import type_command
from tests.unit.run_records import end, make_ledger, restore, save, start, steps, write_lines


def parts_of(ledger: Ledger, name: str) -> list[float]:
    """One part of each attempt."""
    return [getattr(attempt.parts, name) for attempt in ledger.attempts]


def test_every_second_of_a_run_is_in_one_part():
    events = [
        start(1, 100.0),  # saves at its end
        end(1, 120.0, "preempted", resumed_step=0, last_committed_step=15),
        start(2, 200.0),  # killed: nobody writes its end; the next start tells what it had committed
        start(3, 300.0),  # dies before its first step
        end(3, 307.0, "crashed", message="RuntimeError:\n two lines"),
        start(4, 400.0),
        end(4, 430.0, "completed", resumed_step=20, last_committed_step=40),
    ]
    lines = [*steps(1, 1, 15, at_s=104.0), *steps(2, 16, 28, at_s=205.0), *steps(4, 21, 40, at_s=406.0)]
    ledger = make_ledger(events, lines, launches_s=[90.0], newest_commit=40)

    assert ledger.parts.wall_s == pytest.approx(430.0 - 90.0)
    assert parts_of(ledger, "queued_s") == [10.0, 80.0, 83.0, 93.0]
    assert parts_of(ledger, "starting_s") == [3.0, 4.0, 0.0, 5.0]  # a step takes a second
    assert parts_of(ledger, "productive_s") == pytest.approx([17.0, 13.0, 0.0, 17.0])
    assert parts_of(ledger, "replayed_s") == pytest.approx([0.0, 0.0, 0.0, 8.0])  # 21 to 28
    assert parts_of(ledger, "lost_s") == [0.0, 0.0, 7.0, 0.0]
    assert [astuple(attempt.steps)[:4] for attempt in ledger.attempts] == [
        (0, 15, 15, 0), (15, 28, 20, 15), (20, 20, 20, 28), (20, 40, 40, 28)
    ]  # fmt: skip
    assert [attempt.lost_steps for attempt in ledger.attempts] == [0, 8, 0, 0]
    assert [attempt.failed for attempt in ledger.attempts] == [False, True, True, False]
    assert [attempt.trace.cause for attempt in ledger.attempts] == ["preempted", "lost", "crashed", "completed"]
    assert ledger.attempts[2].trace.message == "RuntimeError: two lines"
    assert ledger.rank_hours == pytest.approx(2 * (20.0 + 17.0 + 7.0 + 30.0) / 3600)
    assert ledger.wasted_rank_hours == pytest.approx(2 * 15.0 / 3600)
    assert ledger.parts.goodput == pytest.approx(47.0 / 340.0)
    assert ledger.parts.goodput_outside_queue == pytest.approx(47.0 / 74.0)


def test_saves_and_restores_are_told_by_the_timeline():
    events = [start(1, 100.0, committed_step=7), end(1, 140.0, "crashed", message="out of memory")]
    lines = [line for line in steps(1, 8, 27, at_s=111.0) if line["step"] % 10 == 0]  # 10 at 113 s, 20 at 123 s
    timeline = [
        restore(1, 7, 106.0, duration_s=4.0),
        save(1, 15, 118.0, stall_s=0.5, write_s=3.0),  # written while training goes on
        save(1, 24, 127.0, stall_s=2.0, write_s=2.0),
        {"event": "save", "attempt": 1, "step": 25},  # not enough to be of use
    ]
    (only,) = make_ledger(events, lines, timeline, launches_s=[100.0]).attempts
    assert only.parts.starting_s == pytest.approx(2.0 + 4.0)  # steps 8 to 10 began at 110 s
    assert only.parts.restoring_s == 4.0
    assert only.parts.saving_s == 2.5
    assert only.parts.productive_s == pytest.approx(3.0 + 5.0 + 4.5 + 4.0)
    assert only.parts.lost_s == 11.0  # since the second save
    assert (only.steps.resumed, only.steps.reached) == (7, 24)


def test_a_failed_save_held_the_training_too():
    failed = {**save(1, 10, 111.0, stall_s=2.0, write_s=2.0), "outcome": "failed"}
    ledger = make_ledger([start(1, 100.0)], steps(1, 1, 10, at_s=102.0), [failed], now_s=113.0)
    assert ledger.parts.saving_s == 2.0


def test_a_stop_between_two_logged_steps_loses_nothing():
    events = [start(1, 100.0), end(1, 118.0, "preempted", resumed_step=0, last_committed_step=15)]
    logged = steps(1, 1, 10, at_s=102.0)[-1:]
    (only,) = make_ledger(events, logged).attempts
    assert (only.parts.lost_s, only.failed, only.steps.reached) == (0.0, False, 15)
    assert (only.parts.starting_s, only.parts.productive_s) == (1.0, 17.0)
    events[1]["message"] = "the ranks ended with exit code 137 before they could say why"  # by the batch shell
    (only,) = make_ledger(events, logged).attempts
    assert (only.parts.lost_s, only.failed) == (7.0, True)


def test_an_end_that_the_next_attempt_wrote_says_nothing_of_when():
    events = [
        start(1, 100.0),
        end(1, 999.0, "crashed", message=SILENT_END, last_committed_step=10),
        start(2, 1000.0),
        end(2, 1010.0, "completed", resumed_step=10, last_committed_step=12),
    ]
    lines = [*steps(1, 1, 10, at_s=101.0), *steps(2, 11, 12, at_s=1001.0)]
    unknown = make_ledger(events, lines)
    assert (parts_of(unknown, "lost_s"), parts_of(unknown, "queued_s")) == ([0.0, 0.0], [0.0, 890.0])
    accounted = {"7": [JobStart(90.0, 95.0, 140.0, 4), JobStart(140.0, 990.0, None, 4)]}
    known = make_ledger(events, lines, job_starts=accounted)
    assert parts_of(known, "lost_s") == [30.0, 0.0]
    assert parts_of(known, "queued_s") == [5.0, 850.0]
    assert parts_of(known, "starting_s") == [5.0, 10.0]


def test_queue_times_come_from_slurm_one_per_start_of_the_job():
    events = [start(1, 100.0), end(1, 120.0, "preempted"), start(2, 200.0)]
    starts = [JobStart(50.0, 95.0, 122.0, 4), JobStart(122.0, 190.0, None, 4), JobStart(250.0, 300.0, None, 4)]
    ledger = make_ledger(events, [], now_s=210.0, launches_s=[51.0], job_starts={"7": starts})
    assert [attempt.num_gpus for attempt in ledger.attempts] == [4, 4]
    assert parts_of(ledger, "queued_s") == [45.0, 70.0]
    assert parts_of(ledger, "starting_s") == [5.0, 20.0]
    assert ledger.parts.wall_s == 210.0 - 50.0


def test_a_local_run_starts_when_it_is_launched_and_until_then_waits_for_a_person():
    local = {"job_id": None}
    events = [start(1, 100.0, **local), end(1, 120.0, "cancelled", **local), start(2, 9000.0, **local)]
    ledger = make_ledger(events, [], launches_s=[95.0, 8990.0], now_s=9001.0)
    assert parts_of(ledger, "starting_s") == [5.0, 11.0]
    assert parts_of(ledger, "queued_s") == [0.0, 8870.0]
    untold = make_ledger(events, [], now_s=9001.0)  # launch.json of an older version
    assert parts_of(untold, "starting_s") == [0.0, 8881.0]


def test_a_running_attempt_has_lost_nothing_yet():
    lines = steps(1, 1, 30, at_s=105.0)
    (only,) = make_ledger([start(1, 100.0)], lines, now_s=140.0, newest_commit=20).attempts
    assert (only.trace.cause, only.parts.lost_s, only.lost_steps, only.steps.committed) == ("running", 0.0, 0, 20)
    assert (only.parts.productive_s, only.parts.starting_s) == (36.0, 4.0)
    (killed,) = make_ledger([start(1, 100.0)], lines, newest_commit=20).attempts
    assert (killed.trace.cause, killed.lost_steps, killed.failed) == ("lost", 10, True)
    (begun,) = make_ledger([start(1, 100.0)], [], now_s=140.0).attempts
    assert begun.parts == Parts(starting_s=40.0)


def test_a_running_attempt_may_be_replaying():
    events = [start(1, 100.0), end(1, 130.0, "crashed", message="why", last_committed_step=0), start(2, 200.0)]
    lines = [*steps(1, 1, 20, at_s=101.0), *steps(2, 1, 5, at_s=202.0)]
    last = make_ledger(events, lines, now_s=210.0).attempts[-1]
    assert (last.parts.replayed_s, last.parts.productive_s) == (9.0, 0.0)


def test_steps_between_two_lines_are_replayed_as_far_as_they_had_been_done():
    events = [start(1, 100.0), end(1, 130.0, "crashed", message="why", last_committed_step=0), start(2, 200.0)]
    logged = [line for line in steps(2, 1, 20, at_s=202.0) if line["step"] % 10 == 0]
    last = make_ledger(events, [*steps(1, 1, 13, at_s=101.0), *logged], now_s=221.0).attempts[-1]
    assert (last.parts.starting_s, last.parts.replayed_s, last.parts.productive_s) == (1.0, 13.0, 7.0)


def test_a_run_that_only_had_its_evaluation_left_was_productive():
    events = [
        start(1, 100.0),
        end(1, 150.0, "crashed", message="in the evaluation", last_committed_step=40),
        start(2, 200.0),
        end(2, 210.0, "completed", resumed_step=40, last_committed_step=40),
    ]
    ledger = make_ledger(events, steps(1, 1, 40, at_s=101.0), [restore(2, 40, 203.0, duration_s=1.0)])
    assert parts_of(ledger, "lost_s") == [10.0, 0.0]
    assert ledger.attempts[1].parts == Parts(queued_s=50.0, starting_s=2.0, restoring_s=1.0, productive_s=7.0)


def test_a_damaged_checkpoint_sends_a_run_further_back_than_its_start_says():
    events = [start(1, 100.0), start(2, 200.0, committed_step=20)]
    lines = [*steps(1, 1, 25, at_s=101.0), *steps(2, 11, 30, at_s=205.0)]
    last = make_ledger(events, lines, [restore(2, 10, 202.0, duration_s=1.0)], now_s=224.0).attempts[-1]
    assert last.steps.resumed == 10
    assert (last.parts.replayed_s, last.parts.productive_s) == (15.0, 5.0)


def test_clocks_of_two_nodes_may_differ():
    events = [start(1, 100.0), end(1, 120.0, "preempted"), start(2, 119.0), end(2, 150.0, "completed")]
    lines = [*steps(1, 1, 19, at_s=101.5), *steps(2, 20, 30, at_s=118.5)]
    ledger = make_ledger(events, lines)
    assert parts_of(ledger, "queued_s") == [0.0, 0.0]
    assert ledger.parts.wall_s == pytest.approx(50.0)
    assert [len(attempt.trace.lines) for attempt in ledger.attempts] == [19, 11]


def test_an_attempt_whose_start_line_is_lost_is_known_by_its_end():
    events = [start(1, 100.0), end(1, 120.0, "preempted"), end(2, 220.0, "crashed", message="why")]
    first, second = make_ledger(events, steps(2, 1, 5, at_s=215.0)).attempts
    assert (first.trace.cause, second.trace.cause, second.trace.number) == ("preempted", "crashed", 2)
    assert (second.trace.started_at_s, second.steps.reached) == (220.0, 5)


def test_nothing_is_said_of_a_run_without_records():
    assert make_ledger([], []).attempts == ()
    assert (Parts().goodput, Parts().goodput_outside_queue) == (0.0, 0.0)


# -- whatever was killed when ------------------------------------------------------------------------------------------


class History:
    """A run of 60 steps whose jobs are killed at any time, with the records it leaves and where its time truly went.

    A step takes a second. A save after every 7 steps holds training for 0.3 s and is committed 4 s after it began.
    """

    STEPS, SAVE_STEPS, STALL_S, SAVE_S = 60, 7, 0.3, 4.0

    def __init__(self, seed: int, log_steps: int):
        self.random, self.log_steps = Random(seed), log_steps
        self.begin_s = self.now_s = self.random.uniform(0, 1e9)
        self.truth = dict.fromkeys(NAMES, 0.0)
        self.events, self.lines, self.timeline, self.jobs = [], [], [], []
        self.committed = self.furthest = 0
        while not self.events or self.events[-1]["cause"] != "completed":
            self._attempt(len(self.jobs) + 1)

    def _spend(self, duration_s: float, part: str) -> bool:
        """False if the job is killed in this time; what then comes of it is lost."""
        survives = self.now_s + duration_s <= self.killed_at_s
        self.truth[part if survives else "lost_s"] += min(duration_s, self.killed_at_s - self.now_s)
        self.now_s = min(self.now_s + duration_s, self.killed_at_s)
        return survives

    def _attempt(self, number: int) -> None:
        self.killed_at_s, submitted_at_s = float("inf"), self.now_s
        self._spend(self.random.uniform(0, 100), "queued_s")
        started_at_s = self.now_s
        self._spend(self.random.uniform(1, 20), "starting_s")
        self.events.append(start(number, self.now_s, committed_step=self.committed))
        self.killed_at_s = self.now_s + self.random.uniform(0, 40)
        resumed, self.pending = self.committed, []
        complete = self._restore(number) and all(self._step(number, s) for s in range(resumed + 1, self.STEPS + 1))
        self._commit()
        said = self.random.random() < 0.5
        cause = "completed" if complete else "crashed"
        if not complete:
            self.killed_at_s = float("inf")
            self._spend(self.random.uniform(0, 30), "lost_s")  # until it is noticed
        message = None if complete else "exit code 137" if said else SILENT_END
        told_at_s = self.now_s + (0 if complete or said else 500)
        more = {"resumed_step": resumed, "last_committed_step": self.committed, "message": message}
        self.events.append(end(number, told_at_s, cause, **more))
        self.jobs.append(JobStart(submitted_at_s, started_at_s, self.now_s, 4))

    def _restore(self, number: int) -> bool:
        if self.committed:
            took_s = self.random.uniform(1, 10)
            if not self._spend(took_s, "restoring_s"):
                return False
            self.timeline.append(restore(number, self.committed, self.now_s, took_s))
        return True

    def _step(self, number: int, step: int) -> bool:
        first_time = step > self.furthest
        if not self._spend(1.0, "productive_s" if first_time else "replayed_s"):
            return False
        if step % self.log_steps == 0:
            self.lines += steps(number, step, step, at_s=self.now_s)
        self.furthest = max(self.furthest, step)
        self._commit()
        if step % self.SAVE_STEPS == 0:
            self.pending.append(save(number, step, self.now_s, stall_s=self.STALL_S, write_s=self.SAVE_S))
            return self._spend(self.STALL_S, "saving_s")
        return True

    def _commit(self) -> None:
        """Saves whose time has come before the job was killed are on disk."""
        done = [line for line in self.pending if line["time_s"] <= self.now_s]
        self.timeline += done
        self.pending = [line for line in self.pending if line not in done]
        self.committed = max([self.committed, *(line["step"] for line in done)])

    def ledger(self) -> Ledger:
        return make_ledger(
            self.events,
            self.lines,
            self.timeline,
            launches_s=[self.begin_s],
            newest_commit=self.committed,
            job_starts={"7": self.jobs},
        )


@pytest.mark.parametrize("seed", range(60))
def test_the_parts_are_the_true_ones_where_every_step_is_logged(seed):
    history = History(seed, log_steps=1)
    found = history.ledger()
    assert len(found.attempts) > 1
    unwritten_s = (History.STALL_S + 1e-5) * len(history.jobs)  # a save that is killed never tells what it held
    for name, true_s in history.truth.items():
        assert getattr(found.parts, name) == pytest.approx(true_s, abs=unwritten_s), name


@pytest.mark.parametrize("log_steps", [1, 4, 100])
@pytest.mark.parametrize("seed", range(20))
def test_the_parts_add_up_wherever_the_records_end(seed, log_steps):
    history = History(seed, log_steps)
    lines = [history.events, history.lines, history.timeline]
    for kept in (history.events[:-1], history.events[1:], history.events):
        ledger = make_ledger(kept, *lines[1:], launches_s=[history.begin_s], job_starts={"7": history.jobs})
        last, first = ledger.attempts[-1], min(history.begin_s, ledger.attempts[0].trace.started_at_s)
        assert ledger.parts.wall_s == pytest.approx(last.ended_at_s - first, rel=1e-6)
        assert min(min(astuple(attempt.parts)) for attempt in ledger.attempts) >= 0


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_status_shows_the_parts_and_survives_a_torn_timeline(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.config.write_text("task: pretrain\ndata: {path: /nowhere}\noptim: {steps: 10}\n")
    run.launch.write_text(json.dumps({"launches_s": [90.0], "started_at": "1970-01-01T00:01:30+0000"}))
    events = [start(1, 100.0, job_id=None), end(1, 190.0, "completed", job_id=None, last_committed_step=10)]
    write_lines(run.attempts, events)
    write_lines(run.metrics, steps(1, 1, 10, at_s=105.0))
    write_lines(run.timeline, [save(1, 10, 114.0, stall_s=0.5, write_s=3.0)])
    run.timeline.write_text(run.timeline.read_text() + '{"event": "save", "att')
    shown = type_command("runs.py", "status", run.root).stdout.splitlines()
    rows = [line.split() for line in shown]
    assert ["time", "0:01:40", "since", "the", "first", "submission,", "goodput", "85.5", "%"] in rows
    assert ["productive", "0:01:26", "85.5", "%"] in [row[:4] for row in rows]
    assert ["saving", "0.5", "s", "0.50", "%"] in [row[:5] for row in rows]
    assert ["starting", "14.0", "s", "14.0", "%"] in [row[:5] for row in rows]
    assert not any(line.startswith(("lost", "replayed", "queued")) for line in shown)
