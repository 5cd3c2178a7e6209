"""How torch's kernels round on a GPU: TensorFloat-32, and kernels that repeat themselves. Nothing changes on a CPU."""

import os

import torch


def choose_kernels(*, deterministic: bool) -> None:
    """For the whole process, before anything is computed on the GPU.

    Matrix products of float32 use TensorFloat-32: 10 bits of mantissa instead of 23 in the factors, float32 in the sum,
    several times as fast. Ask for `deterministic` and every kernel gives the same bits each time; torch refuses an
    operation that has none of that kind.
    """
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is used first
        torch.use_deterministic_algorithms(True)
