"""One run on this rank: the place where configuration, data, network, engine and records meet.

All it needs to know is in the run folder, and all it finds out ends there. rank.py is the program that starts it.
"""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jetmae.attempts import attempt_lines, cause_of_this_stop
from jetmae.checkpoint.checkpoints import Checkpoints, Identity
from jetmae.checkpoint.store import CheckpointStore
from jetmae.checkpoint.train_state import TrainState
from jetmae.config import NO_RUN, Experiment, experiment_fingerprint, read_experiment
from jetmae.data.images import ImageMaker
from jetmae.data.integrity import check_hashes, data_fingerprint
from jetmae.data.loader import Share
from jetmae.data.normalisation import Normalisation
from jetmae.data.order import few_labels
from jetmae.data.rank_batches import RankBatches
from jetmae.data.shards import JetDataset
from jetmae.engine.backend import Backend, join_process_group, leave_process_group
from jetmae.engine.ema import MovingAverage
from jetmae.engine.loop import Fit, Intervals
from jetmae.engine.optim import Schedule
from jetmae.engine.pictures import contact_sheet
from jetmae.engine.recorder import Recorder
from jetmae.errors import EXIT_STOPPED
from jetmae.evaluation import Evaluation
from jetmae.files import write_text
from jetmae.launch.freeze import freeze_precision
from jetmae.launch.run_code import described_code
from jetmae.model.timm_blocks import compile_blocks
from jetmae.plan import Plan, make_plan, normalisation_of_split
from jetmae.records.attempts import has_ever_committed, read_attempts
from jetmae.records.timeline import append_timeline
from jetmae.run_folder import RunFolder
from jetmae.runtime.lease import Lease, held_lease
from jetmae.runtime.liveness.phases import START_LIMIT_S, enter_phase, heartbeat, set_limit
from jetmae.runtime.liveness.rank_report import reporting_failure
from jetmae.runtime.numerics import best_precision, choose_kernels, precision_for_all
from jetmae.runtime.preemption import StopRequest
from jetmae.runtime.rendezvous import meet
from jetmae.runtime.world import World, world_from_environment
from jetmae.tasks.entrypoints import make_task
from jetmae.tasks.predictors.spaces import sum_spaces
from jetmae.tasks.task import Task, TaskContext
from jetmae.weights import WeightsInfo, check_fits, load_encoder, read_weights, write_weights


def train(folder: RunFolder, stop_request: StopRequest) -> int:
    """Train or go on training, then evaluate. Exit code 0: complete. 75: stopped, everything saved."""
    with reporting_failure(folder.logs):
        enter_phase("configuration")
        experiment = read_experiment(folder.config)
        limit_s = max(START_LIMIT_S, experiment.engine.hang_limit_s)
        set_limit(limit_s)
        choose_kernels(deterministic=experiment.engine.deterministic)
        world = world_from_environment(experiment.engine.device)
        enter_phase("rendezvous")
        store = meet(folder.root, rank=world.rank, size=world.size, device=world.device.type)
        join_process_group(experiment.engine.device, store, rank=world.rank, size=world.size, timeout_s=2 * limit_s)
        with ExitStack() as held:
            complete = attempt(folder, experiment, world, take_lease(folder, world, held), stop_request)
        world.agree()  # srun ends all ranks as soon as one has left, and rank 0 had the lease to give back
        enter_phase("leave")
        leave_process_group()
    return 0 if complete else EXIT_STOPPED


def take_lease(folder: RunFolder, world: World, held: ExitStack) -> Lease:
    """The lease of the run folder, which rank 0 takes for as long as `held` lasts. Collective."""
    enter_phase("lease: take")
    take = (lambda: held.enter_context(held_lease(folder.root)).token) if world.is_main else lambda: 0
    return Lease(folder.root, world.gather(world.together(take))[0])


def attempt(folder: RunFolder, experiment: Experiment, world: World, lease: Lease, stop_request: StopRequest) -> bool:
    """One attempt at the run, with its two lines in attempts.jsonl. True if the run is complete now."""
    with attempt_lines(folder, world) as lines:
        experiment = with_precision(experiment, folder, world)
        enter_phase("open data")
        run = world.together(lambda: Run(folder, experiment, world, lease))
        run.task.prepare(run.batches)
        enter_phase("build network")
        fit = run.make_fit(lines.number, stop_request)
        lines.resumed_step = fit.state.step
        set_limit(experiment.engine.hang_limit_s)
        complete = fit.run()
        lines.cause = "completed" if complete else cause_of_this_stop(stop_request)
        if complete:
            run.evaluation.evaluate_best(fit.state.best_step or 0, run.recorder)
            enter_phase("complete")
            world.on_main(lambda: run.complete(fit.state.step))
        world.together(run.close)
    return complete


