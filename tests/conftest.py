"""What several tests share: the commands a user types, and the shipped sample as a dataset."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# The time an example takes is no property of the code, on a machine that has other things to do.
settings.register_profile("jetmae", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("jetmae")

PROJECT = Path(__file__).resolve().parents[1]
SAMPLE_SPLITS = ("unlabelled_train", "unlabelled_test", "train", "validation", "test")
TINY = (  # a network and a length that train in seconds
    "model.dim=16",
    "model.depth=1",
    "model.heads=2",
    "data.evaluation_jets=32",
)
TINY_DECODER = ("reconstruct.decoder_dim=16", "reconstruct.decoder_heads=2")


def type_command(script: str, *words: object, **environment: str) -> subprocess.CompletedProcess:
    """`python jobs/<script> words...` as a user would type it, one thread per process; returns what it printed."""
    return subprocess.run(
        [sys.executable, PROJECT / "jobs" / script, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def launch(task: str, *words: object, runs: Path, **environment: str) -> subprocess.CompletedProcess:
    """`python jobs/launch.py task words...` with processes of this machine."""
    return type_command("launch.py", task, *words, "--runs-dir", runs, "--cluster", "local", **environment)


def succeed(finished: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


class FileByFile(LoadScopeScheduling):
    """Two workers share the tests file by file; all that need the Slurm cluster share one worker."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "cluster" if file.startswith("tests/cluster/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log) -> FileByFile:
    return FileByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is left alone with them at the end."""
    longest = [
        PROJECT / "tests" / name for name in ("cluster", "integration/test_experiment.py", "integration", "chaos")
    ]
    items.sort(key=lambda item: [not item.path.is_relative_to(path) for path in longest])


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """The shipped sample, converted."""
    folder = tmp_path_factory.mktemp("data") / "sample"
    sources = [f"{split}={PROJECT / 'sample' / split}.h5" for split in SAMPLE_SPLITS]
    succeed(type_command("data.py", "convert", *sources, "--out", folder))
    return folder
