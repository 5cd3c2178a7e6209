"""Ranks that die anywhere, through the whole of jetmae and DeepSpeed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.kills import PHASES
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_forty_kills_lose_nothing_that_was_committed_and_change_no_bit(sample, tmp_path):
    toll = strike(sample, tmp_path, kills=40, seed=2)
    assert sum(toll.values()) >= 40
    assert len(toll) >= 15


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_five_hundred_kills_at_every_named_phase(sample, tmp_path):
    toll = strike(sample, tmp_path, kills=500, seed=1)
    assert sum(toll.values()) >= 500
    assert set(PHASES) <= set(toll)


def strike(sample: Path, folder: Path, *, kills: int, seed: int) -> dict[str, int]:
    """The command in a process of its own, which forks; returns how often a rank died in each phase."""
    words = ("kill", "--data", sample, "--folder", folder, "--kills", kills, "--seed", seed)
    command = [sys.executable, "-m", "tests.chaos", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=environment, check=False)
    print(finished.stdout)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "\n0 violations" in finished.stdout
    return {phase: int(count) for count, phase in re.findall(r"^ +(\d+)  (.+)$", finished.stdout, re.MULTILINE)}
