"""What an experiment leaves to the machine: decided once, kept on every device."""

import pytest
import torch

from jetmae.config import load_experiment, read_experiment
from jetmae.errors import JetmaeError
from jetmae.launch.freeze import freeze, freeze_precision
from jetmae.run import with_precision, zero_stage_of
from jetmae.run_folder import RunFolder
from jetmae.runtime.numerics import best_precision, precision_for_all
from jetmae.runtime.world import World

CPU = World(0, 1, 0, torch.device("cpu"))


def experiment(*overrides: str):
    return load_experiment("pretrain", "seed", list(overrides))


@pytest.fixture
def run(tmp_path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    freeze(experiment(), run)
    return run


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_the_precision_of_a_gpu_depends_on_its_generation(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert best_precision(torch.device("cuda", 0)) == expected


def test_a_cpu_computes_in_float32():
    assert best_precision(torch.device("cpu")) == "fp32"


def test_ranks_on_unlike_devices_take_what_all_of_them_have():
    assert precision_for_all(["bf16", "bf16"]) == "bf16"
    assert precision_for_all(["bf16", "fp16"]) == "fp16"
    assert precision_for_all(["bf16", "fp32"]) == "fp32"


def test_the_first_start_writes_its_precision_down(run):
    assert read_experiment(run.config).engine.precision == "auto"
    assert with_precision(experiment(), run, CPU).engine.precision == "fp32"
    assert read_experiment(run.config).engine.precision == "fp32"


def test_a_later_start_on_another_device_keeps_it(run):
    freeze_precision(run, "bf16")
    before = run.config.read_bytes()
    assert with_precision(read_experiment(run.config), run, CPU).engine.precision == "bf16"
    assert run.config.read_bytes() == before


def test_the_same_command_goes_on_and_another_precision_is_refused(run):
    freeze_precision(run, "bf16")
    freeze(experiment(), run)
    freeze(experiment("engine.precision=bf16"), run)
    assert read_experiment(run.config).engine.precision == "bf16"
    with pytest.raises(JetmaeError, match=r"engine.precision=fp32 \(frozen: bf16\)"):
        freeze(experiment("engine.precision=fp32"), run)


def test_auto_leaves_a_stage_that_somebody_chose(run):
    freeze(experiment("engine.zero_stage=3"), run)
    freeze(experiment("log.every_steps=7"), run)
    kept = read_experiment(run.config)
    assert (kept.engine.zero_stage, kept.log.every_steps) == (3, 7)


def test_the_optimizer_is_sharded_as_soon_as_there_are_several_ranks():
    assert [zero_stage_of(experiment(), ranks) for ranks in (1, 2, 8)] == [0, 1, 1]
    assert zero_stage_of(experiment("engine.zero_stage=3"), 1) == 3
