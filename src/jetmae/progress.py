"""How far a long command is: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import sys
import time

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts things done, on stderr. Use as a context manager and call `advance`."""

    def __init__(self, title: str, total: int, *, unit: str = "jets"):
        self.title, self.total, self.unit, self.done = title, total, unit, 0

    def __enter__(self) -> "Progress":
        self.started_at_s = self.last_line_at_s = time.monotonic()
        self._bar = _rich_bar(self.unit) if sys.stderr.isatty() else None
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, rate="")
        return self

    def advance(self, count: int) -> None:
        self.done += count
        now_s = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=self.done, rate=f"{self._rate(now_s):,.0f} {self.unit}/s")
        elif now_s - self.last_line_at_s >= SECONDS_BETWEEN_LINES:
            self.last_line_at_s = now_s
            self._print_line(now_s)

    def __exit__(self, exception_type, *_) -> None:
        if self._bar:
            self._bar.stop()
        elif exception_type is None:
            self._print_line(time.monotonic())

    def _rate(self, now_s: float) -> float:
        return self.done / max(now_s - self.started_at_s, 1e-9)

    def _print_line(self, now_s: float) -> None:
        rate = self._rate(now_s)
        left_s = (self.total - self.done) / rate if rate else float("inf")
        print(
            f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, {rate:,.0f} {self.unit}/s, {left_s:,.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def _rich_bar(unit: str):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
