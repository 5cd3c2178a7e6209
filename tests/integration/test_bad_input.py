"""Everything a user can get wrong: one line that names value, expectation and next step; no traceback, nothing left."""

import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from jetmae.records.json_lines import read_lines
from tests.conftest import TINY, TINY_DECODER, launch, succeed, type_command

pytestmark = pytest.mark.slow

SHORT = (*TINY, *TINY_DECODER, "optim.batch_size=8", "optim.steps=3")


def refused(finished, *expected: str) -> None:
    """Exit code not 0, and a single line on stderr with all of `expected`."""
    lines = finished.stderr.strip().splitlines()
    assert finished.returncode not in (0, 1), finished.stdout + finished.stderr
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    for part in expected:
        assert part in lines[0]


@pytest.fixture(scope="module")
def pretrained(sample, tmp_path_factory) -> Path:
    """A runs folder with a finished tiny pretraining."""
    runs = tmp_path_factory.mktemp("runs")
    succeed(launch("pretrain", *SHORT, f"data.path={sample}", "--name", "pre", runs=runs))
    return runs


@pytest.fixture
def damaged(sample, tmp_path) -> Path:
    """A copy of the dataset to spoil."""
    return Path(shutil.copytree(sample, tmp_path / "damaged"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["optim.lrr=1"], ["'optim.lrr' does not exist", "did you mean 'optim.lr'"]),
        (["optim.lr=fast"], ["optim.lr = 'fast'", "valid number"]),
        (["optim.batch_size=7", "--ranks-per-node", "2"], ["7 cannot be split evenly over 2 ranks", "use 6 or 8"]),
        (["data.path=nowhere"], ["no dataset in", "nowhere", "jobs/data.py convert"]),
        (["model.patch_size=7"], ["model.patch_size=7 does not divide images of 125x125", "1, 5, 25, 125"]),
        (["data.train_split=tran"], ["data.train_split=tran", "unlabelled_train"]),
        (["--config", "huge"], ["no preset 'huge'", "seed, small"]),
        (["optim.batch_size=100000"], ["optim.batch_size=100000 is more than the", "reduce it"]),
        (["--name", "../outside"], ["run name '../outside'"]),
        (["--cluster", "slrum"], ["--cluster 'slrum'", "expected one of auto, local"]),
    ],
)  # fmt: skip
def test_bad_settings(sample, tmp_path, words, expected):
    words = words if any(w.startswith("data.path") for w in words) else [f"data.path={sample}", *words]
    refused(
        type_command("launch.py", "pretrain", "--cluster", "local", "--runs-dir", tmp_path / "runs", *words), *expected
    )
    assert not (tmp_path / "runs").exists()


def test_a_runs_folder_that_cannot_be_written(sample, tmp_path):
    (tmp_path / "file").touch()
    finished = launch("pretrain", *SHORT, f"data.path={sample}", runs=tmp_path / "file")
    refused(finished, "cannot write into", "Not a directory", "choose another")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_finetune_without_a_pretrain_run(sample, tmp_path):
    refused(launch("finetune", f"data.path={sample}", runs=tmp_path), "init_from is missing", "add init_from=RUN")
    refused(launch("finetune", f"data.path={sample}", "init_from=pre", runs=tmp_path), "no run 'pre'", "none yet")
    assert list(tmp_path.iterdir()) == []


def test_probe_of_a_run_with_another_architecture(sample, pretrained):
    finished = launch("probe", *TINY[1:], "model.dim=24", "init_from=pre", f"data.path={sample}", runs=pretrained)
    refused(finished, "another architecture", "model.dim is 16, here 24")
    assert not (pretrained / "probe-small").exists()


def test_start_from_an_unfinished_run(sample, pretrained):
    (pretrained / "pre" / "COMPLETED").rename(pretrained / "hidden")
    finished = launch("finetune", *TINY, "init_from=pre", f"data.path={sample}", runs=pretrained)
    (pretrained / "hidden").rename(pretrained / "pre" / "COMPLETED")
    refused(finished, "has not completed")
    assert not (pretrained / "finetune-small").exists()


