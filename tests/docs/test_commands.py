"""Every command in the documentation: it exists with its options, or, where no cluster is needed, it is run."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import pytest

from tests.conftest import PROJECT, TINY, TINY_DECODER
from tests.docs import pages, typed

RUN_HERE = tuple(
    f"{name}.md"
    for name in (
        "docs/tutorial",
        "README",
        "docs/your-data",
        "docs/settings",
        "docs/checkpoints-and-guarantees",
        "docs/studies",
    )
)
RUN_ELSEWHERE = {  # command: what runs it
    "make setup": "the Makefile, before any test",
    "make demo": "tests/integration/test_experiment.py",
    "make test": ".ci/run",
    "make check": ".ci/run",
    "make test-fast": "part of make test",
    "source .venv/bin/activate": "the reader's shell",
    "pre-commit install": "the reader's clone",
    "python -m pytest -q tests/unit/test_config.py": "part of make test",
    "python -m tests.cluster up": "tests/cluster/test_the_cluster.py",
    "jetmae runs report pretrain-small": "the tutorial's, which has more runs",
    "jetmae runs tensorboard": "tests/cluster/test_watch.py; it serves until it is stopped",
}
COMMANDS = sorted({(block.page, command) for block in pages.command_blocks() for command in block.commands()})
LAUNCHES = sorted({(command, block.needs_site) for block in pages.command_blocks() for command in block.commands()
                   if typed.task_of(command) in ("pretrain", "scratch", "chain")})  # fmt: skip


def test_every_block_says_what_it_is():
    assert [block for block in pages.blocks() if block.language not in pages.LANGUAGES] == []


def test_there_are_commands_of_both_kinds():
    assert {block.needs_site for block in pages.command_blocks()} == {True, False}
    assert len(COMMANDS) > 30


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_and_its_options_exist(page, command):
    typed.check(command)


@pytest.mark.parametrize(("page", "command"), sorted(set(pages.inline_commands())))
def test_a_command_in_the_text_and_its_options_exist(page, command):
    typed.check(command)


FOREIGN_OPTIONS = {"--signal": "sbatch"}


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_an_option_in_the_text_is_one_of_some_command(page):
    options = {re.match(r"[\w-]+", code)[0] for code in pages.inline_code(page) if code.startswith("--")}
    assert [option for option in options - set(FOREIGN_OPTIONS) if not typed.is_option(option)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        "python jobs/launch.py pretrian",
        "jetmae pretrain --node-count 2",
        "python jobs/launch.py pretrain --node 2x --nods 2",
        "python jobs/launch.py chain finetune.optim.lrr=1",
        "python jobs/runs.py statsu RUN",
        "jetmae data konvert a.h5",
        "make demonstration",
        "python -m tests.kaos",
        "jetme pretrain",
    ],
)
def test_a_wrong_command_is_noticed(wrong):
    with pytest.raises(Exception, match=r"no |unknown|exist"):
        typed.check(wrong)


def test_every_local_command_is_run_here_or_known_to_be_run_elsewhere():
    local = {(block.page, command) for block in pages.command_blocks() if not block.needs_site
             for command in block.commands()}  # fmt: skip
    not_run = {command for page, command in local if page not in RUN_HERE} | {
        command for _, command in local if not command.startswith(("jetmae ", "python jobs/", "python -m tests.chaos"))
    }
    assert not_run - set(RUN_ELSEWHERE) == set()
    assert set(RUN_ELSEWHERE) <= {command for _, command in local}


@pytest.mark.parametrize(("command", "needs_site"), LAUNCHES)
def test_a_launch_can_be_planned(command, needs_site, sample, tmp_path):
    printed = typed.plan(command, sample=sample, runs=tmp_path, on_slurm=needs_site)
    assert "task: " in printed
    assert ("#SBATCH" in printed) == needs_site


# -- for real ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> Path:
    """A folder in which somebody has typed all local commands, in the order of the pages, with a tiny network."""
    folder = tmp_path_factory.mktemp("followed")
    for name in ("jobs", "sample", "tests"):
        (folder / name).symlink_to(PROJECT / name)
    typed_before = set(RUN_ELSEWHERE)
    for page in RUN_HERE:
        for block in pages.command_blocks():
            if block.page == page and not block.needs_site:
                for command in block.commands():
                    if command not in typed_before:
                        run(command, folder)
                        typed_before.add(command)
    return folder


def run(command: str, folder: Path) -> None:
    words = typed.words_of(command)
    if words[:2] != ["python", "-m"]:
        script, words = typed.ours(words)
        words = ["python", f"jobs/{script}", *words, *smaller(command)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, *words[1:]], cwd=folder, env=one_thread, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, f"{command}\n{finished.stdout}{finished.stderr}"


def smaller(command: str) -> list[str]:
    """What is typed besides, so that a command takes seconds."""
    task = typed.task_of(command)
    if task == "study":
        return ["--cluster", "local", *TINY]
    if task:
        decoder = {"pretrain": TINY_DECODER, "chain": [f"pretrain.{word}" for word in TINY_DECODER]}.get(task, ())
        return ["--cluster", "local", "--ranks-per-node", "1", *TINY, *decoder, "optim.steps=4", "engine.device=cpu"]
    return ["--jets", "16"] if " simulate " in command else []


@pytest.mark.slow
def test_who_follows_the_pages_gets_the_report(followed):
    runs = followed / "runs"
    for name in ("pretrain-small", "finetune-small", "scratch-small", "probe-small", "probe-random"):
        assert (runs / name / "COMPLETED").exists()
    assert (runs / "report" / "report.html").exists()


@pytest.mark.slow
def test_every_field_of_a_run_is_in_its_contract(followed):
    page = (PROJECT / "docs" / "run-folder.md").read_text()
    assert [field for field in sorted(fields_of_runs(followed / "runs")) if f"`{field}`" not in page] == []


def fields_of_runs(runs: Path) -> set[str]:
    """The names of all values in the records, the manifests of checkpoints and the arrays of some runs."""
    fields: set[str] = set()
    for path in runs.glob("*/*.jsonl"):
        fields.update(*(json.loads(line) for line in path.read_text().splitlines()))
    objects = ("launch.json", ".lease-*.json", "checkpoints/*/manifest.json")
    for path in (path for name in objects for path in runs.glob(f"*/{name}")):
        content = json.loads(path.read_text())
        for part in (content, *(content.get(name, ()) for name in ("state", "owner", "numbers"))):
            fields.update(part)
    for path in runs.glob("*/evaluation/*.npz"):
        names = (name.removesuffix(".npy") for name in zipfile.ZipFile(path).namelist())
        names = (re.sub(r"^closure/\w+/", "closure/WHAT/", name) for name in names)
        fields.update(re.sub(r"^(patches|patch_groups|groups)/\w+/", "MASK/SPACE/", name) for name in names)
    assert {"cause", "grad_norm", "auc", "stall_s", "git_commit", "optimizer_steps", "sse", "renewals"} <= fields
    return fields


@pytest.mark.slow
def test_every_field_of_a_dataset_is_in_its_contract(followed):
    page = (PROJECT / "docs" / "data-format.md").read_text()
    manifest = json.loads((followed / "data" / "sample" / "manifest.json").read_text())
    entry = manifest["splits"]["train"][0]
    with h5py.File(followed / "data" / "sample" / entry["file"]) as file:
        fields = {*manifest, *entry, *file, *file.attrs, *file["count"].attrs}
    assert [field for field in sorted(fields) if f"`{field}`" not in page] == []
