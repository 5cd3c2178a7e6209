"""Which run is compared with which: like with like, or not at all."""

from pathlib import Path

import pytest

from jetmae.report.controls import control_of, recipe_of, settings_of, why_no_control
from jetmae.report.run_reader import RecordedRun

SETTINGS = {
    "data.path": "data/top",
    "data.train_split": None,
    "data.train_jets": None,
    "data.transform": "none",
    "model.dim": 8,
    "optim.batch_size": 16,
    "optim.lr": 1e-3,
    "optim.epochs": 8,
}


def run(name: str, kind: str, **changes: object) -> RecordedRun:
    """A run in memory; `train_jets=100` changes the setting of this last name."""
    config: dict = {"seed": 0, "init_from": {"finetune": "pretrain", "probe": "pretrain"}.get(kind)}
    for name_of_setting, value in SETTINGS.items():
        section, _, key = name_of_setting.partition(".")
        config.setdefault(section, {})[key] = changes.pop(key, value)
    config |= changes
    return RecordedRun(Path(name), name, kind, config, "", (), (), completed=True)


def controls(runs: list[RecordedRun], kind: str = "finetune", control: str = "scratch") -> dict[str, str | None]:
    found = {r.name: control_of(r, control, runs, [r.name for r in runs]) for r in runs if r.kind == kind}
    return {name: other and other.name for name, other in found.items()}


ARRAYS = [
    ("seed", (0, 1, 2)),
    ("train_jets", (100, 1000, None)),
    ("train_split", ("train", "fold-2")),
    ("transform", ("none", "asinh")),
    ("path", ("data/top", "data/other")),
    ("dim", (8, 16)),
    ("batch_size", (16, 64)),
    ("lr", (1e-3, 1e-4)),  # from here on: no part of the problem, but both kinds vary it
    ("epochs", (4, 8)),
]


@pytest.mark.parametrize(("kind", "control"), [("finetune", "scratch"), ("probe", "random probe")])
@pytest.mark.parametrize(("key", "values"), ARRAYS)
def test_each_member_of_an_array_has_its_twin(kind: str, control: str, key: str, values: tuple) -> None:
    runs = [run(f"{k}-{value}", k, **{key: value}) for k in (kind, control) for value in values]
    assert controls(runs, kind, control) == {f"{kind}-{value}": f"{control}-{value}" for value in values}


@pytest.mark.parametrize(("key", "values"), ARRAYS[:7])
def test_a_run_of_another_problem_is_no_control(key: str, values: tuple) -> None:
    runs = [run("finetune", "finetune", **{key: values[0]}), run("scratch", "scratch", **{key: values[1]})]
    assert controls(runs) == {"finetune": None}
    why = why_no_control(runs[0], "scratch", runs, ["finetune", "scratch"])
    assert why.startswith("No evaluated scratch run is like finetune: the nearest, scratch, has ")
    assert f"{key}={values[1]} instead of {values[0]}." in why


def test_another_recipe_is_a_control_unless_both_kinds_vary_it() -> None:
    preset = [run("finetune", "finetune", epochs=8), run("scratch", "scratch", epochs=15)]
    assert controls(preset) == {"finetune": "scratch"}
    assert why_no_control(preset[0], "scratch", preset, ["finetune", "scratch"]) == ""
    tuned = [run("finetune-4", "finetune", epochs=4), *preset]
    assert controls(tuned) == {"finetune-4": "scratch", "finetune": "scratch"}
    swept = [*tuned, run("scratch-4", "scratch", epochs=4)]
    assert controls(swept) == {"finetune-4": "scratch-4", "finetune": None}


def test_other_problems_in_the_report_make_no_sweep() -> None:
    small = [run("finetune", "finetune", epochs=8), run("scratch", "scratch", epochs=15)]
    large = [run("finetune-l", "finetune", epochs=10, dim=16), run("scratch-l", "scratch", epochs=20, dim=16)]
    assert controls(small + large) == {"finetune": "scratch", "finetune-l": "scratch-l"}


def test_the_control_that_differs_least_is_taken() -> None:
    runs = [run("finetune", "finetune", lr=1e-4), run("a", "scratch", lr=1e-3), run("b", "scratch", lr=1e-4)]
    assert controls(runs) == {"finetune": "b"}


def test_a_control_without_test_scores_is_not_replaced_by_an_unlike_one() -> None:
    runs = [run(f"{kind}-{lr}", kind, lr=lr) for kind in ("finetune", "scratch") for lr in (1e-3, 1e-4)]
    assert control_of(runs[1], "scratch", runs, ["scratch-0.001"]) is None
    assert "lr=0.001 instead of 0.0001" in why_no_control(runs[1], "scratch", runs, ["scratch-0.001"])
    assert why_no_control(runs[1], "scratch", runs, []) == ""


def test_recipes_tell_pairs_that_may_be_averaged() -> None:
    pairs = [(run("f", "finetune", seed=seed), run("s", "scratch", seed=seed)) for seed in (0, 1)]
    assert recipe_of(*pairs[0]) == recipe_of(*pairs[1])
    assert recipe_of(*pairs[0]) != recipe_of(pairs[0][0], run("s", "scratch", epochs=15))
    assert recipe_of(*pairs[0]) != recipe_of(run("f", "finetune", init_from="another"), pairs[0][1])


def test_how_a_run_is_computed_is_no_setting_of_it() -> None:
    first = run("a", "scratch", engine={"zero_stage": 0}, log={"every_steps": 1})
    second = run("b", "scratch", engine={"zero_stage": 3}, log={"every_steps": 10})
    second.config["data"]["verify_hashes"] = True
    assert settings_of(first) == settings_of(second)
