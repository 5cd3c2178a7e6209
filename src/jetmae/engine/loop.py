"""The training loop: the only one."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from torch import nn

from jetmae.checkpoint import Checkpoints
from jetmae.data.loader import Batch
from jetmae.engine.backend import Backend
from jetmae.engine.ema import MovingAverage
from jetmae.engine.optim import Schedule
from jetmae.engine.state import TrainState
from jetmae.errors import JetmaeError
from jetmae.report.sinks import Recorder
from jetmae.runtime.preemption import StopRequest
from jetmae.runtime.world import World


@dataclass(frozen=True)
class Intervals:
    """Optimizer steps between two of each; `patience` counts validations, None never stops early."""

    total: int
    log: int
    validate: int
    pictures: int
    checkpoint: int
    per_epoch: int
    patience: int | None


@dataclass
class Fit:
    """Everything one training needs; `run` is the loop.

    `loss_of(network, batch)` is the task's loss, `validate(network)` returns its metrics and their score,
    `export_best` keeps the present weights, `draw(network, step)` puts pictures into TensorBoard.
    """

    backend: Backend
    average: MovingAverage | None
    batches: Iterable[list[Batch]]
    loss_of: Callable[[nn.Module, Batch], object]
    validate: Callable[[nn.Module], tuple[dict, float]]
    export_best: Callable[[TrainState], None]
    draw: Callable[[nn.Module, int], None]
    schedule: Schedule
    intervals: Intervals
    batch_size: int
    state: TrainState
    checkpoints: Checkpoints
    recorder: Recorder | None
    stop_request: StopRequest
    world: World

    def run(self) -> bool:
        """Train to the end, or to a stop request. True if the training is complete; committed either way.

        Raises:
            JetmaeError: the loss is not finite, or a rank cannot go on.
        """
        steps = self.world.each(self.batches)
        self._clock_s, self._clock_step = time.perf_counter(), self.state.step
        while self.state.step < self.intervals.total and not self.state.finished_early:
            if self.world.agree(stop=bool(self.stop_request)):
                self.checkpoints.save(self.backend, self.average, self.state)
                return False
            self._step(next(steps))
        self.checkpoints.save(self.backend, self.average, self.state)
        return True

    def _step(self, micro_batches: list[Batch]) -> None:
        lr = self.schedule(self.state.step)
        loss, gradient_norm = self.backend.train_step(self.loss_of, micro_batches, lr)
        if not math.isfinite(loss):
            raise JetmaeError(
                f"loss is {loss} at step {self.state.step + 1}: the last checkpoint is intact; reduce optim.lr"
                f" (now {lr:.3g}) or check the data with python jobs/data.py verify"
            )
        if self.average is not None:
            self.average.update()
        self.state.step += 1
        self._record(loss, lr, gradient_norm)
        if self._due(self.intervals.validate):
            self._validate()
        if self._due(self.intervals.pictures):
            with self._evaluating() as network:
                self.draw(network, self.state.step)
        if self._due(self.intervals.checkpoint):
            self.checkpoints.save(self.backend, self.average, self.state)

    def _due(self, interval: int) -> bool:
        return self.state.step % interval == 0 or self.state.step == self.intervals.total

    def _validate(self) -> None:
        with self._evaluating() as network:
            metrics, score = self.validate(network)
            if self.recorder:
                self.recorder.evaluation("validation", **self._place(), metrics=metrics)
            if self.state.record_score(score):
                self.export_best(self.state)
        patience = self.intervals.patience
        self.state.finished_early = patience is not None and self.state.validations_without_gain >= patience
        self._clock_s, self._clock_step = time.perf_counter(), self.state.step

    @contextmanager
    def _evaluating(self) -> Iterator[nn.Module]:
        with (
            self.average.in_place_of_weights() if self.average else nullcontext(),
            self.backend.evaluating() as network,
        ):
            yield network

    def _record(self, loss: float, lr: float, gradient_norm: float) -> None:
        if self.recorder is None:
            return
        jets_per_s = self._jets_per_s()
        self.recorder.progress(self.state.step, loss, jets_per_s)
        if self._due(self.intervals.log):
            self.recorder.train(**self._place(), loss=loss, lr=lr, grad_norm=gradient_norm, jets_per_s=jets_per_s)

    def _jets_per_s(self) -> float:
        """Since the last logged step, evaluations left out."""
        elapsed_s = time.perf_counter() - self._clock_s
        rate = (self.state.step - self._clock_step) * self.batch_size / elapsed_s
        if self._due(self.intervals.log):
            self._clock_s, self._clock_step = time.perf_counter(), self.state.step
        return rate

    def _place(self) -> dict:
        step = self.state.step
        return {"step": step, "samples": step * self.batch_size, "epoch": step / self.intervals.per_epoch}
