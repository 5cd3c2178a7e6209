"""Where a run's numbers go while it runs: metrics.jsonl, TensorBoard, a progress bar or plain lines.

Only rank 0 has a recorder; the others have none and say nothing.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jetmae.run_folder import cut_torn_tail

PLAIN_LINE_INTERVAL_S = 10.0


class Recorder:
    """Writes everything that is to be seen of a run. Steps count optimizer updates from 1."""

    def __init__(
        self, metrics: Path, tensorboard: Path, log: Path, *, name: str, attempt: int, first_step: int, total_steps: int
    ):
        from torch.utils.tensorboard import SummaryWriter

        for folder in (metrics.parent, tensorboard, log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        cut_torn_tail(metrics)
        self._metrics = metrics.open("a")
        # After a requeue steps are repeated; without purge_step the curve would double back.
        self._tensorboard = SummaryWriter(str(tensorboard), purge_step=first_step + 1, flush_secs=20)
        self._progress = _Bar(name, first_step, total_steps) if sys.stderr.isatty() else _Lines(name, total_steps)
        self._log = log.open("a")
        self._attempt = attempt

    def say(self, text: str) -> None:
        """One line for the person watching, and for the log file."""
        self._progress.say(text)
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._log.flush()

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
        self._tensorboard.add_image(name, image_HWC, step, dataformats="HWC")

    def close(self) -> None:
        self._progress.close()
        self._tensorboard.close()
        self._metrics.close()
        self._log.close()

    def _write(self, split: str, step: int, samples: int, epoch: float, numbers: dict) -> None:
        place = {"split": split, "step": step, "samples": samples, "epoch": epoch}
        self._metrics.write(json.dumps({**place, **numbers, "attempt": self._attempt, "time_s": time.time()}) + "\n")
        self._metrics.flush()
        for name, value in numbers.items():
            values = value if isinstance(value, dict) else {None: value}
            for part, number in values.items():
                tag = f"{name}/{split}" if part is None else f"{name}/{split}/{part}"
                self._tensorboard.add_scalar(tag, number, step)


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
