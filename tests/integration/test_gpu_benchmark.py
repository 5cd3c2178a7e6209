"""The benchmark for one GPU, in its small form for a CPU: so that nobody finds its mistakes on a rented machine."""

import os
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

pytestmark = pytest.mark.slow


def test_all_parts_run_and_print_their_tables(tmp_path):
    finished = subprocess.run(
        ["sh", PROJECT / "benchmarks" / "gpu_all.sh", "-", "cpu"],
        capture_output=True, text=True, timeout=550,
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    killed = next(line for line in finished.stdout.splitlines() if "repeatable kernels: killed" in line)
    assert killed.split()[-2:] == ["equal", "equal"]
    assert "bf16 ZeRO 2    yes" in finished.stdout
    assert "ratio" in (tmp_path / "step.log").read_text()
    assert "written out" in (tmp_path / "attention.log").read_text()
