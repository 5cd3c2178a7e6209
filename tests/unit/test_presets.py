"""Every preset is one, and says at its head how to use it, what that costs, and what comes out."""

import re
from pathlib import Path

import pytest

from docs.hooks.settings import PRESETS, SIZES, expectations
from jetmae.config import TASKS, load_experiment
from tests.conftest import PROJECT
from tests.docs.typed import check, plan, task_of, words_of

TASK_PRESETS = sorted(path for path in PRESETS.glob("*/*.yaml") if path.parent.name in TASKS)
SITES = sorted((PRESETS / "cluster").glob("*.yaml"))
ALL = [*TASK_PRESETS, *SITES]
NOT_MEASURED = "not measured yet."


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def head_of(path: Path) -> str:
    """The comment at the head of a file, in one line."""
    lines = re.match(r"(?:#.*\n)+", path.read_text())[0].splitlines()
    return " ".join(line.lstrip("# ") for line in lines)


def test_there_are_two_sizes_of_each_task():
    assert {name_of(path) for path in TASK_PRESETS} == {f"{task}/{size}" for task in TASKS for size in SIZES}


def test_configs_is_a_link_to_the_package():
    assert (PROJECT / "configs").resolve() == PRESETS


@pytest.mark.parametrize("path", TASK_PRESETS, ids=name_of)
def test_a_preset_is_an_experiment(path):
    start = ["init_from=RUN"] if path.parent.name in ("finetune", "probe") else []
    assert load_experiment(path.parent.name, path.stem, start).task == path.parent.name


@pytest.mark.parametrize("path", TASK_PRESETS, ids=name_of)
def test_a_preset_says_its_command_its_cost_and_its_result(path):
    said = expectations(path)
    assert list(said) == ["Command", "Cost", "Result"]
    words = words_of(said["Command"])
    assert task_of(said["Command"]) == path.parent.name
    assert ("--config" in words and words[words.index("--config") + 1]) or path.stem == "small"


@pytest.mark.parametrize("path", TASK_PRESETS, ids=name_of)
def test_a_figure_has_its_hardware_its_date_and_where_it_is_written_down(path):
    said = expectations(path)
    if said["Result"] != NOT_MEASURED:
        assert re.search(r"(CPU|GPU|virtual machine)", said["Cost"])
        assert re.search(r"\d{4}-\d\d-\d\d", said["Cost"])
        assert re.search(r"GB of memory", said["Cost"])
        assert re.search(r"benchmarks/results/\w+", said["Result"])
    for file in re.findall(r"benchmarks/results/[\w.-]+\.md", head_of(path)):
        assert (PROJECT / file).is_file(), file


@pytest.mark.parametrize("path", SITES, ids=name_of)
def test_a_site_says_its_command_and_whether_it_was_tested(path):
    head = head_of(path)
    assert f"--cluster {path.stem} " in head
    assert " Tested: " in head
    assert " Source: the site's public documentation" in head or path.stem == "slurm"


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_the_stated_command_exists_with_its_options(path):
    check(command_of(path))


@pytest.mark.parametrize("path", [path for path in ALL if path.parent.name not in ("finetune", "probe")], ids=name_of)
def test_the_stated_command_can_be_planned(path, sample, tmp_path):
    on_slurm = "--nodes" in command_of(path)
    assert "task: " in plan(command_of(path), sample=sample, runs=tmp_path, on_slurm=on_slurm)


def command_of(path: Path) -> str:
    return re.search(r"^# Command: (.*)$", path.read_text(), re.MULTILINE)[1]