def with_precision(experiment: Experiment, folder: RunFolder, world: World) -> Experiment:
    """The experiment in the precision that the run has, or is given now, at its first start. Collective."""
    enter_phase("precision")
    everyones = world.gather((experiment.engine.precision, best_precision(world.device)))
    precision: str = everyones[0][0]
    if precision == "auto":
        precision = precision_for_all([best for _, best in everyones])
        world.on_main(lambda: freeze_precision(folder, precision))
    engine = experiment.engine.model_copy(update={"precision": precision})
    return experiment.model_copy(update={"engine": engine})


class Run:
    """The parts of a run on this rank.

    Building it is what can fail on one rank alone (a file it cannot read), so it communicates with nobody.
    """

    def __init__(self, folder: RunFolder, experiment: Experiment, world: World, lease: Lease):
        self.folder, self.experiment, self.world, self.lease = folder, experiment, world, lease
        self.plan = make_plan(experiment, world.size)
        self.datasets = open_datasets(experiment, self.plan, world)
        initial = initial_weights(experiment, self.plan)
        self.normalisation = normalisation_of(experiment, self.plan, initial)
        images = image_maker(self.plan, self.datasets, self.normalisation, world.device)
        torch.manual_seed(experiment.seed)  # for the initial weights only: nothing later draws from this generator
        self.task: Task = make_task(experiment, task_context(experiment, self.plan, images, world))
        if initial:
            load_encoder(self.task.encoder, initial[0])
        self.num_parameters = sum(p.numel() for p in self.task.network.parameters())  # before ZeRO 3 takes them apart
        self.batches = make_batches(experiment, self.plan, self.datasets, self.task, world)
        self.evaluation = Evaluation(folder, self.plan, self.task, self.batches, world)
        self.recorder: Recorder | None = None

    def make_fit(self, attempt_number: int, stop_request: StopRequest) -> Fit:
        """Network under DeepSpeed, restored from the newest checkpoint if there is one. Collective."""
        optim = self.experiment.optim
        backend = self.make_backend()
        average = MovingAverage(backend, optim.ema_decay) if optim.ema_decay else None
        checkpoints = self._make_checkpoints(backend, average, attempt_number)
        has_committed = has_ever_committed(read_attempts(self.folder.attempts))
        state = checkpoints.load_newest(ever_committed=has_committed) or TrainState()
        self.world.on_main(lambda: self._open_recorder(attempt_number, state))
        return Fit(
            backend=backend,
            average=average,
            batches_from=self.batches.training,
            loss_of=self.task.train_loss,
            validate=lambda network: self.evaluation.validation_score(network, stop_request.__bool__),
            export_best=lambda state: self._export(backend, state),
            draw=self._draw,
            describe_jets=self.datasets[self.plan.train_split].describe,
            schedule=make_schedule(self.experiment, self.plan),
            intervals=make_intervals(self.experiment, self.plan),
            place=self.plan.place,
            batch_size=optim.batch_size,
            max_skipped_steps=optim.max_skipped_steps,
            state=state,
            checkpoints=checkpoints,
            recorder=self.recorder,
            stop_request=stop_request,
            world=self.world,
        )

    def complete(self, step: int) -> None:
        """For rank 0: nothing is left to do, and all records of it are on disk."""
        if self.recorder:
            self.recorder.flush()
        write_text(self.folder.completed, f"{step}\n")

    def close(self) -> None:
        """Of this rank, what it holds open."""
        if self.recorder:
            self.recorder.close()

    def make_backend(self) -> Backend:
        """The network under DeepSpeed, with its initial weights. Collective."""
        optim, engine = self.experiment.optim, self.experiment.engine
        if engine.compile:
            compile_blocks(self.task.network)
        return Backend(
            self.task.network,
            self.task.parameter_groups(),
            self.world,
            lr=optim.lr,
            betas=optim.betas,
            clip_norm=optim.clip_norm,
            precision=engine.precision,
            zero_stage=zero_stage_of(self.experiment, self.world.size),
            micro_batch_size=self.plan.micro_batch_size,
            accumulation=self.plan.accumulation,
        )

    def _make_checkpoints(self, backend: Backend, average: MovingAverage | None, attempt_number: int) -> Checkpoints:
        data = data_fingerprint(self.plan.manifest, self.datasets)
        return Checkpoints(
            CheckpointStore(self.folder.checkpoints, keep=self.experiment.log.keep_checkpoints),
            self.world,
            self.lease,
            training=backend,
            pieces=[*backend.pieces(), *(average.pieces() if average else ())],
            identity=Identity(experiment_fingerprint(self.experiment), data),
            record=lambda line: append_timeline(self.folder.timeline, line, attempt=attempt_number),
        )

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
            f" {self.experiment.engine.precision}, ZeRO {zero_stage_of(self.experiment, self.world.size)},"
            f" {self.num_parameters / 1e6:.2f} M parameters, {self.plan.train_jets} training jets,"
            f" steps {state.step} to {self.plan.total_steps}, warm-up {self.plan.warmup_steps} steps"
        )
        self.recorder.say(described_code(self.folder))

    def _draw(self, network: nn.Module, step: int) -> None:
        """Put the first validation jet into TensorBoard. Collective: a sharded network computes on all ranks."""
        if not self.task.draws_pictures:
            return
        first_jet = next(self.batches.alone(self.plan.validation_split, np.zeros(1, dtype=np.int64)))
        pictures = self.task.pictures(network, first_jet)
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


