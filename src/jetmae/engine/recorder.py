"""Where a run's numbers go while it runs: metrics.jsonl, TensorBoard, a progress bar or plain lines.

Only rank 0 has a recorder.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jetmae.engine.tensorboard_file import TensorBoardFile
from jetmae.files import cannot_write, fsync
from jetmae.progress import Progress
from jetmae.records.json_lines import cut_torn_tail
from jetmae.records.metrics import EvaluationLine, Metric, MetricsLine, TrainLine


class Recorder:
    """Writes everything that is to be seen of a run. Steps count optimizer updates from 1.

    Only metrics.jsonl has to be complete: a method that cannot write it raises JetmaeError. The rest may have gaps.
    """

    def __init__(
        self, metrics: Path, tensorboard: Path, log: Path, *, name: str, attempt: int, first_step: int, total_steps: int
    ):
        self._metrics_path, self._log, self._attempt = metrics, log, attempt
        plain = partial(print, flush=True)
        self._progress = Progress(name, total_steps, unit="steps", done=first_step, print_line=plain)
        try:
            for folder in (metrics.parent, log.parent):
                folder.mkdir(parents=True, exist_ok=True)
            cut_torn_tail(metrics)
            self._metrics = metrics.open("a", encoding="utf-8")
        except OSError as error:
            raise cannot_write(metrics, error) from error
        self._tensorboard = TensorBoardFile(tensorboard, first_step, self.say)

    def say(self, text: str) -> None:
        """One line for the person watching, and for the log file. On a full disk it is left out."""
        with suppress(OSError):
            self._progress.say(text)
        with suppress(OSError), self._log.open("a", encoding="utf-8", errors="replace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def train(
        self, *, step: int, samples: int, epoch: float, loss: float, lr: float, grad_norm: float, jets_per_s: float
    ) -> None:
        """Record a step. `jets_per_s` is the speed since the step recorded before, without validations."""
        self._write(
            TrainLine(
                step=step,
                samples=samples,
                epoch=epoch,
                loss=loss,
                lr=lr,
                grad_norm=grad_norm,
                jets_per_s=jets_per_s,
                attempt=self._attempt,
                time_s=time.time(),
            )
        )

    def progress(self, step: int, loss: float, jets_per_s: float) -> None:
        """Show how far the training is. Called at every step; cheap."""
        line = self._progress.update(step, f"loss {loss:.4f}, {jets_per_s:,.0f} jets/s")
        if line:
            self.say(line)

    def evaluation(self, split: str, *, step: int, samples: int, epoch: float, metrics: Mapping[str, Metric]) -> None:
        """`metrics` holds `loss` and what the task adds; a value may be a mapping, e.g. one number per channel."""
        self._write(
            EvaluationLine(
                split=split,
                step=step,
                samples=samples,
                epoch=epoch,
                metrics=metrics,
                attempt=self._attempt,
                time_s=time.time(),
            )
        )
        shown = {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}
        for value in metrics.values():
            shown |= value if isinstance(value, Mapping) else {}
        self.say(f"{split} at step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items()))

    def picture(self, name: str, image_HWC: NDArray[np.uint8], step: int) -> None:
        self._tensorboard.image(name, image_HWC, step)

    def flush(self) -> None:
        """Have all lines of metrics.jsonl on disk.

        To be called before a checkpoint: a resume from it does not write them again.

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

    def _write(self, line: MetricsLine) -> None:
        try:
            self._metrics.write(json.dumps(line.to_json()) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise cannot_write(self._metrics_path, error) from error
        for name, value in line.metrics.items():
            parts = value if isinstance(value, Mapping) else {"": value}
            for part, number in parts.items():
                tag = "/".join(filter(None, (name, line.split, part)))
                self._tensorboard.scalar(tag, number, line.step)
