"""Signals that ask the job to stop. The signal is local; the decision to stop is collective (engine/loop.py).

A handler only sets a flag: a checkpoint is a collective act, and a handler may run in the middle of another.
"""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)  # SIGUSR1 belongs to NCCL


class StopRequest:
    """Remembers the first stop signal. A second Ctrl-C interrupts at once, as in any program."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def install(self) -> "StopRequest":
        for number in STOP_SIGNALS:
            signal.signal(number, self._remember)
        return self

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_name is not None:
            raise KeyboardInterrupt
        self.signal_name = self.signal_name or signal.Signals(number).name