# -- the parts, from the experiment and its plan -----------------------------------------------------------------------


def open_datasets(experiment: Experiment, plan: Plan, world: World) -> dict[str, JetDataset]:
    """The splits of the plan by name, in the same order on every rank; if it is asked for, hashed before."""
    path = Path(experiment.data.path)
    if experiment.data.verify_hashes:
        entries = [entry for split in plan.splits for entry in plan.manifest.splits[split]]
        check_hashes(path, entries[world.rank :: world.size], before_each=heartbeat)
    return {split: JetDataset(path, split, manifest=plan.manifest) for split in plan.splits}


def initial_weights(experiment: Experiment, plan: Plan) -> tuple[dict[str, Tensor], WeightsInfo] | None:
    """The best weights of the pretrain run that the experiment starts from; None for random ones.

    Raises:
        JetmaeError: they cannot be read, or do not fit the experiment or its data.
    """
    if experiment.init_from is None or experiment.init_from in NO_RUN:
        return None
    path = RunFolder(Path(experiment.init_from)).best_weights
    weights, info = read_weights(path)
    check_fits(info, experiment.model.model_dump(), plan.manifest, path=path)
    return weights, info


def normalisation_of(
    experiment: Experiment, plan: Plan, initial: tuple[dict[str, Tensor], WeightsInfo] | None
) -> Normalisation:
    """The constants that the initial weights were trained with, or those of the training split."""
    if initial:
        return initial[1].normalisation
    return normalisation_of_split(plan.manifest, plan.train_split, experiment.data.transform)


def image_maker(
    plan: Plan, datasets: dict[str, JetDataset], normalisation: Normalisation, device: torch.device
) -> ImageMaker:
    """What makes dense images of the batches of all splits."""
    manifest = plan.manifest
    towers = {channel for split in datasets for entry in manifest.splits[split] for channel in entry.tower_channels}
    return ImageMaker(
        manifest.image_shape,
        normalisation,
        device,
        tower_size=manifest.tower_size,
        tower_channels=tuple(sorted(towers)),
    )


def task_context(experiment: Experiment, plan: Plan, images: ImageMaker, world: World) -> TaskContext:
    """What the task has to know of its surroundings."""
    manifest = plan.manifest
    log = normalisation_of_split(manifest, plan.train_split, "log")
    pixels = [manifest.tower_size**2 if c in images.tower_channels else 1 for c in range(len(log.scale))]
    scales = [scale * number for scale, number in zip(log.scale, pixels, strict=True)]  # of a whole tower
    return TaskContext(
        images,
        world,
        channels=manifest.channels,
        units=manifest.units,
        patch_size=experiment.model.patch_size,
        spaces=sum_spaces(manifest.channels, manifest.units, torch.tensor(scales, device=world.device)),
    )


def make_batches(
    experiment: Experiment, plan: Plan, datasets: dict[str, JetDataset], task: Task, world: World
) -> RankBatches:
    """This rank's share of everything that the run reads."""
    num_jets = len(datasets[plan.train_split])
    return RankBatches(
        datasets,
        plan.train_split,
        selection=few_labels(num_jets, experiment.data.train_jets, experiment.seed),
        share=Share(world.rank, world.size, plan.micro_batch_size, plan.accumulation),
        seed=experiment.seed,
        noise_columns=task.noise_columns,
        evaluation_jets=experiment.data.evaluation_jets,
    )


def zero_stage_of(experiment: Experiment, ranks: int) -> int:
    """Sharding the optimizer's state saves memory as soon as there is somebody to share with."""
    stage = experiment.engine.zero_stage
    return int(ranks > 1) if stage == "auto" else stage


def make_schedule(experiment: Experiment, plan: Plan) -> Schedule:
    """The learning rate by step."""
    optim = experiment.optim
    return Schedule(
        peak=optim.lr,
        floor=optim.min_lr,
        total_steps=plan.total_steps,
        warmup_steps=plan.warmup_steps,
        first_period=plan.restart_steps if optim.schedule == "cosine_restarts" else None,
        factor=optim.restart_factor,
    )


def make_intervals(experiment: Experiment, plan: Plan) -> Intervals:
    """What is due after which steps."""
    return Intervals(
        total=plan.total_steps,
        log=experiment.log.every_steps,
        validate=plan.validate_steps,
        pictures=plan.pictures_steps,
        checkpoint=experiment.log.checkpoint_steps,
        patience=experiment.optim.patience,
    )


if __name__ == "__main__":  # for one release: jobs that were queued before rank.py was the entry ask for jetmae.run
    os.execv(sys.executable, [sys.executable, "-m", "jetmae.rank", *sys.argv[1:]])
