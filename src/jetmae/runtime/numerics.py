"""How torch computes on a device: which precision suits it, and how its kernels round."""

import os

import torch


def choose_kernels(*, deterministic: bool) -> None:
    """For the whole process, before anything is computed on a GPU. Nothing changes on a CPU.

    Matrix products of float32 use TensorFloat-32: 10 bits of mantissa instead of 23 in the factors, float32 in the sum,
    several times as fast. With `deterministic` every kernel gives the same bits each time; torch refuses an operation
    that has no such kernel.
    """
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is used first
        torch.use_deterministic_algorithms(True)


def best_precision(device: torch.device) -> str:
    """The fastest precision in which a network trains as well as in float32.

    bf16 has the range of float32 and needs no loss scaling, but only GPUs since 2020 compute in it. Older ones have
    fp16. On a CPU fp32 is the fastest, unless it has matrix units.
    """
    if device.type == "cpu":
        return "fp32"
    has_bf16 = torch.cuda.get_device_capability(device)[0] >= 8  # torch also emulates it, slowly
    return "bf16" if has_bf16 else "fp16"


def precision_for_all(best: list[str]) -> str:
    """The precision in which all ranks can compute, from the best one of each."""
    return next(precision for precision in ("fp32", "fp16", "bf16") if precision in best)
