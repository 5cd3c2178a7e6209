"""How a rank leaves: with its code, its words, and no more."""

import subprocess
import sys

import pytest

from jetmae.errors import EXIT_BAD_CONFIG, EXIT_STOPPED

RANK = """
import atexit, sys
from jetmae.errors import JetmaeError, exit_with_one_line, leave_at_once

def main():
    print("work is done", end="")
    {ending}

atexit.register(print, "the interpreter is taken apart")
exit_with_one_line(main, leave=leave_at_once)
"""


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        (f"return {EXIT_STOPPED}", EXIT_STOPPED, ""),
        ("return None", 0, ""),
        ("raise JetmaeError('no such shard')", EXIT_BAD_CONFIG, "error: no such shard\n"),
    ],
)
def test_a_rank_leaves_with_its_code_and_words_before_the_interpreter_is_taken_apart(ending, code, said):
    finished = subprocess.run([sys.executable, "-c", RANK.format(ending=ending)], capture_output=True, text=True)
    assert (finished.returncode, finished.stdout, finished.stderr) == (code, "work is done", said)
