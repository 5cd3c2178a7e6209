"""Which GPU a rank takes. No GPU is here: torch.cuda is told how many there would be, and nothing computes on them."""

import os

import pytest
import torch

from jetmae.errors import JetmaeError
from jetmae.runtime.gpus import device_index, gpu_identity
from jetmae.runtime.world import world_from_environment


@pytest.mark.parametrize(
    ("local_rank", "visible", "has_own", "index"),
    [
        (0, 4, False, 0),
        (3, 4, False, 3),
        (3, 1, False, 0),  # --gpu-bind=single:1, or one device in CUDA_VISIBLE_DEVICES
        (3, 1, True, 0),
        (3, 2, True, 0),  # --gpus-per-task=2
        (1, 4, True, 1),  # --gpus-per-task=1 --gpu-bind=none
    ],
)
def test_each_rank_takes_a_gpu_of_its_own(local_rank, visible, has_own, index):
    assert device_index(local_rank, visible, has_own=has_own) == index


@pytest.mark.parametrize(("visible", "has_own"), [(2, False), (0, False), (0, True)])
def test_a_rank_without_a_gpu_says_how_many_there_are(visible, has_own):
    with pytest.raises(JetmaeError, match=f"local rank 2 has no GPU: {visible} visible"):
        device_index(2, visible, has_own=has_own)


@pytest.fixture
def visible_gpus(monkeypatch):
    """Stands for GPUs: a function that says how many torch sees; it returns the devices that were chosen."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("SLURM_GPUS_PER_TASK", raising=False)

    def see(count: int) -> list[torch.device]:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        return chosen

    return see


def test_a_task_that_sees_one_gpu_uses_it_and_so_does_deepspeed(monkeypatch, visible_gpus):
    monkeypatch.setenv("LOCAL_RANK", "3")
    chosen = visible_gpus(1)
    world = world_from_environment("auto")
    assert (world.local_rank, world.device) == (3, torch.device("cuda", 0))
    assert chosen == [world.device]
    assert os.environ["LOCAL_RANK"] == "0"


def test_tasks_that_see_all_gpus_share_them_out(monkeypatch, visible_gpus):
    monkeypatch.setenv("LOCAL_RANK", "3")
    visible_gpus(4)
    assert world_from_environment("auto").device == torch.device("cuda", 3)
    assert os.environ["LOCAL_RANK"] == "3"


def test_slices_of_a_gpu_are_told_apart_by_their_own_names(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1a, MIG-2b")
    assert gpu_identity(1, "whole") == "MIG-2b"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1a,GPU-2b")
    assert gpu_identity(1, "GPU-2b-in-full") == "GPU-2b-in-full"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_identity(1, "GPU-2b-in-full") == "GPU-2b-in-full"
