"""Everything here needs a GPU, and is skipped only where torch finds none."""

from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"))
