"""Which run another one is measured against: its control, the same supervised problem without the pretraining.

A control has the same seed, data, transform, crop, training split, number of labels, network and batch size
(`PROBLEM`). The
rest of the recipe (learning rate, epochs, ...) may differ, as it does between the presets of fine-tuning and scratch,
unless a sweep varies it: a setting that takes several values among the runs of both kinds on this problem has to agree
as well. Of several controls the one that differs in the fewest settings is taken, then the first by name. A run without
a control is not compared: with any other one, the difference would be that of the settings.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from jetmae.report.run_reader import RecordedRun

CONTROL = {"finetune": "scratch", "probe": "random probe"}

# What defines the supervised problem, together with all of `model`.
PROBLEM = (
    "seed",
    "data.path",
    "data.train_split",
    "data.train_jets",
    "data.transform",
    "data.crop_patches",
    "optim.batch_size",
)

# `engine` and `log` change how it is computed and watched.
_SECTIONS = ("data", "augment", "model", "reconstruct", "classify", "optim")
_NO_MATTER = ("data.verify_hashes", "optim.max_skipped_steps")


def control_of(
    run: RecordedRun, kind: str, runs: Sequence[RecordedRun], evaluated: Collection[str]
) -> RecordedRun | None:
    """The evaluated run of a kind that `run` is compared with, by the rule above."""
    swept = _swept(run, kind, runs)
    alike = [other for other in _candidates(kind, runs, evaluated) if not _mismatch(run, other, swept)]
    return min(alike, key=lambda other: len(_differing(run, other)), default=None)


def why_no_control(run: RecordedRun, kind: str, runs: Sequence[RecordedRun], evaluated: Collection[str]) -> str:
    """How the nearest evaluated run of a kind differs from `run`; empty if there is a control, or no such run."""
    swept = _swept(run, kind, runs)
    unlike = {other.name: _mismatch(run, other, swept) for other in _candidates(kind, runs, evaluated)}
    nearest = min(unlike, key=lambda name: len(unlike[name]), default=None)
    if nearest is None or not unlike[nearest]:
        return ""
    ours, theirs = settings_of(run), settings_of(next(other for other in runs if other.name == nearest))
    names = ", ".join(f"{name}={theirs.get(name)} instead of {ours.get(name)}" for name in unlike[nearest])
    return f"No evaluated {kind} run is like {run.name}: the nearest, {nearest}, has {names}."


def settings_of(run: RecordedRun) -> dict[str, object]:
    """Dotted settings that decide what a run learns."""
    flat = {name: run.config.get(name) for name in ("seed", "init_from")}
    for section in _SECTIONS:
        flat |= {f"{section}.{key}": value for key, value in (run.config.get(section) or {}).items()}
    return {name: value for name, value in flat.items() if name not in _NO_MATTER}


def pretraining_of(run: RecordedRun, runs: Iterable[RecordedRun]) -> RecordedRun | None:
    """The pretraining that a run starts from, if it is among these runs."""
    start = Path(str(run.config.get("init_from"))).resolve()
    return next((other for other in runs if other.kind == "pretrain" and other.folder == start), None)


def recipe_of(run: RecordedRun, control: RecordedRun, runs: Iterable[RecordedRun] = ()) -> dict[str, object]:
    """Settings of a run without the seed, and those of its control that differ. Pairs with equal ones are averaged.

    A pretraining among `runs` counts by its settings without the seed, any other one by its name.
    """
    ours, theirs = settings_of(run), settings_of(control)
    pretraining = pretraining_of(run, runs)
    if pretraining is not None:
        ours = {name: value for name, value in ours.items() if name != "init_from"}
        ours |= {f"pretraining's {name}": value for name, value in settings_of(pretraining).items() if name != "seed"}
    different = [name for name in _differing(run, control) if name != "init_from"]
    recipe = ours | {f"{control.kind}'s {name}": theirs.get(name) for name in different}
    return {name: value for name, value in recipe.items() if name != "seed"}


def _candidates(kind: str, runs: Sequence[RecordedRun], evaluated: Collection[str]) -> list[RecordedRun]:
    return [other for other in runs if other.kind == kind and other.name in evaluated]


def _swept(run: RecordedRun, kind: str, runs: Sequence[RecordedRun]) -> set[str]:
    """Settings that a sweep varies: they have several values among the runs of both kinds on `run`'s problem."""
    same = [other for other in runs if _problem_of(other) == _problem_of(run)]
    return _varied(other for other in same if other.kind == run.kind) & _varied(o for o in same if o.kind == kind)


def _varied(runs: Iterable[RecordedRun]) -> set[str]:
    values = [settings_of(run) for run in runs]
    names = {name for settings in values for name in settings}
    return {name for name in names if any(settings.get(name) != values[0].get(name) for settings in values)}


def _problem_of(run: RecordedRun) -> dict[str, object]:
    return {name: value for name, value in settings_of(run).items() if _is_problem(name)}


def _is_problem(name: str) -> bool:
    return name in PROBLEM or name.startswith("model.")


def _mismatch(run: RecordedRun, other: RecordedRun, swept: Collection[str]) -> list[str]:
    """Settings that forbid to compare the two."""
    return [name for name in _differing(run, other) if _is_problem(name) or name in swept]


def _differing(run: RecordedRun, other: RecordedRun) -> list[str]:
    ours, theirs = settings_of(run), settings_of(other)
    return [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
