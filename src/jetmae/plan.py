"""An experiment confronted with its data and the number of ranks: what is read, and how many steps of what size.

Everything that can be found wrong without torch is found here, in the launcher, before a job waits in a queue; the job
itself derives the same plan again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetmae.command_line import typed
from jetmae.config import NO_RUN, OBSERVABLES, Experiment, read_experiment
from jetmae.data.jet_channels import check_jet_channels, check_jet_images
from jetmae.data.manifest import Manifest, check_same_images, read_manifest
from jetmae.data.normalisation import Normalisation
from jetmae.data.order import steps_per_epoch
from jetmae.data.shards import JetDataset
from jetmae.errors import DataError, JetmaeError
from jetmae.run_folder import RunFolder


@dataclass(frozen=True)
class Plan:
    """Steps are optimizer updates; a split of None is not there."""

    manifest: Manifest
    train_split: str
    validation_split: str
    test_split: str | None
    train_jets: int
    micro_batch_size: int
    accumulation: int
    batch_size: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    restart_steps: int
    validate_steps: int
    pictures_steps: int

    @property
    def splits(self) -> list[str]:
        """Those that are read, each once: training, validation, test."""
        names = (self.train_split, self.validation_split, self.test_split)
        return [name for name in dict.fromkeys(names) if name is not None]

    def place(self, step: int) -> dict[str, Any]:
        """Where a step is in the training, as records tell it: `step`, `samples`, `epoch`."""
        return {"step": step, "samples": step * self.batch_size, "epoch": step / self.steps_per_epoch}


def make_plan(experiment: Experiment, ranks: int) -> Plan:
    """Check data, shapes and batch layout of an experiment on so many ranks.

    The warm-up takes half of the training at most. A quick try such as `optim.steps=20` keeps the warm-up of its
    preset, an epoch say, and in full it would end the training at a small part of the peak lr; to refuse it would ask
    for a second setting in every quick try.

    Raises:
        DataError: data are missing, damaged, or lack what the task needs.
        JetmaeError: the experiment does not fit the data or the ranks.
    """
    manifest = read_manifest(Path(experiment.data.path))
    _check_patches(experiment, manifest)
    if _computes_observables(experiment):
        check_observables(manifest)
    train, validation = (_need_split(experiment, manifest, kind) for kind in ("train", "validation"))
    test = _choose_split(experiment, manifest, "test") if experiment.data.use_test else None
    for split in filter(None, (train, validation, test)):
        _check_split(experiment, manifest, split)
    optim = experiment.optim
    jets = min(manifest.jets(train), experiment.data.train_jets or manifest.jets(train))
    micro_batch_size, accumulation = batch_layout(optim.batch_size, ranks, experiment.engine.micro_batch_size)
    per_epoch = steps_per_epoch(jets, optim.batch_size)
    if per_epoch == 0:
        raise JetmaeError(
            f"optim.batch_size={optim.batch_size} is more than the {jets} jets of split {train}: reduce it"
        )

    def steps(epochs: float) -> int:
        return max(1, round(epochs * per_epoch))

    total_steps = optim.steps or steps(optim.epochs or 0)
    return Plan(
        manifest=manifest,
        train_split=train,
        validation_split=validation,
        test_split=test,
        train_jets=jets,
        micro_batch_size=micro_batch_size,
        accumulation=accumulation,
        batch_size=optim.batch_size,
        steps_per_epoch=per_epoch,
        total_steps=total_steps,
        warmup_steps=min(round(optim.warmup_epochs * per_epoch), total_steps // 2),
        restart_steps=steps(optim.restart_epochs),
        validate_steps=steps(experiment.log.validate_epochs),
        pictures_steps=steps(experiment.log.pictures_epochs),
    )


def normalisation_of_split(manifest: Manifest, split: str, transform: str) -> Normalisation:
    """The constants that conversion computed from a training split.

    Raises:
        DataError: conversion computed none for this split.
    """
    try:
        constants = manifest.normalisation[split][transform]
    except KeyError:
        known = ", ".join(manifest.normalisation)
        raise DataError(
            f"split {split!r} has no normalisation constants for {transform!r}: train on one of {known}"
        ) from None
    return Normalisation(transform, **{name: tuple(constants[name]) for name in ("scale", "mean", "std")})


def check_observables(manifest: Manifest) -> None:
    """Observables need images in physical units.

    Raises:
        DataError: a channel is missing or has another unit, or the images are no grid of towers.
    """
    check_jet_channels(manifest.channels, manifest.units)
    check_jet_images(manifest.channels, *manifest.image_shape[1:])


def check_pretrain_run(experiment: Experiment, manifest: Manifest) -> None:
    """The run named by init_from must be a finished pretraining that the experiment can start from. Reads no weights.

    Raises:
        JetmaeError: it is missing, unfinished or another task; or as `check_pretraining`.
    """
    if experiment.init_from is None or experiment.init_from in NO_RUN:
        return
    run = RunFolder(Path(experiment.init_from))
    if not run.config.is_file():
        raise JetmaeError(f"init_from={experiment.init_from}: no run there; pretrain first: {typed('pretrain')}")
    other = read_experiment(run.config)
    if other.task != "pretrain":
        raise JetmaeError(f"init_from={experiment.init_from} is a {other.task} run: expected a pretrain run")
    if not run.completed.is_file():
        raise JetmaeError(
            f"init_from={experiment.init_from} has not completed: run the same pretrain command again first"
        )
    check_pretraining(experiment, manifest, other)


def check_pretraining(experiment: Experiment, manifest: Manifest, other: Experiment) -> None:
    """A pretraining, done or to come, must be of the same encoder on images like those of the manifest.

    If its data are no longer where they were, the weights will tell about them when the job starts.

    Raises:
        JetmaeError: it has another architecture or transform, or other images.
    """
    different = [
        f"{where}.{name} is {getattr(getattr(other, where), name)}, here {getattr(getattr(experiment, where), name)}"
        for where, names in (("model", _architecture(experiment)), ("data", ["transform"]))
        for name in names
        if getattr(getattr(other, where), name) != getattr(getattr(experiment, where), name)
    ]
    if different:
        raise JetmaeError(
            f"init_from={experiment.init_from} has another architecture or transform: {'; '.join(different)}; give"
            " the settings of the pretrain run"
        )
    if Path(other.data.path).is_dir():
        check_same_images(read_manifest(Path(other.data.path)), manifest, where=f"init_from={experiment.init_from}")


def _architecture(experiment: Experiment) -> list[str]:
    return [name for name in type(experiment.model).model_fields if name != "drop_path"]  # a regulariser, no shape


def _need_split(experiment: Experiment, manifest: Manifest, kind: str) -> str:
    """As `_choose_split`, for a split without which there is no training."""
    split = _choose_split(experiment, manifest, kind)
    if split is None:
        raise DataError(
            f"{experiment.data.path} has no split {' or '.join(_preferred_splits(experiment, kind))} for"
            f" {experiment.task}: it has {', '.join(manifest.splits)}; name one with data.{kind}_split=…"
        )
    return split


def _preferred_splits(experiment: Experiment, kind: str) -> list[str]:
    return [f"unlabelled_{kind}", kind] if experiment.task == "pretrain" else [kind]


def _choose_split(experiment: Experiment, manifest: Manifest, kind: str) -> str | None:
    """The configured split; or, to pretrain, `unlabelled_<kind>` where the dataset has one; or `<kind>`; or none."""
    configured: str | None = getattr(experiment.data, f"{kind}_split")
    if configured is not None:
        if configured not in manifest.splits:
            known = ", ".join(manifest.splits)
            raise DataError(f"data.{kind}_split={configured}: {experiment.data.path} has no such split; it has {known}")
        return configured
    return next((split for split in _preferred_splits(experiment, kind) if manifest.splits.get(split)), None)


def _check_split(experiment: Experiment, manifest: Manifest, split: str) -> None:
    dataset = JetDataset(Path(experiment.data.path), split, manifest=manifest)
    if len(dataset) == 0:
        raise DataError(f"split {split} of {experiment.data.path} has no jets: convert more, or name another split")
    if experiment.task != "pretrain" and not dataset.is_labelled:
        raise DataError(f"split {split} of {experiment.data.path} has no labels: {experiment.task} needs labelled jets")
    if experiment.task != "pretrain" and len(manifest.classes or ()) != 2:
        raise DataError(f"{experiment.data.path} has classes {manifest.classes}: expected two, background and signal")


def _check_patches(experiment: Experiment, manifest: Manifest) -> None:
    channels, height, width = manifest.image_shape
    patch = experiment.model.patch_size
    if height % patch or width % patch:
        common = [str(p) for p in range(1, min(height, width) + 1) if height % p == 0 == width % p]
        raise JetmaeError(
            f"model.patch_size={patch} does not divide images of {height}x{width}: use one of {', '.join(common)}"
        )
    weights = experiment.reconstruct.channel_weights if experiment.reconstruct else None
    if weights is not None and len(weights) != channels:
        raise JetmaeError(f"reconstruct.channel_weights has {len(weights)} entries, the images {channels} channels")


def _computes_observables(experiment: Experiment) -> bool:
    regressed = experiment.reconstruct is not None and experiment.reconstruct.observables_weight > 0
    return experiment.init_from == OBSERVABLES or regressed


def batch_layout(batch_size: int, ranks: int, micro_batch_size: int | None) -> tuple[int, int]:
    """(micro-batch, accumulation) with ranks x micro-batch x accumulation = batch_size.

    Raises:
        JetmaeError: no such layout; names those that would work.
    """
    per_rank, rest = divmod(batch_size, ranks)
    if rest or per_rank == 0:
        working = ", ".join(str(n) for n in range(1, batch_size + 1) if batch_size % n == 0)
        lower, upper = per_rank * ranks, (per_rank + 1) * ranks
        sizes = " or ".join(str(size) for size in (lower, upper) if size)
        raise JetmaeError(
            f"optim.batch_size={batch_size} cannot be split evenly over {ranks} ranks: use {sizes}, or a number of"
            f" ranks among {working}"
        )
    micro = micro_batch_size or per_rank
    if per_rank % micro:
        working = ", ".join(str(n) for n in range(1, per_rank + 1) if per_rank % n == 0)
        raise JetmaeError(
            f"engine.micro_batch_size={micro} does not divide the {per_rank} jets that each of {ranks} ranks has of"
            f" optim.batch_size={batch_size}: expected one of {working}"
        )
    return micro, per_rank // micro
