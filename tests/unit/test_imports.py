"""Who may import what.

Rooms stand on lower rooms alone, nothing goes in a circle, each heavy library has one owner, and commands start in a
blink.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import PROJECT

SOURCE = PROJECT / "src" / "jetmae"
OWNERS = {
    "deepspeed": {"engine/backend.py"},
    "timm": {"model/timm_blocks.py"},
    "pythia8mc": {"data/simulation/collisions.py"},
    "tensorboard": {"engine/tensorboard_file.py"},
    "pyarrow": {"data/convert/parquet_source.py"},
    "hdf5plugin": {"data/convert/hdf5_filters.py"},
    "submitit": {"launch/submission.py"},
}
# From low to high. A file may import what stands in a line above its own, and files of its own room.
LAYERS = """
    streams
    errors  randomness  command_line  presets  process_identity
    files
    records
    run_folder  progress  metrics
    slurm  runtime.liveness  model
    data
    data.simulation  data.convert  runtime
    config  checkpoint  attempts
    engine
    plan  weights  tasks
    evaluation  launch  watch
    run  report  doctor
    studies
    rank  cli
    cli.commands  __main__
"""
LAYER_OF = {room: number for number, line in enumerate(LAYERS.strip().splitlines()) for room in line.split()}
# Names that jobs queued by an older version ask for: for one release they lead to the new place.
OLD_NAMES = {"jetmae.supervisor", "jetmae.runtime.train_job"}


def module_name(path: Path) -> str:
    parts = ("jetmae", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names of all modules and members that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph() -> dict[str, set[str]]:
    """Which modules of ours each module imports."""
    paths = {module_name(path): path for path in SOURCE.rglob("*.py")}

    def ours(name: str) -> str | None:
        while name and name not in paths:
            name = name.rpartition(".")[0]
        return name or None

    return {
        module: {found for name in imports_of(path) if (found := ours(name)) and found != module}
        for module, path in paths.items()
        if module not in OLD_NAMES
    }


def room_of(module: str) -> str:
    """`data.convert` of jetmae.data.convert.open; a file at the top is a room of its own."""
    names = module.split(".")[1:]
    while names and ".".join(names) not in LAYER_OF:
        names.pop()
    return ".".join(names)


GRAPH = graph()


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_library_has_one_owner(library):
    users = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if any(library in name.split(".") for name in imports_of(path))
    }
    assert users == OWNERS[library]


def test_every_file_is_in_a_room_that_has_a_layer():
    assert [module for module in GRAPH if module != "jetmae" and not room_of(module)] == []
    rooms = {room_of(module) for module in GRAPH}
    assert set(LAYER_OF) - rooms == set(), "layers without a file"


def test_no_files_import_each_other_in_a_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_point_downwards():
    upwards = [
        f"{module} ({room_of(module)}) imports {other} ({room_of(other)})"
        for module, others in GRAPH.items()
        for other in others
        if room_of(module) != room_of(other)
        and other != "jetmae"
        and LAYER_OF[room_of(other)] >= LAYER_OF[room_of(module)]
    ]
    assert upwards == []


def test_configuration_reaches_no_further_down_than_tasks_and_run():
    """Below them, plain arguments: who reads the network or the engine need not know the settings."""
    users = {room_of(module) for module, others in GRAPH.items() if "jetmae.config" in others}
    assert users == {"launch", "plan", "run", "tasks", "cli.commands"}


@pytest.mark.parametrize("script", ["launch.py", "data.py", "runs.py", "doctor.py"])
def test_help_imports_nothing_heavy(script):
    command = [sys.executable, "-X", "importtime", PROJECT / "jobs" / script, "--help"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in finished.stderr.splitlines()}
    assert "usage" in finished.stdout
    assert not loaded & {"torch", "numpy", "pydantic", "h5py", "matplotlib", "deepspeed", "submitit", "rich", "yaml"}


def test_checking_an_experiment_does_not_import_torch(sample):
    code = (
        "import sys, jetmae.config as config, jetmae.plan as plan\n"
        f"experiment = config.load_experiment('pretrain', 'small', ['data.path={sample}'])\n"
        "assert plan.make_plan(experiment, 1).train_jets > 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_launching_does_not_import_torch():
    code = "import sys, jetmae.cli.commands.train\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
