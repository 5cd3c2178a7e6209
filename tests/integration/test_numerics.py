"""What is not finite, or differs between ranks, is never committed, and is named."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from tests.conftest import TINY, TINY_DECODER, launch, succeed
from tests.integration.ranks import run_two_ranks

pytestmark = pytest.mark.slow

SETTINGS = (*TINY, *TINY_DECODER, "optim.steps=8", "optim.batch_size=8", "data.train_jets=64", "optim.lr=1e-3",
            "optim.warmup_epochs=0", "log.checkpoint_steps=2", "log.every_steps=1", "engine.zero_stage=1")  # fmt: skip
FAULTY = "tests.integration.faulty_run"


def frozen(sample: Path, runs: Path, *words: str) -> RunFolder:
    live = ("--freeze", "--live-code")  # the faults are planted there
    succeed(launch("pretrain", *SETTINGS, *words, f"data.path={sample}", "--name", "run", *live, runs=runs))
    return RunFolder(runs / "run")


def jets_of_step(sample: Path, step: int) -> list[int]:
    """Sample ids of the global batch of an update, counted from 1."""
    from jetmae.data.order import few_labels, global_batch
    from jetmae.data.shards import JetDataset

    selection = few_labels(len(JetDataset(sample, "unlabelled_train")), 64, 0)
    return selection[global_batch(step - 1, num_jets=64, batch_size=8, seed=0)].tolist()


def steps_done(run: RunFolder) -> list[int]:
    return [line["step"] for line in read_lines(run.metrics) if line["split"] == "train"]


@pytest.mark.parametrize("kind", ["nan-loss", "nan-gradient"])
def test_a_bad_step_is_undone_and_left_out(sample, tmp_path, kind):
    run = frozen(sample, tmp_path)
    poisoned = jets_of_step(sample, 6)[-1]
    ranks = run_two_ranks(FAULTY, run.root, FAULT=f"{kind}:{poisoned}")
    assert [rank.code for rank in ranks] == [0, 0], ranks
    assert steps_done(run) == [1, 2, 3, 4, 5, 5, 7, 8]  # back to the checkpoint of step 4
    log = (run.logs / "run.log").read_text()
    assert "at step 6" in log
    assert "back to the last checkpoint" in log
    assert "shard unlabelled_train-" in log
    for file in run.checkpoints.rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())


def test_too_many_bad_steps_end_the_run_and_name_shard_and_jets(sample, tmp_path):
    run = frozen(sample, tmp_path, "optim.max_skipped_steps=1")
    poisoned = [jets_of_step(sample, step)[0] for step in (3, 4)]
    ranks = run_two_ranks(FAULTY, run.root, FAULT=f"nan-loss:{poisoned[0]},{poisoned[1]}")
    assert [rank.code for rank in ranks] == [78, 78], ranks
    end = read_lines(run.attempts)[-1]
    assert "loss is nan" in end["message"]
    assert "at step 4" in end["message"]
    assert "more than optim.max_skipped_steps=1" in end["message"]
    assert f"jets {', '.join(map(str, jets_of_step(sample, 4)[:4]))}" in end["message"]  # of rank 0, whose loss it was
    assert end["last_committed_step"] == 2


def test_ranks_whose_weights_differ_in_a_bit_stop_before_the_next_commit(sample, tmp_path):
    run = frozen(sample, tmp_path, "engine.zero_stage=0")
    ranks = run_two_ranks(FAULTY, run.root, FAULT="bit-flip:3")
    assert [rank.code for rank in ranks] == [70, 70], ranks
    end = read_lines(run.attempts)[-1]
    assert "at step 4 the weights" in end["message"]
    assert "differ" in end["message"]
    assert end["last_committed_step"] == 2
