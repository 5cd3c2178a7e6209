"""How much of its time a long run would spend on new steps, on machines that fail now and then.

The model: a job starts, restores, and trains; a save holds training for `save_stall_s`, but counts only when it is
committed, `save_s` after it began. Failures come at random with a constant rate. One costs the work since the last
committed save began, the time until it is noticed, and the queue.

There is a simulation of this model, from failure to failure, and a closed form. Tests compare them; what people see is
simulated.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from jetmae.randomness import Purpose, generator
from jetmae.watch.parts import Parts, Stopwatch

LIFETIMES_PER_DRAW = 1024


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What saves and failures cost, in seconds."""

    save_stall_s: float  # training is held by a save
    save_s: float  # from the beginning of a save until it is committed
    restore_s: float  # reading a checkpoint
    start_s: float  # from the start of a job to its first step, without restoring
    requeue_s: float  # from the end of a job to its next start
    lost_s: float  # from the last step to the end of a job that failed: a half-done step, the time to notice

    def cycle_s(self, interval_s: float) -> float:
        """From the beginning of a save to that of the next. It waits until the one before is committed."""
        return max(interval_s + self.save_stall_s, self.save_s)


def lifetimes_s(mtbf_s: float, seed: int) -> Iterator[float]:
    """Times between failures, exponentially distributed. The n-th is a function of the seed and n alone."""
    for block in count():
        yield from generator(seed, Purpose.FAILURES, block).exponential(mtbf_s, LIFETIMES_PER_DRAW).tolist()


def simulate_goodput(costs: Costs, interval_s: float, lifetimes: Iterable[float], length_s: float) -> Parts:
    """The parts of the first `length_s` of a run that saves after every `interval_s` of training.

    Each job fails when its lifetime, which begins with its start, is over; there must be enough lifetimes. The time
    before the first job is not part of the run.
    """
    watch = Stopwatch(0.0, length_s)
    committed_s = furthest_s = 0.0  # work, in seconds of training
    for lifetime_s in lifetimes:
        fails_at_s = min(watch.now_s + lifetime_s, length_s)
        watch.until(min(watch.now_s + costs.start_s, fails_at_s), "starting_s")
        if committed_s:
            watch.until(min(watch.now_s + costs.restore_s, fails_at_s), "restoring_s")
        work_s, kept_s = _train(costs, interval_s, fails_at_s - watch.now_s)
        again_s = min(work_s, furthest_s - committed_s)
        watch.until(watch.now_s + again_s, "replayed_s")
        watch.until(watch.now_s + work_s - again_s, "productive_s")
        watch.until(fails_at_s, "saving_s")
        furthest_s = max(furthest_s, committed_s + work_s)
        committed_s += kept_s
        watch.until(watch.now_s + costs.lost_s, "lost_s")
        watch.until(watch.now_s + costs.requeue_s, "queued_s")
        if watch.now_s >= length_s:
            return watch.parts()
    raise ValueError(f"too few lifetimes: only {watch.now_s} of {length_s} seconds have passed")


def _train(costs: Costs, interval_s: float, duration_s: float) -> tuple[float, float]:
    """(work done, work committed) in this time; the k-th save begins a cycle after the one before it."""
    cycle_s = costs.cycle_s(interval_s)
    cycles = math.floor(duration_s / cycle_s)
    work_s = cycles * interval_s + min(duration_s - cycles * cycle_s, interval_s)
    saves = max(0, math.floor((duration_s - interval_s - costs.save_s) / cycle_s) + 1)
    return work_s, saves * interval_s


def expected_goodput(costs: Costs, interval_s: float, mtbf_s: float) -> float:
    """The goodput of an endless run.

    A renewal argument. Between two failures lie `lost_s`, `requeue_s` and a lifetime of mean M. The lifetime outlasts
    start, restore and the commit of the k-th save, k T + (k - 1) stall + save_s after the first step, with the
    probability exp(-that / M), and each commit is worth the interval T; summed over k this is a geometric series. With
    nothing asynchronous (stall = save_s) and nothing but restarts between failures it is the complete model of Daly's
    paper (see best_interval_s).
    """
    cycle_s = costs.cycle_s(interval_s)
    until_first_commit_s = costs.start_s + costs.restore_s + interval_s + costs.save_s
    commits = math.exp(-until_first_commit_s / mtbf_s) / -math.expm1(-cycle_s / mtbf_s)
    return interval_s * commits / (costs.lost_s + costs.requeue_s + mtbf_s)


def best_interval_s(costs: Costs, mtbf_s: float) -> float:
    """Training between two saves that gives the best goodput.

    J. T. Daly, Future Generation Computer Systems 22 (2006) 303, doi:10.1016/j.future.2004.11.016; the first term is
    J. W. Young's, Communications of the ACM 17 (1974) 530, doi:10.1145/361147.361115. What a save costs is the time it
    holds training. That it counts only later moves no optimum, as N. H. Vaidya found (IEEE Transactions on Computers 46
    (1997) 942): it delays every commit alike, as a longer restart would. But a save cannot begin before the one before
    it is committed.
    """
    cost_s = costs.save_stall_s
    if cost_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = cost_s / (2 * mtbf_s)
    daly_s = math.sqrt(2 * cost_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost_s
    return max(daly_s, costs.save_s - cost_s)
