"""The tables of settings and presets, which are made from the code when the site is built."""

import re

import pytest

from docs.hooks import settings
from jetmae.config import FREE_ON_RESUME, TASKS, Experiment, load_experiment
from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def page() -> str:
    return settings.filled((PROJECT / "docs" / "settings.md").read_text())


def row(page: str, key: str) -> list[str]:
    """The cells of the first row of a setting."""
    line = next(line for line in page.splitlines() if line.startswith(f"| `{key}` |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_no_marker_is_left(page):
    assert "<!-- table" not in page


def test_every_setting_has_a_row_with_its_meaning(page):
    keys = [*settings.all_keys(), "task", "seed", "init_from"]
    assert len(keys) > 40
    for key in keys:
        assert len(row(page, key)) == 5
        assert row(page, key)[3], key


@pytest.mark.parametrize(
    ("key", "kind", "default", "later"),
    [
        ("data.transform", "`none`, `asinh`, `log`", "`none`", "stays"),
        ("data.train_jets", "whole number ≥ 1, or null", "`null`", "stays"),
        ("model.drop_path", "number ≥ 0, < 1", "`0.0`", "stays"),
        ("optim.betas", "2 numbers", "`[0.9, 0.999]`", "stays"),
        ("engine.zero_stage", "`auto`, `0`, `1`, `2`, `3`", "`auto`", "may change"),
        ("reconstruct.decoder_heads", "whole number ≥ 1", "`1`", "stays"),
        ("task", "`pretrain`, `finetune`, `scratch`, `probe`", "must be given", "stays"),
    ],
)
def test_a_row_says_type_default_and_whether_it_may_change(page, key, kind, default, later):
    _, found_kind, found_default, _, found_later = row(page, key)
    assert (found_kind, found_default, found_later) == (kind, default, later)


def test_settings_that_may_change_are_those_of_the_code(page):
    changing = {line.split("`")[1] for line in page.splitlines() if line.endswith("| may change |")}
    assert changing == FREE_ON_RESUME


@pytest.mark.parametrize("size", settings.SIZES)
def test_presets_side_by_side_are_what_is_used(size):
    table = settings.presets_table(size)
    rates = [float(cell.strip("`")) for cell in row(table, "optim.lr")[1:]]
    assert rates == [preset(task, size).optim.lr for task in TASKS]
    assert row(table, "model.dim")[1:] == [f"`{preset(task, size).model.dim}`" for task in TASKS]
    assert row(table, "reconstruct.decoder_dim")[2:] == ["", "", ""]
    assert "engine.zero_stage" not in table  # no preset differs from the default


def preset(task: str, size: str) -> Experiment:
    return load_experiment(task, size, [] if task in ("pretrain", "scratch") else ["init_from=RUN"])


def test_the_clusters_table_has_every_site():
    header = settings.clusters_table().splitlines()[0]
    assert [cell.strip(" `") for cell in header.split("|")[2:-1]] == ["jean-zay", "leonardo", "perlmutter", "slurm"]
