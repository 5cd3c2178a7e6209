"""Checkpoints whose bytes have changed on the disk."""

import pytest

from tests.chaos.corruption import corrupt


@pytest.mark.slow
def test_five_thousand_corruptions_are_found_out_and_the_right_checkpoint_is_loaded():
    tally = corrupt(seed=0)
    print(tally)
    assert tally.violations == []
    assert tally.total >= 5_000
