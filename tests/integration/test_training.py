"""The engine through the command line: ZeRO stages, precisions, reproducibility, resume. Two gloo ranks on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jetmae.config import read_experiment
from jetmae.records.json_lines import read_lines
from tests.conftest import PROJECT, TINY, TINY_DECODER, launch, succeed

pytestmark = pytest.mark.slow

PRETRAIN = (*TINY, *TINY_DECODER, "optim.batch_size=8", "optim.lr=1e-3", "optim.steps=20", "optim.warmup_epochs=0")


def losses(run: Path, split: str = "train") -> list[float]:
    by_step = {line["step"]: line["loss"] for line in read_lines(run / "metrics.jsonl") if line["split"] == split}
    return [by_step[step] for step in sorted(by_step)]


def pretrain(sample: Path, runs: Path, name: str, *words: str, ranks: int = 2):
    options = (f"data.path={sample}", *words, "--name", name, "--ranks-per-node", ranks)
    return launch("pretrain", *PRETRAIN, *options, runs=runs)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def plain_run(sample, runs) -> Path:
    """Twenty steps on two ranks as the settings leave it to the machine: fp32, ZeRO 1."""
    succeed(pretrain(sample, runs, "plain"))
    return runs / "plain"


def test_what_the_settings_leave_open_is_decided_once_and_written_down(sample, runs, plain_run):
    assert "2 rank(s) on cpu, fp32, ZeRO 1," in (plain_run / "logs" / "run.log").read_text()
    assert read_experiment(plain_run / "config.yaml").engine.precision == "fp32"
    assert "is complete" in succeed(pretrain(sample, runs, "plain")).stdout


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_zero_stages_agree_in_fp32(sample, runs, plain_run, stage):
    succeed(pretrain(sample, runs, f"zero-{stage}", f"engine.zero_stage={stage}"))
    assert losses(runs / f"zero-{stage}") == pytest.approx(losses(plain_run), rel=1e-5)
    assert len(losses(plain_run)) == 20


@pytest.mark.parametrize("stage", [0, 2])
def test_bf16_trains(sample, runs, plain_run, stage):
    succeed(pretrain(sample, runs, f"bf16-{stage}", "engine.precision=bf16", f"engine.zero_stage={stage}"))
    run = runs / f"bf16-{stage}"
    assert losses(run) == pytest.approx(losses(plain_run), rel=0.02)
    assert losses(run) != losses(plain_run)
    assert losses(run, "validation")[-1] < losses(run)[0]
    # DeepSpeed begins stage 0 with a step of its own.
    manifest = json.loads((run / "checkpoints" / "step-00000020" / "manifest.json").read_text())
    assert manifest["numbers"]["optimizer_steps"] == 20


def test_a_probe_trains_in_bf16(sample, runs):
    options = (f"data.path={sample}", "init_from=random", "engine.precision=bf16", "optim.steps=10",
               "optim.warmup_epochs=0", "--name", "probe-bf16", "--ranks-per-node", 1)  # fmt: skip
    succeed(launch("probe", *TINY, *options, runs=runs))
    assert len(losses(runs / "probe-bf16")) >= 1


def test_the_same_seed_gives_the_same_losses_in_every_bit_and_another_seed_does_not(sample, runs, plain_run):
    succeed(pretrain(sample, runs, "again"))
    assert losses(runs / "again") == losses(plain_run)
    assert losses(runs / "again", "test") == losses(plain_run, "test")
    succeed(pretrain(sample, runs, "other-seed", "seed=1"))
    assert losses(runs / "other-seed")[0] != losses(plain_run)[0]


def test_one_rank_and_accumulation_see_the_same_jets_and_masks_as_two_ranks(sample, runs, plain_run):
    succeed(pretrain(sample, runs, "one-rank", "engine.micro_batch_size=2", ranks=1))
    assert losses(runs / "one-rank")[0] == pytest.approx(losses(plain_run)[0], rel=1e-6)
    assert losses(runs / "one-rank") == pytest.approx(losses(plain_run), rel=1e-4)
    assert losses(runs / "one-rank", "test") == pytest.approx(losses(plain_run, "test"), rel=1e-4)


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    deadline_s = time.monotonic() + 120
    while not any(line["split"] == "train" and line["step"] >= step for line in read_lines(run / "metrics.jsonl")):
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline_s, "the run never came so far"
        time.sleep(0.02)


@pytest.mark.parametrize("options", [(), ("engine.zero_stage=3", "model.drop_path=0.2", "optim.ema_decay=0.9")])
def test_a_stopped_run_goes_on_bit_for_bit(sample, runs, options):
    name = f"stopped-{len(options)}"
    length = ("optim.steps=60", "log.validate_epochs=0.05", *options)
    succeed(pretrain(sample, runs, f"{name}-reference", *length))
    command = [sys.executable, PROJECT / "jobs" / "launch.py", "pretrain", *PRETRAIN, f"data.path={sample}", *length,
               "--name", name, "--ranks-per-node", "2", "--runs-dir", runs, "--cluster", "local"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=one_thread()) as process:
        wait_for_step(runs / name, 5, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    stopped_at = read_lines(runs / name / "attempts.jsonl")[-1]
    assert stopped_at["cause"] == "preempted"
    assert 5 <= stopped_at["last_committed_step"] < 60

    succeed(pretrain(sample, runs, name, *length))
    attempts = read_lines(runs / name / "attempts.jsonl")
    assert [line["event"] for line in attempts] == ["start", "end", "start", "end"]
    assert attempts[-1]["resumed_step"] == stopped_at["last_committed_step"]
    for split in ("train", "validation", "test"):
        assert losses(runs / name, split) == losses(runs / f"{name}-reference", split), split
    assert "is complete" in succeed(pretrain(sample, runs, name, *length)).stdout


def test_a_stop_in_a_validation_gives_it_up_and_the_next_start_begins_with_it(sample, runs):
    length = ("optim.steps=12", "log.checkpoint_steps=100", "log.validate_epochs=0.02", "data.evaluation_jets=64")
    succeed(pretrain(sample, runs, "undisturbed", *length))
    validated = [line["step"] for line in read_lines(runs / "undisturbed" / "metrics.jsonl")
                 if line["split"] == "validation"]  # fmt: skip
    run, options = runs / "in-validation", (f"data.path={sample}", *length, "--name", "in-validation")
    words = ("pretrain", *PRETRAIN, *options, "--ranks-per-node", 2)
    stopped = launch(*words, runs=runs, JETMAE_FAILPOINTS="validate: compute@rank1#10=term")
    assert stopped.returncode == 75, stopped.stderr
    end = read_lines(run / "attempts.jsonl")[-1]
    assert end["last_committed_step"] == validated[1]  # of 8 batches of 8 jets each
    assert len(losses(run, "validation")) == 1
    succeed(launch(*words, runs=runs))
    for split in ("train", "validation", "test"):
        assert losses(run, split) == losses(runs / "undisturbed", split), split
    assert read_lines(run / "attempts.jsonl")[-1]["resumed_step"] == validated[1]


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(sample, runs):
    length = ("optim.steps=12", "log.checkpoint_steps=4")
    succeed(pretrain(sample, runs, "damaged", *length, ranks=1))
    run = runs / "damaged"
    newest = run / "checkpoints" / "step-00000012"
    weights = next(newest.glob("rank-*"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    before = losses(run)
    (run / "COMPLETED").unlink()

    again = succeed(pretrain(sample, runs, "damaged", *length, ranks=1))
    assert "step-00000012 is damaged" in again.stderr
    assert read_lines(run / "attempts.jsonl")[-1]["resumed_step"] == 8
    assert (run / "checkpoints" / ".step-00000012.damaged").is_dir()
    assert losses(run) == before


def test_a_checkpoint_of_another_experiment_is_refused(sample, runs, plain_run):
    config = (plain_run / "config.yaml").read_text()
    (plain_run / "config.yaml").write_text(config.replace("seed: 0", "seed: 1"))
    (plain_run / "COMPLETED").unlink()
    refused = pretrain(sample, runs, "plain", "seed=1")
    (plain_run / "config.yaml").write_text(config)
    (plain_run / "COMPLETED").touch()
    assert refused.returncode == 78
    assert "was written with another experiment" in refused.stderr


def test_early_stopping_ends_the_run_and_keeps_the_best(sample, runs):
    options = ("optim.lr=1e-7", "optim.steps=400", "optim.patience=1", "log.validate_epochs=0.01", "optim.lr=1.0")
    succeed(pretrain(sample, runs, "early", *options, ranks=1))
    validation = losses(runs / "early", "validation")
    assert len(losses(runs / "early")) < 400
    assert validation[-1] > min(validation)
    test = [line for line in read_lines(runs / "early" / "metrics.jsonl") if line["split"] == "test"]
    assert test[-1]["step"] < len(losses(runs / "early"))
