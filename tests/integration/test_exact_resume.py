"""A resume at any step changes nothing: losses, weights, optimizer, averages, best score, in every bit."""

from pathlib import Path

import pytest

from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from tests.conftest import TINY, TINY_DECODER, launch, succeed
from tests.integration.ranks import run_two_ranks

pytestmark = pytest.mark.slow

STEPS = 9  # an epoch of 8, and one more
SETTINGS = (*TINY, *TINY_DECODER, f"optim.steps={STEPS}", "optim.batch_size=8", "data.train_jets=64", "optim.lr=1e-3",
            "optim.warmup_epochs=0.5", "optim.ema_decay=0.9", "model.drop_path=0.3", "log.checkpoint_steps=1",
            "log.every_steps=1", "log.validate_epochs=0.25", f"log.keep_checkpoints={STEPS + 1}")  # fmt: skip


SEED_RECIPE = ("model.tokens=all", "data.transform=none", "augment.flips=false", "reconstruct.masks=null",
               "reconstruct.targets=null", "reconstruct.mean_image_offset=false",
               "reconstruct.decoder=attention")  # fmt: skip
MORE_OPTIONS = ("reconstruct.observables_weight=1.0", "reconstruct.decoder=attention-local", "data.crop_patches=10",
                "augment.shift_patches=1")  # fmt: skip
ENGINES = {  # and recipes: that of the preset, the seed's, and all that the preset leaves out
    "zero-0": ("engine.zero_stage=0",),
    "zero-2-bf16-seed": ("engine.zero_stage=2", "engine.precision=bf16", *SEED_RECIPE),
    "zero-3-accumulating-all": ("engine.zero_stage=3", "engine.micro_batch_size=2", *MORE_OPTIONS),
}
MORE_ENGINES = {
    "zero-0-bf16": ("engine.zero_stage=0", "engine.precision=bf16"),
    "zero-1": ("engine.zero_stage=1",),
    "zero-2": ("engine.zero_stage=2",),
    "zero-3-bf16": ("engine.zero_stage=3", "engine.precision=bf16"),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resume_at_every_step_of_an_epoch(sample, tmp_path, engine):
    check_every_step(sample, tmp_path, ENGINES[engine])


@pytest.mark.soak
@pytest.mark.parametrize("engine", MORE_ENGINES)
def test_a_resume_at_every_step_of_an_epoch_with_other_engines(sample, tmp_path, engine):
    check_every_step(sample, tmp_path, MORE_ENGINES[engine])


def check_every_step(sample: Path, runs: Path, engine: tuple[str, ...]) -> None:
    succeed(launch("pretrain", *SETTINGS, *engine, f"data.path={sample}", "--name", "whole", "--freeze", runs=runs))
    whole = RunFolder(runs / "whole")
    ranks = run_two_ranks("tests.integration.resume_everywhere", whole.root, runs)
    assert [rank.code for rank in ranks] == [0, 0], ranks
    assert [line["step"] for line in lines(whole, "train")] == list(range(1, STEPS + 1))
    for step in range(STEPS):
        resumed = RunFolder(runs / f"from-{step:04d}")
        for split in ("train", "validation"):
            assert lines(resumed, split) == [line for line in lines(whole, split) if line["step"] > step], (step, split)
        assert final_checkpoint(resumed) == final_checkpoint(whole), step


def lines(run: RunFolder, split: str) -> list[dict]:
    """Every number of a split's lines that does not depend on the time of day."""
    changing = ("time_s", "jets_per_s", "attempt")
    return [{key: value for key, value in line.items() if key not in changing}
            for line in read_lines(run.metrics) if line["split"] == split]  # fmt: skip


def final_checkpoint(run: RunFolder) -> dict[str, bytes]:
    """Every byte of it: weights, moments and averages of both ranks, and the training state in the manifest."""
    folder = run.checkpoints / f"step-{STEPS:08d}"
    return {path.name: path.read_bytes() for path in folder.iterdir()}
