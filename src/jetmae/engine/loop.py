"""The training loop: the only one."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from jetmae.checkpoint.checkpoints import Checkpoints
from jetmae.checkpoint.train_state import TrainState
from jetmae.command_line import typed
from jetmae.data.batch import Batch
from jetmae.data.loader import Prefetched
from jetmae.engine.backend import Backend, StepResult
from jetmae.engine.ema import MovingAverage
from jetmae.engine.guard import NAMED_JETS, check_replicas, is_sound, suspects
from jetmae.engine.optim import Schedule
from jetmae.engine.recorder import Recorder
from jetmae.errors import JetmaeError
from jetmae.runtime.liveness.phases import enter_phase
from jetmae.runtime.preemption import StopRequest
from jetmae.runtime.world import Stopped, World


@dataclass(frozen=True)
class Intervals:
    """Optimizer steps between two of each; `patience` counts validations, None never stops early."""

    total: int
    log: int
    validate: int
    pictures: int
    checkpoint: int
    patience: int | None


@dataclass
class Fit:
    """Everything one training needs; `run` is the loop.

    `batches_from(step)` are the micro-batches of the updates after `step`, `loss_of(network, batch)` is the task's
    loss, `validate(network)` returns its metrics and their score, `export_best` keeps the present weights,
    `draw(network, step)` puts pictures into TensorBoard, `describe_jets(sample_ids)` says where jets are stored, and
    `place(step)` where a step is in the training.
    """

    backend: Backend
    average: MovingAverage | None
    batches_from: Callable[[int], Prefetched[list[Batch]]]
    loss_of: Callable[[nn.Module, Batch], Tensor]
    validate: Callable[[nn.Module], tuple[dict[str, Any], float]]
    export_best: Callable[[TrainState], None]
    draw: Callable[[nn.Module, int], None]
    describe_jets: Callable[[list[int]], str]
    schedule: Schedule
    intervals: Intervals
    place: Callable[[int], dict[str, Any]]
    batch_size: int
    max_skipped_steps: int
    state: TrainState
    checkpoints: Checkpoints
    recorder: Recorder | None
    stop_request: StopRequest
    world: World
    record_error: JetmaeError | None = None  # of rank 0, of which all learn at the next step

    def run(self) -> bool:
        """Train to the end, or to a stop request. True if the training is complete; committed either way.

        Raises:
            JetmaeError: losses or gradients are not finite time and again, or a rank cannot go on.
            ReplicaError: the ranks' weights have come to differ.
        """
        if self.state.step == 0:
            self.checkpoints.save_now(self.state)  # storage that cannot be written is found before the first step
        self._fetch_from(self.state.step)
        stopped = False
        while not (self._is_done or stopped):
            verdict = self.world.agree(
                error=self.record_error, stop=bool(self.stop_request), busy=self.checkpoints.is_busy
            )
            if not verdict.busy:
                self.checkpoints.advance()
            stopped = verdict.stop
            if not stopped and self.state.validation_due:  # an earlier start was stopped in it
                self._round_off()
            elif not stopped:
                self._step()
        self._batches.close()
        check_replicas(self.backend, self.world, self.state.step)
        self._flush_records()
        self.checkpoints.save_now(self.state)
        return not stopped

    @property
    def _is_done(self) -> bool:
        at_the_end = self.state.step >= self.intervals.total or self.state.finished_early
        return at_the_end and not self.state.validation_due

    def _fetch_from(self, step: int) -> None:
        self._batches = self.batches_from(step)
        self._steps = self.world.each(self._batches)
        self._clock_s, self._clock_step = time.perf_counter(), step

    def _step(self) -> None:
        step = self.state.step + 1
        enter_phase("step: fetch", f"step {step}")
        micro_batches = next(self._steps)
        if step not in self.state.skipped_steps and not self._update(micro_batches):
            self._roll_back()
            return
        self.state.step, self.state.validation_due = step, self._due(self.intervals.validate, after=step)
        self._round_off()

    def _round_off(self) -> None:
        """What follows an update. Cut short by a stop request in the validation; then the next start begins with it."""
        step = self.state.step
        if self.state.validation_due and not self._validate():
            return
        if self._due(self.intervals.pictures, after=step):
            enter_phase("draw", f"step {step}")
            with self._evaluating() as network:
                self.draw(network, step)
        if self._due(self.intervals.checkpoint, after=step):
            check_replicas(self.backend, self.world, step)
            self._flush_records()
            self.checkpoints.begin(self.state)

    def _update(self, micro_batches: list[Batch]) -> bool:
        """One optimizer update. False if it has to be undone."""
        step, lr = self.state.step + 1, self.schedule(self.state.step)
        enter_phase("step: compute", f"step {step}")
        result = self.backend.train_step(self.loss_of, micro_batches, lr, before_update=self.checkpoints.await_copy)
        if not is_sound(result, self.backend):
            self._note_unsound(step, lr, result, suspects(micro_batches, result, self.world))
            return False
        if self.average is not None:
            self.average.update(step)
        enter_phase("step: record", f"step {step}")
        self._record(step, result.loss, lr, result.gradient_norm)
        return True

    def _note_unsound(self, step: int, lr: float, result: StepResult, sample_ids: list[int]) -> None:
        """Remember to skip this step.

        Raises:
            JetmaeError: too many have been skipped already.
        """
        what = f"loss is {result.loss}, gradient norm {result.gradient_norm} at step {step}"
        where = f"in {self.describe_jets(sample_ids[:NAMED_JETS])}"
        self.state.skipped_steps.append(step)
        if len(self.state.skipped_steps) > self.max_skipped_steps:
            raise JetmaeError(
                f"{what}, {where}: more than optim.max_skipped_steps={self.max_skipped_steps} such steps; the last"
                f" checkpoint is intact; reduce optim.lr (now {lr:.3g}), or check the data with {typed('data verify')}"
            )
        if self.recorder:
            self.recorder.say(f"{what}, {where}: back to the last checkpoint, and on without this step")

    def _roll_back(self) -> None:
        """To the newest checkpoint; the steps since then are done again, but for those that are to be skipped."""
        skipped = self.state.skipped_steps
        self._batches.close()
        restored = self.checkpoints.load_newest(ever_committed=True)
        assert restored is not None  # a run has committed before its first step
        self.state = restored
        self.state.skipped_steps = skipped
        self._fetch_from(self.state.step)

    def _due(self, interval: int, *, after: int) -> bool:
        return after % interval == 0 or after == self.intervals.total

    def _validate(self) -> bool:
        """Score the present weights, and keep them if they are the best. False if a stop request came first."""
        enter_phase("validate", f"step {self.state.step}")
        with self._evaluating() as network:
            try:
                metrics, score = self.validate(network)
            except Stopped:
                return False
            if not math.isfinite(metrics["loss"]):
                raise JetmaeError(
                    f"validation loss is {metrics['loss']} at step {self.state.step}: the weights have grown beyond"
                    " use; reduce optim.lr and start a new --name"
                )
            self._on_recorder(lambda to: to.evaluation("validation", **self.place(self.state.step), metrics=metrics))
            if self.state.record_score(score):
                enter_phase("export best", f"step {self.state.step}")
                self.export_best(self.state)
        patience = self.intervals.patience
        self.state.finished_early = patience is not None and self.state.validations_without_gain >= patience
        self.state.validation_due = False
        self._clock_s, self._clock_step = time.perf_counter(), self.state.step
        return True

    @contextmanager
    def _evaluating(self) -> Iterator[nn.Module]:
        self.checkpoints.await_copy()  # averages may take the place of the weights
        with (
            self.average.in_place_of_weights() if self.average else nullcontext(),
            self.backend.evaluating() as network,
        ):
            yield network

    def _record(self, step: int, loss: float, lr: float, gradient_norm: float) -> None:
        if self.recorder is None:
            return
        now_s = time.perf_counter()
        jets_per_s = (step - self._clock_step) * self.batch_size / (now_s - self._clock_s)  # since the last logged step
        self.recorder.progress(step, loss, jets_per_s)
        if step % self.intervals.log == 0 or step == self.intervals.total:
            self._clock_s, self._clock_step = now_s, step
            place = self.place(step)
            try:
                self.recorder.train(**place, loss=loss, lr=lr, grad_norm=gradient_norm, jets_per_s=jets_per_s)
            except JetmaeError as error:
                self.record_error = error

    def _flush_records(self) -> None:
        self.world.agree(error=self.record_error)
        self._on_recorder(Recorder.flush)

    def _on_recorder(self, action: Callable[[Recorder], None]) -> None:
        """On rank 0, whose error all ranks share. Collective."""
        recorder = self.recorder
        self.world.together(lambda: action(recorder) if recorder else None)
