"""How many steps an experiment has on its data."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from source_files import make_truth, ours

from jetmae.config import load_experiment
from jetmae.data.convert.convert import convert
from jetmae.data.jet_channels import JET_CHANNELS
from jetmae.data.manifest import read_manifest, write_manifest
from jetmae.errors import DataError
from jetmae.launch.stages import Wanted, stages_of
from jetmae.plan import make_plan


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two steps an epoch, of 16 jets."""
    folder = tmp_path_factory.mktemp("data")
    ours(folder / "source.h5", make_truth(40, side=20))
    convert([f"{folder / 'source.h5'}"], folder / "out")
    return folder / "out"


@pytest.mark.parametrize(
    ("warmup_epochs", "length", "warmup_steps"),
    [
        (0, "steps=10", 0),
        (2, "steps=10", 4),
        (2.5, "steps=10", 5),
        (3, "steps=10", 5),
        (50, "steps=10", 5),
        (50, "epochs=2", 2),
        (50, "steps=1", 0),
    ],
)
def test_the_warm_up_takes_half_of_the_training_at_most(data, warmup_epochs, length, warmup_steps):
    settings = [f"data.path={data}", f"optim.warmup_epochs={warmup_epochs}", f"optim.{length}", "optim.batch_size=16"]
    assert make_plan(load_experiment("scratch", "small", settings), 1).warmup_steps == warmup_steps


def with_units(data: Path, folder: Path, *units: str) -> Path:
    """The same images with the usual channels and these units."""
    shutil.copytree(data, folder)
    write_manifest(folder, replace(read_manifest(data), channels=tuple(JET_CHANNELS), units=units))
    return folder


@pytest.fixture
def physical(data, tmp_path) -> Path:
    return with_units(data, tmp_path / "physical", *JET_CHANNELS.values())


@pytest.fixture
def scaled(data, tmp_path) -> Path:
    return with_units(data, tmp_path / "scaled", *["unknown"] * 8)


@pytest.mark.parametrize(
    ("task", "words"), [("probe", ["init_from=observables"]), ("pretrain", ["reconstruct.observables_weight=1"])]
)
def test_observables_of_images_without_units_are_refused(scaled, task, words):
    with pytest.raises(DataError, match=r"cannot be computed from channels .* in unknown.*: expected track_pt in GeV"):
        make_plan(load_experiment(task, "small", [f"data.path={scaled}", *words]), 1)


def test_a_chain_has_observables_where_they_can_be_computed(physical, scaled, tmp_path, capsys):
    def names(path: Path) -> list[str]:
        stages = stages_of("chain", Wanted("small", [f"data.path={path}"], "all", None, tmp_path))
        return [stage.name for stage in stages]

    assert names(physical)[-1] == "probe-observables"
    assert capsys.readouterr().err == ""
    assert names(scaled) == names(physical)[:-1]
    assert capsys.readouterr().err.startswith("probe-observables is left out: observables cannot be computed")
