"""Where a run's numbers go while it runs: metrics.jsonl, TensorBoard, a progress bar or plain lines.

Only rank 0 has a recorder; the others have none and say nothing.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jetmae.files import cannot_write, fsync
from jetmae.run_folder import cut_torn_tail

PLAIN_LINE_INTERVAL_S = 10.0


class Recorder:
    """Writes everything that is to be seen of a run. Steps count optimizer updates from 1.

    Only metrics.jsonl has to be complete: a method that cannot write it raises JetmaeError. The rest may have gaps.
    """

    def __init__(
        self, metrics: Path, tensorboard: Path, log: Path, *, name: str, attempt: int, first_step: int, total_steps: int
    ):
        self._metrics_path, self._log, self._attempt = metrics, log, attempt
        self._progress = _Bar(name, first_step, total_steps) if sys.stderr.isatty() else _Lines(name, total_steps)
        try:
            for folder in (metrics.parent, log.parent):
                folder.mkdir(parents=True, exist_ok=True)
            cut_torn_tail(metrics)
            self._metrics = metrics.open("a")
        except OSError as error:
            raise cannot_write(metrics, error) from error
        self._tensorboard = _TensorBoard(tensorboard, first_step, self.say)

    def say(self, text: str) -> None:
        """One line for the person watching, and for the log file; a full disk hears nothing."""
        with suppress(OSError):
            self._progress.say(text)
        with suppress(OSError), self._log.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def train(self, *, step: int, samples: int, epoch: float, **numbers: float) -> None:
        """`numbers` are loss, lr, grad_norm and jets_per_s."""
        self._write("train", step, samples, epoch, numbers)

    def progress(self, step: int, loss: float, jets_per_s: float) -> None:
        """Called at every step; cheap."""
        line = self._progress.update(step, loss, jets_per_s)
        if line:
            self.say(line)

    def evaluation(self, split: str, *, step: int, samples: int, epoch: float, metrics: dict) -> None:
        """`metrics` holds `loss` and what the task adds; a value may be a mapping, e.g. one number per channel."""
        self._write(split, step, samples, epoch, metrics)
        shown = {name: value for name, value in metrics.items() if not isinstance(value, dict)}
        shown |= {f"{k}": v for value in metrics.values() if isinstance(value, dict) for k, v in value.items()}
        self.say(f"{split} at step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items()))

    def picture(self, name: str, image_HWC: NDArray[np.uint8], step: int) -> None:
        self._tensorboard.image(name, image_HWC, step)

    def flush(self) -> None:
        """Have all lines of metrics.jsonl on disk. To be called before a checkpoint: a resume from it does not write
        them again.

        Raises:
            JetmaeError: they cannot be written.
        """
        try:
            os.fsync(self._metrics.fileno())
            fsync(self._metrics_path.parent)
        except OSError as error:
            raise cannot_write(self._metrics_path, error) from error

    def close(self) -> None:
        self._tensorboard.close()
        self._progress.close()
        self._metrics.close()

    def _write(self, split: str, step: int, samples: int, epoch: float, numbers: dict) -> None:
        place = {"split": split, "step": step, "samples": samples, "epoch": epoch}
        try:
            line = json.dumps({**place, **numbers, "attempt": self._attempt, "time_s": time.time()})
            self._metrics.write(line + "\n")
            self._metrics.flush()
        except OSError as error:
            raise cannot_write(self._metrics_path, error) from error
        for name, value in numbers.items():
            values = value if isinstance(value, dict) else {None: value}
            for part, number in values.items():
                tag = f"{name}/{split}" if part is None else f"{name}/{split}/{part}"
                self._tensorboard.scalar(tag, number, step)


class _TensorBoard:
    """An event file of TensorBoard, written when it is asked for: TensorBoard's own writer does that in a thread, which
    dies of a full disk. After an error there are no more curves of this start, as a torn record hides all behind it.
    """

    def __init__(self, folder: Path, first_step: int, say: Callable[[str], None]):
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from torch.utils.tensorboard import summary

        self._summary = summary
        self._say, self._folder, self._file, self._num_lost = say, folder, None, 0
        self.write(file_version="brain.Event:2")
        # After a requeue steps are repeated; without this the curve would double back.
        self.write(step=first_step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, tag: str, number: float, step: int) -> None:
        self.write(step=step, summary=self._summary.scalar(tag, number))

    def image(self, tag: str, image_HWC: NDArray[np.uint8], step: int) -> None:
        self.write(step=step, summary=self._summary.image(tag, image_HWC, dataformats="HWC"))

    def write(self, **content: object) -> None:
        """Append an event, if none failed before."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        if not self._num_lost:
            try:
                self._file = self._file or self._open()
                return RecordWriter(self._file).write(Event(wall_time=time.time(), **content).SerializeToString())
            except OSError as error:
                self._say(f"TensorBoard's file cannot be written ({error.strerror}): metrics.jsonl has every number")
        self._num_lost += 1

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._num_lost:
            self._say(f"{self._num_lost} entries are not in TensorBoard's file")

    def _open(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        return (self._folder / name).open("ab", buffering=0)


class _Bar:
    """A progress bar on a terminal."""

    def __init__(self, name: str, first_step: int, total_steps: int):
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[jets_per_s]:.0f} jets/s  ETA"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(name, total=total_steps, completed=first_step, loss=float("nan"), jets_per_s=0)
        self._bar.start()

    def update(self, step: int, loss: float, jets_per_s: float) -> None:
        self._bar.update(self._task, completed=step, loss=loss, jets_per_s=jets_per_s)

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._bar.stop()


class _Lines:
    """Now and then a plain line, where nobody looks at a terminal."""

    def __init__(self, name: str, total_steps: int):
        self._name, self._total_steps, self._last_s = name, total_steps, time.monotonic()

    def update(self, step: int, loss: float, jets_per_s: float) -> str | None:
        now_s = time.monotonic()
        if now_s - self._last_s < PLAIN_LINE_INTERVAL_S:
            return None
        self._last_s = now_s
        return f"step {step}/{self._total_steps}  loss {loss:.4f}  {jets_per_s:.0f} jets/s"

    def say(self, text: str) -> None:
        print(f"{self._name}: {text}", flush=True)

    def close(self) -> None:
        pass
