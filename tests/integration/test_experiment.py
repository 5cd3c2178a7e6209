"""The whole experiment as a user runs it: a foreign file through convert and chain, and the demo."""

import json
import os
import re
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from jetmae.metrics import explained_variance_gain
from tests.conftest import PROJECT, TINY, launch, succeed, type_command

pytestmark = pytest.mark.slow

NETWORKS = ("pretrain", "finetune", "scratch", "probe", "probe-random")


@pytest.fixture(scope="module")
def layout_2(tmp_path_factory) -> Path:
    """2,000 jets in the layout of the labelled CMS file: channels last, `Y` a column of float32, contiguous."""
    path = tmp_path_factory.mktemp("layout-2") / "Dataset_Specific_labelled.h5"
    with h5py.File(path, "w") as target:
        jets = target.create_dataset("jet", (2000, 125, 125, 8), "f4")
        labels = target.create_dataset("Y", (2000, 1), "f4")
        filled = 0  # the last 600 are jets of the first again, turned, so that no image stands there twice
        for name in ("train", "validation", "test", "train", "test"):  # the sample has 1,400 labelled jets
            with h5py.File(PROJECT / "sample" / f"{name}.h5") as source:
                take = min(len(source["Y"]), 2000 - filled)
                jets[filled : filled + take] = np.flip(
                    source["jet"][:take].transpose(0, 2, 3, 1), axis=1 + filled // 1400
                )
                labels[filled : filled + take, 0] = source["Y"][:take]
                filled += take
    assert filled == 2000
    return path


def test_a_foreign_file_goes_through_convert_and_chain_with_no_edits(layout_2, tmp_path):
    dataset = tmp_path / "mine"
    printed = succeed(type_command("data.py", "convert", layout_2, "--out", dataset, "--verify")).stdout
    assert "channels last" in printed
    short = (*TINY, "pretrain.reconstruct.decoder_dim=16", "pretrain.reconstruct.decoder_heads=2", "optim.steps=4")
    finished = succeed(launch("chain", f"data.path={dataset}", *short, "--name", "all", runs=tmp_path / "runs"))
    assert "probe-observables is left out: observables cannot be computed from channels" in finished.stderr
    for name in NETWORKS:
        assert (tmp_path / "runs" / "all" / name / "COMPLETED").exists()
        assert name in finished.stdout
    page = tmp_path / "runs" / "all" / "report" / "report.html"
    assert f"report: {page}" in finished.stdout.replace("\n", "")
    assert page.read_text().count("data:image/png;base64,") >= 10


@pytest.mark.timeout(3000)
def test_the_demo_ends_with_six_runs_that_have_learnt_something(tmp_path):
    """`make demo`: the same commands, presets and sample, in a folder of its own; half of the pretraining."""
    command = ["make", "demo", f"SAMPLE={tmp_path / 'sample'}", "SETTINGS=pretrain.optim.epochs=6"]
    inherited = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MAKEFLAGS")}
    environment = {**inherited, "JETMAE_RUNS": str(tmp_path / "runs")}
    finished = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    table = finished.stdout[finished.stdout.index("Test jets") :]
    assert all(re.search(rf"^ {name} ", table, re.MULTILINE) for name in (*NETWORKS, "probe-observables"))
    assert (tmp_path / "runs" / "demo" / "report" / "report.html").exists()
    demo = tmp_path / "runs" / "demo"
    assert auc_of(demo / "finetune") >= 0.93
    assert auc_of(demo / "scratch") >= 0.93
    assert auc_of(demo / "probe") >= auc_of(demo / "probe-random") + 0.02
    assert auc_of(demo / "probe-observables") >= 0.97
    with np.load(demo / "pretrain" / "evaluation" / "reconstruction_test.npz") as found:
        columns = [found[name] for name in ("sse", "sse_of_mean_image", "sum", "sum_of_squares", "count")]
    over_mean_image = explained_variance_gain(*columns)
    assert (over_mean_image.value_C >= 3 * over_mean_image.uncertainty_C).all()


def auc_of(run: Path) -> float:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return next(line["auc"] for line in lines if line["split"] == "test")
