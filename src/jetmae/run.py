"""One rank of a run:  python -m jetmae.run RUN_DIR

The composition root: the only place where configuration, data, network, engine and records meet. All it needs to know
is in the run folder, and all it finds out ends there.
"""

import os
import re
import sys
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from jetmae.run_folder import RunFolder
from jetmae.runtime.liveness.watchdog import start_watchdog
from jetmae.runtime.preemption import StopRequest

STOP_REQUEST = StopRequest()


def is_for_cpus(folder: RunFolder) -> bool:
    """Whether GPUs are to be left alone. A configuration that cannot be read is refused later."""
    with suppress(OSError, ValueError):
        return bool(re.search(r"^  device: cpu$", folder.config.read_text(), re.MULTILINE))
    return False


if __name__ == "__main__":  # before the imports below, which take seconds in which a signal may come, or storage hang
    STOP_REQUEST.install()
    start_watchdog(RunFolder(Path(sys.argv[1])).logs)
    if is_for_cpus(RunFolder(Path(sys.argv[1]))):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # DeepSpeed takes what torch sees when it is imported

import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from jetmae.attempts import attempt_lines, cause_of_this_stop  # noqa: E402
from jetmae.checkpoint.checkpoints import Checkpoints, Identity  # noqa: E402
from jetmae.checkpoint.store import CheckpointStore  # noqa: E402
from jetmae.checkpoint.train_state import TrainState  # noqa: E402
from jetmae.config import RANDOM, Experiment, experiment_fingerprint, read_experiment  # noqa: E402
from jetmae.data.images import ImageMaker  # noqa: E402
from jetmae.data.integrity import check_hashes, data_fingerprint  # noqa: E402
from jetmae.data.loader import Prefetched, Share, evaluation_batches, training_batches  # noqa: E402
from jetmae.data.normalisation import Normalisation  # noqa: E402
from jetmae.data.order import few_labels, some_jets  # noqa: E402
from jetmae.data.shards import JetDataset  # noqa: E402
from jetmae.engine.backend import Backend, join_process_group, leave_process_group  # noqa: E402
from jetmae.engine.ema import MovingAverage  # noqa: E402
from jetmae.engine.loop import Fit, Intervals  # noqa: E402
from jetmae.engine.optim import Schedule  # noqa: E402
from jetmae.engine.pictures import contact_sheet  # noqa: E402
from jetmae.engine.recorder import Recorder  # noqa: E402
from jetmae.errors import EXIT_STOPPED, exit_with_one_line, leave_at_once  # noqa: E402
from jetmae.files import await_listed, write_text, written_aside  # noqa: E402
from jetmae.plan import make_plan, normalisation_of_split  # noqa: E402
from jetmae.run_folder import append_line  # noqa: E402
from jetmae.runtime.lease import Lease, held_lease  # noqa: E402
from jetmae.runtime.liveness.phases import START_LIMIT_S, enter_phase, heartbeat, set_limit, with_phases  # noqa: E402
from jetmae.runtime.liveness.rank_report import reporting_failure  # noqa: E402
from jetmae.runtime.rendezvous import meet  # noqa: E402
from jetmae.runtime.world import World, world_from_environment  # noqa: E402
from jetmae.tasks.tasks import ProbeTask, ReconstructionTask, Task, TaskContext, make_task  # noqa: E402
from jetmae.weights import WeightsInfo, check_fits, load_encoder, read_weights, write_weights  # noqa: E402

PICTURED_JETS = 128  # of a split, for the mean image


def main() -> int:
    """Train or go on training, then evaluate. Exit code 0: complete. 75: stopped, everything saved."""
    folder = RunFolder(Path(sys.argv[1]))
    with reporting_failure(folder.logs):
        enter_phase("configuration")
        experiment = read_experiment(folder.config)
        limit_s = max(START_LIMIT_S, experiment.engine.hang_limit_s)
        set_limit(limit_s)
        world = world_from_environment(experiment.engine.device)
        enter_phase("rendezvous")
        store = meet(folder.root, rank=world.rank, size=world.size, device=world.device.type)
        join_process_group(experiment.engine.device, store, rank=world.rank, size=world.size, timeout_s=2 * limit_s)
        with ExitStack() as held:
            complete = attempt(folder, experiment, world, take_lease(folder, world, held))
        world.agree()  # srun ends all ranks as soon as one has left, and rank 0 had the lease to give back
        enter_phase("leave")
        leave_process_group()
    return 0 if complete else EXIT_STOPPED


