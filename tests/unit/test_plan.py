"""How many steps an experiment has on its data."""

from pathlib import Path

import pytest
from source_files import make_truth, ours

from jetmae.config import load_experiment
from jetmae.data.convert.convert import convert
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
