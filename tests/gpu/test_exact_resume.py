"""With kernels that repeat themselves a run that was killed or stopped on a GPU is the same in every bit."""

import numpy as np
import pytest

from jetmae.run_folder import RunFolder
from tests.conftest import succeed
from tests.gpu.runs import last_arrays, losses, pretrain

EXIT_CODES = {"kill": 128 + 9, "term": 75}


@pytest.mark.parametrize(("precision", "stage"), [("fp32", 0), ("bf16", 1), ("bf16", 3), ("fp16", 1)])
def test_a_killed_and_a_stopped_run_end_as_one_that_was_left_alone(sample, tmp_path, precision, stage):
    words = ("engine.device=cuda", "engine.deterministic=true", f"engine.precision={precision}",
             f"engine.zero_stage={stage}")  # fmt: skip
    succeed(pretrain(sample, tmp_path, "alone", *words))
    alone = RunFolder(tmp_path / "alone")
    for action, code in EXIT_CODES.items():
        ended = pretrain(sample, tmp_path, action, *words, JETMAE_FAILPOINTS=f"step: compute#13={action}")
        assert ended.returncode == code, ended.stdout + ended.stderr
        succeed(pretrain(sample, tmp_path, action, *words))
        run = RunFolder(tmp_path / action)
        assert losses(run) == losses(alone), action
        assert same_bits(last_arrays(run), last_arrays(alone)), action


def same_bits(arrays: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> bool:
    return arrays.keys() == others.keys() and all(
        array.tobytes() == others[name].tobytes() for name, array in arrays.items()
    )
