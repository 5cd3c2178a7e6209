"""What is written into a run folder before a start: the experiment, which never changes, and the launch record."""

import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import yaml

from jetmae.config import FREE_ON_RESUME, NO_RUN, Experiment, as_yaml, identity_of, read_experiment
from jetmae.errors import JetmaeError
from jetmae.files import make_folder, write_text
from jetmae.records.launch import TIME_FORMAT, read_launch, write_launch
from jetmae.run_folder import RunFolder, find_run

LAUNCH_PACKAGES = ("jetmae", "torch", "timm", "deepspeed", "numpy", "h5py")


def located(experiment: Experiment, runs_dir: Path) -> Experiment:
    """The experiment with absolute paths: a job may start in another working directory.

    Raises:
        JetmaeError: init_from names no run.
    """
    data = experiment.data.model_copy(update={"path": str(Path(experiment.data.path).resolve())})
    init_from = experiment.init_from
    if init_from is not None and init_from not in NO_RUN and not Path(init_from).is_absolute():
        init_from = str(find_run(init_from, runs_dir).root)
    return experiment.model_copy(update={"data": data, "init_from": init_from})


def check_same_experiment(experiment: Experiment, run: RunFolder) -> None:
    """A run may differ from its config.yaml only in what is free on a resume (config.FREE_ON_RESUME).

    Raises:
        JetmaeError: the folder holds another experiment.
    """
    frozen = read_experiment(run.config) if run.config.exists() else experiment
    old, new = identity_of(frozen), identity_of(_with_choices_of(frozen, experiment))
    if different := [f"{key}={new.get(key)} (frozen: {old.get(key)})" for key in old if old[key] != new.get(key)]:
        raise JetmaeError(
            f"{run.root} holds another experiment: {', '.join(different)}; continue it as it is, or use another --name"
        )


def freeze(experiment: Experiment, run: RunFolder) -> None:
    """Write config.yaml, or what may change in it.

    Raises:
        JetmaeError: the folder holds another experiment, or cannot be written.
    """
    make_folder(run.root)
    check_same_experiment(experiment, run)
    if not run.config.exists():
        write_text(run.config, as_yaml(experiment))
        return
    frozen = read_experiment(run.config)
    experiment = _with_choices_of(frozen, experiment)
    if frozen != experiment:
        write_text(run.config, _with_changes(experiment, run.config))


def freeze_precision(run: RunFolder, precision: str) -> None:
    """Write into config.yaml what the first start has chosen; all later ones keep to it, on whatever device.

    Raises:
        JetmaeError: it cannot be written.
    """
    content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    content.setdefault("engine", {})["precision"] = precision
    write_text(run.config, yaml.safe_dump(content, sort_keys=False))


def _with_choices_of(frozen: Experiment, experiment: Experiment) -> Experiment:
    """The experiment, where it says auto with what the run has: a choice that was made once stays."""
    kept = {
        name: getattr(frozen.engine, name)
        for name in ("precision", "zero_stage")
        if getattr(experiment.engine, name) == "auto"
    }
    return experiment.model_copy(update={"engine": experiment.engine.model_copy(update=kept)})


def _with_changes(experiment: Experiment, config: Path) -> str:
    """A frozen configuration with other values of what may change.

    All else stays: the run's own code may be of an older version, which knows fewer settings.
    """
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    old, new = (known.model_dump(mode="json") for known in (read_experiment(config), experiment))
    for section, name in (key.split(".") for key in sorted(FREE_ON_RESUME)):
        if new[section][name] != old[section][name]:
            content.setdefault(section, {})[name] = new[section][name]
    return yaml.safe_dump(content, sort_keys=False)


def write_launch_record(run: RunFolder, *, ranks: int, total_steps: int, job_id: str | None = None) -> None:
    """Write into launch.json with what packages and command the run is started, and when it was ever started.

    Raises:
        JetmaeError: launch.json of an earlier start is damaged.
    """
    before, now_s = read_launch(run.launch), time.time()
    packages = {name: version(name) for name in LAUNCH_PACKAGES}
    record = replace(
        before,
        command=sys.argv,
        working_directory=str(Path.cwd()),
        started_at=time.strftime(TIME_FORMAT, time.localtime(now_s)),
        launches_s=[*before.launches_s, now_s],
        ranks=ranks,
        total_steps=total_steps,
        job_id=job_id,
        packages=packages | ({"jetmae": before.newest_code.version} if before.newest_code else {}),
        python=sys.version.split()[0],
    )
    write_launch(run.launch, record)
