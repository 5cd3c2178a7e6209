"""The first command after an installation: the default dataset is made from the sample, and nothing else ever is."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jetmae.config import load_experiment
from jetmae.data.manifest import read_manifest
from jetmae.errors import DataError
from jetmae.launch import default_dataset
from jetmae.launch.default_dataset import is_default, provide_default_dataset
from tests.cluster.processes import wait_until
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow


def plan(folder: Path, *words: str) -> subprocess.Popen:
    """The launcher checks everything and starts nothing."""
    command = [sys.executable, PROJECT / "jobs" / "launch.py", "pretrain", "--cluster", "local", "--dry-run", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_first_launches_at_once_and_one_after_a_kill(tmp_path, sample):
    killed = plan(tmp_path)
    wait_until(lambda: list(tmp_path.glob("data/.sample.*.partial/.sample.*.partial/*.h5")), 60, "its first shard")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(names(tmp_path / "data")) == 1

    both = [plan(tmp_path), plan(tmp_path)]
    for launch in both:
        out, err = launch.communicate(timeout=120)
        assert launch.returncode == 0, err
        assert f"path: {tmp_path / 'data' / 'sample'}" in out
    assert names(tmp_path) == ["data"]
    assert names(tmp_path / "data") == ["sample"]
    made, by_hand = (read_manifest(folder) for folder in (tmp_path / "data" / "sample", sample))
    assert made.splits == by_hand.splits

    changed_at_s = (tmp_path / "data" / "sample" / "manifest.json").stat().st_mtime
    out, err = plan(tmp_path).communicate(timeout=60)
    assert "is made from" not in err
    assert (tmp_path / "data" / "sample" / "manifest.json").stat().st_mtime == changed_at_s


@pytest.mark.parametrize("typed", ["data.path=data/sample", "data.path=elsewhere"])
def test_a_path_that_somebody_typed_is_never_made(tmp_path, typed):
    launch = plan(tmp_path, typed)
    _, err = launch.communicate(timeout=60)
    assert launch.returncode == 65
    assert err.startswith("error: no dataset in ")
    assert names(tmp_path) == []


def test_a_path_in_a_preset_is_somebodys_choice(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("data: {path: data/sample}\noptim: {epochs: 1}\n")
    assert not is_default(load_experiment("pretrain", str(preset), []))
    assert not is_default(load_experiment("pretrain", "small", ["data.path=data/sample"]))
    assert is_default(load_experiment("pretrain", "small", ["data.train_jets=10"]))


def test_without_a_sample_it_is_said_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(default_dataset, "CLONE", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    expected = "no dataset in data/sample, the default, and no sample/ .* data simulate .* data convert .* data.path="
    with pytest.raises(DataError, match=expected):
        provide_default_dataset(Path("data/sample"))
    assert names(tmp_path) == []


def test_what_somebody_has_put_in_its_place_is_left_alone(tmp_path):
    dataset = tmp_path / "data" / "sample"
    dataset.mkdir(parents=True)
    (dataset / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"is no dataset: expected .*; move it away"):
        provide_default_dataset(dataset)
    assert names(dataset) == ["thesis.tex"]
    assert names(tmp_path / "data") == ["sample"]
