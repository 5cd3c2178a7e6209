"""An event file of TensorBoard, written by us: the only file that imports TensorBoard.

TensorBoard's own writer writes in a thread, which dies of a full disk.
"""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

_summary: Any = summary  # its functions have no types


class TensorBoardFile:
    """The events of one attempt, each on its way to the disk when the method returns.

    After an error there are no more events of this attempt: a torn one would hide all behind it. `say` is told.
    """

    def __init__(self, folder: Path, first_step: int, say: Callable[[str], None]):
        self._say, self._folder, self._num_lost = say, folder, 0
        self._file: BinaryIO | None = None
        self._write(file_version="brain.Event:2")
        # After a requeue steps are repeated; without this the curve would double back.
        self._write(step=first_step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, tag: str, number: float, step: int) -> None:
        self._write(step=step, summary=_summary.scalar(tag, number))

    def image(self, tag: str, image_HWC: NDArray[np.uint8], step: int) -> None:
        self._write(step=step, summary=_summary.image(tag, image_HWC, dataformats="HWC"))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._num_lost:
            self._say(f"{self._num_lost} entries are not in TensorBoard's file")

    def _write(self, **content: object) -> None:
        """Append an event, if none failed before."""
        if not self._num_lost:
            try:
                self._file = self._file or self._open()
                RecordWriter(self._file).write(Event(wall_time=time.time(), **content).SerializeToString())
                return
            except OSError as error:
                self._say(f"TensorBoard's file cannot be written ({error.strerror}): metrics.jsonl has every number")
        self._num_lost += 1

    def _open(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        return (self._folder / name).open("ab", buffering=0)