def test_another_experiment_under_the_same_name(sample, pretrained):
    before = contents(pretrained / "pre")
    finished = launch("pretrain", *SHORT, f"data.path={sample}", "seed=9", "--name", "pre", runs=pretrained)
    refused(finished, "seed=9 (frozen: 0)", "another --name")
    assert contents(pretrained / "pre") == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_truncated_shard(damaged, tmp_path):
    shard = next(damaged.glob("unlabelled_train-*.h5"))
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 1)
    finished = launch("pretrain", *SHORT, f"data.path={damaged}", runs=tmp_path / "runs")
    refused(finished, shard.name, "truncated or changed", "convert again")
    assert not (tmp_path / "runs").exists()


def overwrite(shard: Path, dataset: str, value: float) -> None:
    """Change stored numbers without changing the file's size."""
    with h5py.File(shard, "r+") as file:
        file[dataset][:] = np.full(file[dataset].shape, value)


def test_a_changed_label(damaged, tmp_path):
    shard = next(damaged.glob("train-*.h5"))
    overwrite(shard, "label", 2)
    finished = launch("scratch", *TINY, f"data.path={damaged}", runs=tmp_path / "runs")
    refused(finished, shard.name, "not as it was written", "convert again")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("ranks", [1, 2])
def test_nan_pixels(damaged, tmp_path, ranks):
    shard = next(damaged.glob("unlabelled_train-*.h5"))
    overwrite(shard, "value", np.nan)
    finished = launch("pretrain", *SHORT, f"data.path={damaged}", "--ranks-per-node", ranks, runs=tmp_path / "runs")
    refused(finished, shard.name, "NaN", "data verify")
    assert not list((tmp_path / "runs").glob("*/weights/*"))
    attempts = (tmp_path / "runs" / "pretrain-small" / "attempts.jsonl").read_text()
    assert '"cause": "crashed"' in attempts
    assert shard.name in attempts


def test_changed_pixels_are_found_before_the_first_step(damaged, tmp_path):
    shard = next(damaged.glob("validation-*.h5"))  # the second of the shards, and so that of rank 1
    overwrite(shard, "value", 1)
    options = (f"data.path={damaged}", "data.verify_hashes=true", "--ranks-per-node", 2)
    finished = launch("pretrain", *SHORT, *options, runs=tmp_path / "runs")
    refused(finished, "rank 1: ", shard.name, "SHA-256 is", "restore it from a copy")
    assert not (tmp_path / "runs" / "pretrain-small" / "metrics.jsonl").exists()


def test_a_learning_rate_that_explodes(sample, tmp_path):
    options = ("optim.lr=1e30", "optim.clip_norm=null", "optim.warmup_epochs=0")
    finished = launch("pretrain", *SHORT, *options, f"data.path={sample}", runs=tmp_path)
    refused(finished, "loss is", "at step", "reduce optim.lr")
    assert_recorded(finished, tmp_path / "pretrain-small")


def assert_recorded(finished: subprocess.CompletedProcess, run: Path) -> None:
    """The run's only start is recorded as crashed, with the words that the user has read."""
    start, end = read_lines(run / "attempts.jsonl")
    assert (start["event"], end["event"], end["cause"]) == ("start", "end", "crashed")
    assert end["message"].endswith(finished.stderr.strip().removeprefix("error: "))


def test_fp16_on_a_cpu_is_refused_before_there_is_a_run(sample, tmp_path):
    options = ("engine.precision=fp16", "engine.device=cpu")
    finished = launch("pretrain", *SHORT, *options, f"data.path={sample}", runs=tmp_path)
    refused(finished, "precision=fp16", "device=cpu", "use bf16 or fp32")
    assert list(tmp_path.iterdir()) == []


def test_fp16_where_only_the_job_finds_no_gpu(sample, tmp_path):
    options = ("engine.precision=fp16", f"data.path={sample}")
    finished = launch("pretrain", *SHORT, *options, runs=tmp_path, CUDA_VISIBLE_DEVICES="")
    refused(finished, "engine.precision=fp16", "use bf16 or fp32")
    assert_recorded(finished, tmp_path / "pretrain-small")
