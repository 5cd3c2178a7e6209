"""Which attention is the fastest for one wide head? Flash attention ends at a head dimension of 256.

    python benchmarks/attention.py [--device cuda] [--long]

One head of dimension 768 over 157 tokens (encoder of the seed network) and of 512 over 626 (its decoder), in bf16 on a
GPU and float32 on a CPU: milliseconds for forward and backward, the median of repetitions taken in turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
ROUNDS = 7


@dataclass(frozen=True)
class Shape:
    tokens: int
    head_dim: int


SHAPES = {"cuda": [Shape(157, 768), Shape(626, 512)], "cpu": [Shape(157, 64), Shape(626, 64)]}
JETS = {("cuda", False): [64, 256], ("cuda", True): [64, 128, 256], ("cpu", False): [2], ("cpu", True): [8, 32]}


def with_kernel(kernel: SDPBackend | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if kernel is None:
        return F.scaled_dot_product_attention(q, k, v)
    with sdpa_kernel(kernel):
        return F.scaled_dot_product_attention(q, k, v)


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The three products of the definition; the scores are kept for the backward pass."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1) @ v


def baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `written_out`, with the scale inside of the first product, and batches in one dimension."""
    q, k, v = (tensor.flatten(0, 1) for tensor in (q, k, v))
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(dim=-1), v)[:, None]


def flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q, k, v)


def choices(device: str) -> dict[str, Attention]:
    """By name; what compiles is made anew for each shape."""
    kernels = {
        "SDPA, torch chooses": None,
        "SDPA math": SDPBackend.MATH,
        "SDPA flash": SDPBackend.FLASH_ATTENTION,
        "SDPA memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
        "SDPA cuDNN": SDPBackend.CUDNN_ATTENTION,
    }
    plain = {name: partial(with_kernel, kernel) for name, kernel in kernels.items()}
    plain |= {"written out": written_out, "baddbmm": baddbmm}
    if device == "cpu":
        return plain
    return {**plain, "written out, compiled": torch.compile(written_out), "flex, compiled": torch.compile(flex)}


def main() -> None:
    arguments = parse()
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    torch._dynamo.config.cache_size_limit = 64  # noqa: SLF001  as torch's documentation sets it
    table: dict[str, list[str]] = {}
    columns = []
    for shape in SHAPES[arguments.device]:
        for jets in JETS[arguments.device, arguments.long]:
            columns.append(f"{shape.tokens}x{shape.head_dim}, {jets} jets")
            for name, milliseconds in measure(shape, jets, arguments.device, dtype).items():
                table.setdefault(name, []).append(milliseconds)
    print(f"forward and backward, ms, {dtype}, one head; tokens x head dimension")
    print(f"{'':24}", *(f"{column:>20}" for column in columns))
    for name, row in table.items():
        print(f"{name:24}", *(f"{cell:>20}" for cell in row))


def measure(shape: Shape, jets: int, device: str, dtype: torch.dtype) -> dict[str, str]:
    """Milliseconds of each choice, or why it does not work."""
    size = (jets, 1, shape.tokens, shape.head_dim)
    qkv = [torch.randn(size, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    gradient = torch.randn(size, device=device, dtype=dtype)
    working, cells = {}, {}
    for name, attention in choices(device).items():
        try:
            timed(attention, qkv, gradient)
            working[name] = attention
        except Exception as error:  # noqa: BLE001  a kernel that does not take this shape is a result
            cells[name] = f"no: {type(error).__name__}"
            print(f"{name}, {shape}, {jets} jets: {str(error)[:160]}")
    seconds: dict[str, list[float]] = {name: [] for name in working}
    for _ in range(ROUNDS):
        for name, attention in working.items():
            seconds[name].append(timed(attention, qkv, gradient))
    cells |= {name: f"{1e3 * statistics.median(values):.3f}" for name, values in seconds.items()}
    return {name: cells[name] for name in choices(device)}


def timed(attention: Attention, qkv: list[Tensor], gradient: Tensor, repeats: int = 3) -> float:
    """Seconds of one forward and backward pass."""
    synchronise(gradient)
    began_s = time.perf_counter()
    for _ in range(repeats):
        torch.autograd.grad(attention(*qkv), qkv, gradient)
    synchronise(gradient)
    return (time.perf_counter() - began_s) / repeats


def synchronise(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--long", action="store_true", help="more batch sizes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
