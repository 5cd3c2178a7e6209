"""Two ranks of a module other than jetmae.rank: runs with a fault planted in them, and proofs that need many runs."""

import os
import subprocess
import sys
from dataclasses import dataclass

from jetmae.launch.local_processes import local_rank_environment
from tests.conftest import PROJECT


@dataclass(frozen=True)
class Ended:
    code: int
    output: str


def run_two_ranks(module: str, *words: object, **environment: str) -> list[Ended]:
    """`python -m MODULE words...` as both ranks of one start."""
    command = [sys.executable, "-m", module, *map(str, words)]
    token = os.urandom(4).hex()
    ranks = [
        subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         env={**local_rank_environment(rank, 2, token), "OMP_NUM_THREADS": "1", **environment})
        for rank in range(2)
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=400)[0] for rank in ranks]
    return [Ended(rank.returncode, output) for rank, output in zip(ranks, outputs, strict=True)]
