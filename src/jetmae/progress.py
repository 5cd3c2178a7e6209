"""How far long work is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

LINE_INTERVAL_S = 10.0


def print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Counts what is done of `total` things; `done` of them were done before.

    If stderr is a terminal there is a bar on it. Otherwise `print_line` gets a line, at most every LINE_INTERVAL_S.
    As a context manager it ends with a last line, unless there was an error.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        unit: str = "jets",
        done: int = 0,
        print_line: Callable[[str], None] = print_to_stderr,
    ):
        self._title, self._total, self._unit, self._print_line = title, total, unit, print_line
        self._done = self._done_before = done
        self._began_at_s = self._last_line_at_s = time.monotonic()
        self._bar = _begin_bar(unit) if sys.stderr.isatty() else None
        if self._bar:
            self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        if exception_type is None and not self._bar:
            self.say(self._line(self._rate()))
        self.close()

    def advance(self, count: int) -> None:
        """`count` more are done: show that, with the rate so far."""
        self._done += count
        if line := self.update(self._done, self._rate()):
            self.say(line)

    def update(self, done: int, note: str) -> str | None:
        """`done` are done in all: show that and a note on the bar. Without a bar, return a line when it is due."""
        self._done = done
        now_s = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
        elif now_s - self._last_line_at_s >= LINE_INTERVAL_S:
            self._last_line_at_s = now_s
            return self._line(note)
        return None

    def say(self, text: str) -> None:
        """Print a text, above the bar if there is one."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._print_line(f"{self._title}: {text}")

    def close(self) -> None:
        if self._bar:
            self._bar.stop()

    def _per_s(self) -> float:
        return (self._done - self._done_before) / max(time.monotonic() - self._began_at_s, 1e-9)

    def _rate(self) -> str:
        return f"{self._per_s():,.0f} {self._unit}/s"

    def _line(self, note: str) -> str:
        per_s = self._per_s()
        left = str(timedelta(seconds=round((self._total - self._done) / per_s))) if per_s else "unknown time"
        return f"{self._done:,}/{self._total:,} {self._unit}, {note}, {left} left"


def _begin_bar(unit: str) -> "RichProgress":
    # Here, because most commands never draw a bar and should not wait for the import.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[note]}}  ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.start()
    return bar
