"""The parts of a run's wall time. Every second goes to exactly one of them, so they add up by construction."""

from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Seconds, in the order in which they are shown.

    productive  steps done for the first time, with their validations, and what follows the last: evaluation, closing
    replayed    steps that an earlier attempt had done and a failure took away
    saving      training held by a save; what is written while training goes on costs nothing
    restoring   reading the checkpoint
    starting    from the start of a job to the first step, without restoring: imports, rendezvous, data, and what the
                first steps take longer than later ones
    queued      nothing runs: the run is in Slurm's queue, or waits for somebody to start it again
    lost        from the last record to the end of an attempt that did not end in a commit: a half-done step, a hang,
                the time until it is noticed
    """

    productive_s: float = 0.0
    replayed_s: float = 0.0
    saving_s: float = 0.0
    restoring_s: float = 0.0
    starting_s: float = 0.0
    queued_s: float = 0.0
    lost_s: float = 0.0

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(**{name: getattr(self, name) + getattr(other, name) for name in NAMES})

    @property
    def wall_s(self) -> float:
        seconds: tuple[float, ...] = astuple(self)
        return sum(seconds)

    @property
    def goodput(self) -> float:
        """The productive share of the wall time."""
        return self.productive_s / self.wall_s if self.wall_s else 0.0

    @property
    def goodput_outside_queue(self) -> float:
        """The productive share of the time in which something ran."""
        ran_s = self.wall_s - self.queued_s
        return self.productive_s / ran_s if ran_s > 0 else 0.0

    def shown(self) -> list[tuple[str, float, float]]:
        """(part, seconds, share of the wall time) of each part, for people to read."""
        whole_s = self.wall_s or 1.0
        seconds = zip(NAMES, astuple(self), strict=True)
        return [(name.removesuffix("_s"), part_s, part_s / whole_s) for name, part_s in seconds]


NAMES = tuple(field.name for field in fields(Parts))


class Stopwatch:
    """Goes once from `begin_s` to `end_s` and gives each second to one part."""

    def __init__(self, begin_s: float, end_s: float):
        self.now_s, self.end_s = begin_s, end_s
        self._seconds = dict.fromkeys(NAMES, 0.0)

    def until(self, time_s: float, part: str) -> None:
        """Give the time from now until `time_s` to a part. A time that has passed adds nothing; the end is a limit."""
        time_s = min(time_s, self.end_s)
        if time_s > self.now_s:
            self._seconds[part] += time_s - self.now_s
            self.now_s = time_s

    def parts(self) -> Parts:
        return Parts(**self._seconds)