def take_lease(folder: RunFolder, world: World, held: ExitStack) -> Lease:
    """The lease of the run folder, which rank 0 takes for as long as `held` lasts. Collective."""

    enter_phase("lease: take")
    take = (lambda: held.enter_context(held_lease(folder.root)).token) if world.is_main else lambda: 0
    return Lease(folder.root, world.gather(world.together(take))[0])


def attempt(folder: RunFolder, experiment: Experiment, world: World, lease: Lease) -> bool:
    """One attempt at the run, with its two lines in attempts.jsonl. True if the run is complete now."""
    with attempt_lines(folder, world) as lines:
        enter_phase("open data")
        run = world.together(lambda: Run(folder, experiment, world, lease))
        run.compute_features()
        enter_phase("build network")
        fit = run.make_fit(lines.number)
        lines.resumed_step = fit.state.step
        set_limit(experiment.engine.hang_limit_s)
        complete = fit.run()
        lines.cause = "completed" if complete else cause_of_this_stop(STOP_REQUEST)
        if complete:
            run.evaluate_best(fit)
            enter_phase("complete")
            world.on_main(lambda: run.complete(fit.state.step))
        world.together(run.close)
    return complete


class Run:
    """The parts of a run on this rank.

    Building it is what can fail on one rank alone (a file it cannot read), so it communicates with nobody.
    """

    def __init__(self, folder: RunFolder, experiment: Experiment, world: World, lease: Lease):
        self.folder, self.experiment, self.world, self.lease = folder, experiment, world, lease
        self.plan = make_plan(experiment, world.size)
        names = (self.plan.train_split, self.plan.validation_split, self.plan.test_split)
        splits = [name for name in dict.fromkeys(names) if name is not None]  # in the same order on every rank
        path = Path(experiment.data.path)
        if experiment.data.verify_hashes:
            entries = [entry for split in splits for entry in self.plan.manifest.splits[split]]
            check_hashes(path, entries[world.rank :: world.size], before_each=heartbeat)
        self.datasets = {split: JetDataset(path, split, manifest=self.plan.manifest) for split in splits}
        self.share = Share(world.rank, world.size, self.plan.micro_batch_size, self.plan.accumulation)
        self.selection = few_labels(
            len(self.datasets[self.plan.train_split]), experiment.data.train_jets, experiment.seed
        )
        self.recorder: Recorder | None = None
        self._make_task()

    def _make_task(self) -> None:
        manifest, experiment = self.plan.manifest, self.experiment
        initial = self._initial_weights()
        self.normalisation: Normalisation = (
            initial[1].normalisation
            if initial
            else normalisation_of_split(manifest, self.plan.train_split, experiment.data.transform)
        )
        towers = {c for split in self.datasets for entry in manifest.splits[split] for c in entry.tower_channels}
        images = ImageMaker(
            manifest.image_shape,
            self.normalisation,
            self.world.device,
            tower_size=manifest.tower_size,
            tower_channels=tuple(sorted(towers)),
        )
        torch.manual_seed(experiment.seed)  # for the initial weights only: nothing later draws from this generator
        self.task: Task = make_task(experiment, TaskContext(images, self.world), manifest.channels)
        if initial:
            load_encoder(self.task.encoder, initial[0])
        self.num_parameters = sum(p.numel() for p in self.task.network.parameters())  # before ZeRO 3 takes them apart

    def _initial_weights(self) -> tuple[dict, WeightsInfo] | None:
        if self.experiment.init_from in (None, RANDOM):
            return None
        path = RunFolder(Path(self.experiment.init_from)).best_weights
        weights, info = read_weights(path)
        check_fits(info, self.experiment.model.model_dump(), self.plan.manifest, path=path)
        return weights, info

    def compute_features(self) -> None:
        """ProbeTask only: what the frozen encoder says of every jet."""
        if isinstance(self.task, ProbeTask):
            for split in self.datasets:
                batches = with_phases(self.world.each(self._batches(split, limit=None)), "features")
                features_NF = self.task.use_features(split, batches, self._ids(split))
                if split == self.plan.train_split:
                    self.task.network.set_statistics(features_NF)

    def make_fit(self, attempt_number: int) -> Fit:
        """Network under DeepSpeed, restored from the newest checkpoint if there is one. Collective."""
        experiment, plan, world = self.experiment, self.plan, self.world
        optim, engine = experiment.optim, experiment.engine
        backend = Backend(
            self.task.network,
            self.task.parameter_groups(),
            world,
            lr=optim.lr,
            betas=optim.betas,
            clip_norm=optim.clip_norm,
            precision=engine.precision,
            zero_stage=engine.zero_stage,
            micro_batch_size=plan.micro_batch_size,
            accumulation=plan.accumulation,
        )
        average = MovingAverage(backend, optim.ema_decay) if optim.ema_decay else None
        checkpoints = Checkpoints(
            CheckpointStore(self.folder.checkpoints, keep=experiment.log.keep_checkpoints),
            world,
            self.lease,
            backend=backend,
            average=average,
            identity=Identity(experiment_fingerprint(experiment), data_fingerprint(plan.manifest, self.datasets)),
            record=lambda line: append_line(
                self.folder.timeline, {**line, "attempt": attempt_number, "time_s": time.time()}
            ),
        )
        state = checkpoints.load_newest(ever_committed=self.folder.has_ever_committed()) or TrainState()
        world.on_main(lambda: self._open_recorder(attempt_number, state))
        return Fit(
            backend=backend,
            average=average,
            batches_from=self._training_batches,
            loss_of=self.task.train_loss,
            validate=self._validate,
            export_best=lambda state: self._export(backend, state),
            draw=self._draw,
            describe_jets=self.datasets[plan.train_split].describe,
            schedule=self._schedule(),
            intervals=self._intervals(),
            batch_size=optim.batch_size,
            max_skipped_steps=optim.max_skipped_steps,
            state=state,
            checkpoints=checkpoints,
            recorder=self.recorder,
            stop_request=STOP_REQUEST,
            world=world,
        )

    def evaluate_best(self, fit: Fit) -> None:
        """Score the best weights on the test split, and keep per-jet results and pictures for the report."""
        network = self.task.make_network().to(self.world.device).eval()
        self.world.together(lambda: await_listed(self.folder.best_weights))  # rank 0 has written them
        weights, _ = self.world.together(lambda: read_weights(self.folder.best_weights))
        network.load_state_dict(weights)
        self.world.on_main(lambda: self.folder.evaluation.mkdir(exist_ok=True))
        step = fit.state.best_step
        if isinstance(self.task, ReconstructionTask):
            self._evaluate_split(network, "train", self.plan.train_split, step)
            self._use_mean_image()
        for kind, split in (("validation", self.plan.validation_split), ("test", self.plan.test_split)):
            if split is not None:
                self._evaluate_split(network, kind, split, step)

    def _use_mean_image(self) -> None:
        """What the network is compared with on other jets: the mean of the training jets that have been evaluated."""
        with closing(self._batches(self.plan.train_split, limit=self.experiment.data.evaluation_jets)) as batches:
            self.task.use_mean_image(with_phases(self.world.each(batches), "mean image"))

    def _evaluate_split(self, network: nn.Module, kind: str, split: str, step: int) -> None:
        with torch.no_grad():
            metrics, per_jet = self._evaluate(network, split, "evaluate")
        enter_phase("evaluate: pictures", split)
        self.world.on_main(lambda: self._keep(network, kind, split, per_jet))
        if kind == "test":
            samples = step * self.experiment.optim.batch_size
            place = {"step": step, "samples": samples, "epoch": self.plan.epoch(step)}
            self.world.on_main(lambda: self.recorder.evaluation("test", **place, metrics=metrics))

    def _keep(self, network: nn.Module, kind: str, split: str, per_jet: dict) -> None:
        """For rank 0: what the report shows of a split."""
        with torch.no_grad():
            ids = some_jets(per_jet["sample_id"], PICTURED_JETS)
            arrays = self.task.evaluation_arrays(network, per_jet, self._picture_batches(split, ids))
        for name in ("pt_gev", "mass_gev"):
            column = self.datasets[split].column(name)
            if column is not None and not isinstance(self.task, ReconstructionTask):
                arrays[name] = column[per_jet["sample_id"]]
        arrays["classes"] = np.array(self.plan.manifest.classes or [])
        arrays["units"] = np.array(self.plan.manifest.units)
        target = self.folder.evaluation / f"{self.task.evaluation_name}_{kind}.npz"
        with written_aside(target) as aside, aside.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def complete(self, step: int) -> None:
        """For rank 0: nothing is left to do, and all records of it are on disk."""
        self.recorder.flush()
        write_text(self.folder.completed, f"{step}\n")

    def close(self) -> None:
        if self.recorder:
            self.recorder.close()

    def _open_recorder(self, attempt_number: int, state: TrainState) -> None:
        self.recorder = Recorder(
            self.folder.metrics,
            self.folder.tensorboard,
            self.folder.logs / "run.log",
            name=self.folder.root.name,
            attempt=attempt_number,
            first_step=state.step,
            total_steps=self.plan.total_steps,
        )
        self.recorder.say(
            f"attempt {attempt_number}, {self.world.size} rank(s) on {self.world.device.type},"
            f" {self.num_parameters / 1e6:.2f} M parameters, {self.plan.train_jets} training jets,"
            f" steps {state.step} to {self.plan.total_steps}, warm-up {self.plan.warmup_steps} steps"
        )

    def _schedule(self) -> Schedule:
        optim = self.experiment.optim
        return Schedule(
            peak=optim.lr,
            floor=optim.min_lr,
            total_steps=self.plan.total_steps,
            warmup_steps=self.plan.warmup_steps,
            first_period=self.plan.restart_steps if optim.schedule == "cosine_restarts" else None,
            factor=optim.restart_factor,
        )

    def _intervals(self) -> Intervals:
        return Intervals(
            total=self.plan.total_steps,
            log=self.experiment.log.every_steps,
            validate=self.plan.validate_steps,
            pictures=self.plan.pictures_steps,
            checkpoint=self.experiment.log.checkpoint_steps,
            per_epoch=self.plan.steps_per_epoch,
            patience=self.experiment.optim.patience,
        )

    def _training_batches(self, first_step: int) -> Prefetched:
        return Prefetched(
            training_batches(
                self.datasets[self.plan.train_split],
                self.selection,
                self.share,
                seed=self.experiment.seed,
                noise_columns=self.task.noise_columns,
                first_step=first_step,
            )
        )

    def _ids(self, split: str) -> np.ndarray:
        return self.selection if split == self.plan.train_split else np.arange(len(self.datasets[split]))

    def _batches(self, split: str, *, limit: int | None) -> Prefetched:
        """This rank's share of a split's jets, of `limit` at most; of the training split, the selected ones."""
        return Prefetched(
            evaluation_batches(
                self.datasets[split],
                some_jets(self._ids(split), limit),
                self.share,
                seed=self.experiment.seed,
                noise_columns=self.task.noise_columns,
            )
        )

    def _evaluate(
        self, network: nn.Module, split: str, activity: str, *, stop: Callable[[], bool] = lambda: False
    ) -> tuple[dict, dict]:
        """Metrics, and columns of all jets. Raises Stopped if `stop` says so on some rank."""
        with closing(self._batches(split, limit=self.experiment.data.evaluation_jets)) as batches:
            return self.task.evaluate(network, with_phases(self.world.each(batches, stop=stop), activity))

    def _picture_batches(self, split: str, ids: np.ndarray) -> Iterator:
        """The same jets with the same masks, on this rank alone."""
        alone = Share(0, 1, self.plan.micro_batch_size, 1)
        return evaluation_batches(
            self.datasets[split], ids, alone, seed=self.experiment.seed, noise_columns=self.task.noise_columns
        )

    def _validate(self, network: nn.Module) -> tuple[dict, float]:
        stop = STOP_REQUEST.__bool__
        metrics, _ = self._evaluate(network, self.plan.validation_split, "validate", stop=stop)
        return metrics, self.task.score(metrics)

    def _draw(self, network: nn.Module, step: int) -> None:
        """Put the first validation jet into TensorBoard. Collective: a sharded network computes on all ranks."""
        if isinstance(self.task, ReconstructionTask):
            split = self.plan.validation_split
            pictures = self.task.pictures(network, next(self._picture_batches(split, np.zeros(1, dtype=np.int64))))
            if self.recorder:
                sheet = contact_sheet(*(pictures[name][0] for name in ("image", "reconstruction", "mask")))
                self.recorder.picture("reconstruction/validation", sheet, step)

    def _export(self, backend: Backend, state: TrainState) -> None:
        weights = backend.whole_weights()
        info = WeightsInfo(
            task=self.experiment.task,
            model=self.experiment.model.model_dump(),
            image_shape=self.plan.manifest.image_shape,
            channels=self.plan.manifest.channels,
            units=self.plan.manifest.units,
            normalisation=self.normalisation,
            step=state.step,
            score=state.best_score,
        )
        self.world.on_main(lambda: write_weights(self.folder.best_weights, weights, info))


if __name__ == "__main__":
    exit_with_one_line(main, leave=leave_at_once)
