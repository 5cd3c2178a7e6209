"""Who may import what: layers point downwards, each heavy library has one owner, commands start in a blink."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

SOURCE = PROJECT / "src" / "jetmae"
OWNERS = {
    "deepspeed": {"engine/backend.py"},
    "timm": {"model/timm_blocks.py"},
    "pythia8mc": {"data/simulation/simulate.py", "data/simulation/collisions.py"},
    "tensorboard": {"engine/tensorboard_file.py"},
    "pyarrow": {"data/convert/parquet_source.py"},
}
LOWEST = ("data", "model", "runtime")  # these never import each other, the loop, the tasks, or the run
FOUNDATION = {"errors", "files", "randomness", "config", "run_folder"}


def imports_of(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def files() -> dict[str, set[str]]:
    return {str(path.relative_to(SOURCE)): imports_of(path) for path in SOURCE.rglob("*.py")}


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_library_has_one_owner(library):
    users = {file for file, names in files().items() if any(library in name.split(".") for name in names)}
    assert users
    assert users <= OWNERS[library]


def test_lowest_layers_stand_on_the_foundation_alone():
    for file, names in files().items():
        layer = file.split("/")[0]
        if layer in LOWEST:
            ours = {name.split(".")[1] for name in names if name.startswith("jetmae.")}
            assert ours <= FOUNDATION | {layer}, file


def test_configuration_reaches_no_further_down_than_tasks_and_run():
    users = {file for file, names in files().items() if "jetmae.config" in names}
    assert users == {"launch/freeze.py", "plan.py", "run.py", "tasks/tasks.py"}


@pytest.mark.parametrize("script", ["launch.py", "data.py", "runs.py", "doctor.py"])
def test_help_imports_nothing_heavy(script):
    command = [sys.executable, "-X", "importtime", PROJECT / "jobs" / script, "--help"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in finished.stderr.splitlines()}
    assert "usage" in finished.stdout
    assert not loaded & {"torch", "numpy", "pydantic", "h5py", "matplotlib", "deepspeed", "submitit"}


def test_checking_an_experiment_does_not_import_torch(sample):
    code = (
        "import sys, jetmae.config as config, jetmae.plan as plan\n"
        f"experiment = config.load_experiment('pretrain', 'small', ['data.path={sample}'])\n"
        "assert plan.make_plan(experiment, 1).train_jets > 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
