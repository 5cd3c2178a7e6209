"""Every precision trains under every ZeRO stage on a GPU, and what is left open is decided by the GPU."""

import pytest
import torch

from jetmae.config import read_experiment
from jetmae.run_folder import RunFolder
from tests.conftest import succeed
from tests.gpu.runs import STEPS, losses, pretrain


@pytest.fixture(scope="module")
def float32(sample, tmp_path_factory) -> dict[int, float]:
    """Losses of a run in float32 on the CPU."""
    runs = tmp_path_factory.mktemp("runs")
    succeed(pretrain(sample, runs, "cpu", "engine.device=cpu"))
    return losses(RunFolder(runs / "cpu"))


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize(("precision", "nearness"), [("fp32", 2e-3), ("bf16", 0.03), ("fp16", 0.03)])
def test_losses_are_near_those_of_a_cpu(sample, tmp_path, float32, precision, stage, nearness):
    words = ("engine.device=cuda", f"engine.precision={precision}", f"engine.zero_stage={stage}")
    succeed(pretrain(sample, tmp_path, "run", *words))
    found = losses(RunFolder(tmp_path / "run"))
    assert len(found) == STEPS
    assert found[1] == pytest.approx(float32[1], rel=nearness)
    if precision != "fp16":  # whose first steps are left out while its scale comes down
        assert list(found.values()) == pytest.approx(list(float32.values()), rel=nearness)
    assert found[STEPS] < found[1]


def test_the_gpu_decides_the_precision_and_a_cpu_keeps_to_it(sample, tmp_path):
    best = "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    stopped = pretrain(sample, tmp_path, "run", JETMAE_FAILPOINTS="step: compute#7=term")
    assert stopped.returncode == 75
    run = RunFolder(tmp_path / "run")
    assert read_experiment(run.config).engine.precision == best
    finished = pretrain(sample, tmp_path, "run", CUDA_VISIBLE_DEVICES="")
    assert read_experiment(run.config).engine.precision == best
    if best == "bf16":
        succeed(finished)
        assert f"on cpu, {best}, ZeRO 0" in (run.logs / "run.log").read_text()
    else:
        assert "a CPU cannot train in fp16" in finished.stderr
